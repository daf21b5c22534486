"""Smooth and soft DTW, value and gradient: ours against Numba, tslearn, OTT-JAX and PyTorch.

Run:     python benchmarks/alignment.py                 everything, a few minutes; peers by pip install -e ".[bench]"
         python benchmarks/alignment.py soft band --quick    some parts, small sizes

Every peer's values and gradients are compared with ours, and ours with float64, before anything is timed. "Numba" and
"PyTorch" are what is written below: two loops over cells, in parallel over the batch; and a tensor operation for each
anti-diagonal under autograd. OTT takes sequences alone, no costs. Compile times stand apart; times are medians of runs
that take turns.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, numba 0.68.1, tslearn 0.10.0, torch 2.13.0+cpu, ott-jax 0.6.0
    value and gradient            ours  compile
    smooth DTW, 6 x 20 x 20   0.573 ms    1.8 s
    GTA's loss, 4 x 20 x 128   1.13 ms    3.5 s
    8 x 400 x 400, cost given: values and gradients differ from float64 by: ours 6e-07, 1e-04; Numba 8e-07, 6e-04;
      tslearn 3e-07, 4e-04; PyTorch 2e-06, 6e-04
    8 x 400 x 400, from 128 numbers: values and gradients differ from float64 by: ours 7e-07, 4e-04; tslearn
      8e-07, 5e-03; OTT 4e-06, 4e-04; PyTorch 7e-07, 5e-03
    2 x 2000 x 2000, cost given: values and gradients differ from float64 by: ours 8e-07, 3e-04; Numba 8e-07,
      2e-03; tslearn 2e-07, 3e-03
    value and gradient                  ours    Numba         tslearn            OTT         PyTorch         compile
    8 x 400 x 400, cost given        35.8 ms  40.1 ms  1.1x   70.1 ms   2.0x       -          972 ms  27.2x    1.4 s
    8 x 400 x 400, from 128 numbers  43.7 ms        -        1,777 ms  40.7x  181 ms  4.1x  1,266 ms  29.0x    1.2 s
    2 x 2000 x 2000, cost given       303 ms   254 ms  0.8x    448 ms   1.5x       -               -           1.8 s
"""

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, medians, milliseconds, print_table, seconds

from casejax.alignment import dtw, gta_loss, min_gamma, smooth_min, squared_distance

GAMMA = 0.1
PACKAGES = {"numba": "numba", "tslearn": "tslearn", "torch": "torch", "ott": "ott-jax"}


def has(module: str) -> bool:
    """Whether a peer is there."""
    return find_spec(module) is not None


@jax.jit
def of_cost(cost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Soft-DTW of given costs and its gradient."""
    value, pullback = jax.vjp(lambda c: dtw(c, minimum=min_gamma, gamma=GAMMA), cost)
    return value, pullback(jnp.ones_like(value))[0]


@jax.jit
def of_sequences(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Soft-DTW of squared distances and its gradient in x."""
    value, pullback = jax.vjp(lambda x: dtw(squared_distance(x, y), minimum=min_gamma, gamma=GAMMA), x)
    return value, pullback(jnp.ones_like(value))[0]


def numba_soft_dtw() -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What a Numba user writes: a loop over cells there, one back, over pairs in parallel."""
    import numba

    @numba.njit(parallel=True)
    def both(cost, gamma, table, gradient):
        batch, n, m = cost.shape
        for b in numba.prange(batch):
            r, e, c = table[b], gradient[b], cost[b]
            r[0, 1:] = np.inf
            r[1:, 0] = np.inf
            r[0, 0] = 0
            for i in range(1, n + 1):
                for j in range(1, m + 1):
                    left, diagonal, up = r[i, j - 1], r[i - 1, j - 1], r[i - 1, j]
                    least = min(left, diagonal, up)
                    total = np.exp((least - left) / gamma) + np.exp((least - diagonal) / gamma)
                    total += np.exp((least - up) / gamma)
                    r[i, j] = c[i - 1, j - 1] + least - gamma * np.log(total)
            e[n - 1, m - 1] = 1
            for i in range(n - 1, -1, -1):
                for j in range(m - 1, -1, -1):
                    # r[i + 1, j + 1] is the cell (i, j), reached from what it hands its gradient to
                    reached = r[i + 1, j + 1] - c[i, j]
                    if j:
                        e[i, j - 1] += e[i, j] * np.exp((reached - r[i + 1, j]) / gamma)
                    if i and j:
                        e[i - 1, j - 1] += e[i, j] * np.exp((reached - r[i, j]) / gamma)
                    if i:
                        e[i - 1, j] += e[i, j] * np.exp((reached - r[i, j + 1]) / gamma)

    def run(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch, n, m = cost.shape
        table, gradient = np.empty((batch, n + 1, m + 1), cost.dtype), np.zeros_like(cost)
        both(cost, cost.dtype.type(GAMMA), table, gradient)
        return table[:, -1, -1], gradient

    return run


def torch_soft_dtw(cost):
    """What a PyTorch user writes: anti-diagonals of a skewed cost, autograd for the rest."""
    import torch

    batch, n, m = cost.shape
    skewed = torch.nn.functional.pad(cost, (0, n), value=float("inf")).reshape(batch, -1)[:, :-n]
    skewed = skewed.reshape(batch, n, n + m - 1)
    border = cost.new_full((batch, 1), float("inf"))
    before = last = cost.new_full((batch, n + 1), 1e30)
    before = torch.cat([cost.new_zeros(batch, 1), before[:, 1:]], 1)
    for t in range(n + m - 1):
        entries = torch.stack([last[:, 1:], before[:, :-1], last[:, :-1]], -1)
        here = skewed[:, :, t] - GAMMA * torch.logsumexp(-entries / GAMMA, -1)
        before, last = last, torch.cat([border, here], 1).clamp(max=1e30)
    return last[:, -1]


def torch_runs(host: np.ndarray, other: np.ndarray | None = None) -> Callable[[], tuple]:
    """Value and gradient by PyTorch, of costs or of two batches of sequences."""
    import torch

    x = torch.from_numpy(host).requires_grad_()
    y = None if other is None else torch.from_numpy(other)

    def run() -> tuple:
        x.grad = None
        value = torch_soft_dtw(x if y is None else torch.cdist(x, y) ** 2)
        value.sum().backward()
        return value.detach().numpy(), x.grad.numpy()

    return run


def tslearn_runs(host: np.ndarray, other: np.ndarray | None = None) -> Callable[[], tuple]:
    """Value and gradient by tslearn's loss for PyTorch, of costs or of two batches of sequences."""
    import torch
    from tslearn.metrics import SoftDTWLossPyTorch

    x = torch.from_numpy(host).requires_grad_()
    if other is None:
        loss, y = SoftDTWLossPyTorch(gamma=GAMMA, dist_func=lambda cost, _: 1 * cost), x.detach()
    else:
        loss, y = SoftDTWLossPyTorch(gamma=GAMMA), torch.from_numpy(other)

    def run() -> tuple:
        x.grad = None
        value = loss(x, y)
        value.sum().backward()
        return value.detach().numpy().ravel(), x.grad.numpy()

    return run


def ott_of_sequences(x: jax.Array, y: jax.Array) -> Callable[[], tuple]:
    """OTT's SoftDTW, one pair vmapped."""
    from ott.geometry.costs import SoftDTW

    cost = SoftDTW(gamma=GAMMA)
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda x, y: cost(x, y))))
    return lambda: run(x, y)


def check(name: str, theirs: tuple, ours: tuple, tolerance: float) -> str:
    """Stop where values or gradients differ; differences are relative to the largest number."""
    found = []
    for a, b in zip(theirs, ours, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        found.append(float(np.abs(a - b).max() / np.abs(b).max()))
        assert found[-1] < tolerance, f"{name} differs by {found[-1]:.2g}, bound {tolerance:g}"
    return f"{name} {found[0]:.0e}, {found[1]:.0e}"


def exact(function: Callable, *hosts: np.ndarray) -> tuple:
    """Ours in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*(jnp.asarray(host.astype(np.float64)) for host in hosts)))


def compare(name: str, ours: Callable, peers: dict[str, Callable], want: tuple, repeats: int) -> list[str]:
    """Check all, then time all; a row of the table."""
    first = seconds(ours)
    agreement = [check("ours", ours(), want, 1e-3)]
    agreement += [check(peer, run(), want, 1e-2) for peer, run in peers.items()]
    took = medians({"ours": ours, **peers}, repeats=repeats)
    print(f"{name}: values and gradients differ from float64 by: {'; '.join(agreement)}")
    row = [name, milliseconds(took["ours"])]
    for peer in ("Numba", "tslearn", "OTT", "PyTorch"):
        row += [milliseconds(took[peer]), f"{took[peer] / took['ours']:.1f}x"] if peer in took else ["-", ""]
    return [*row, f"{first - took['ours']:.1f} s"]


def soft(batch: int, length: int, dim: int | None, repeats: int) -> list[str]:
    """Soft-DTW of given costs, or of sequences of `dim` numbers a frame."""
    rng = np.random.default_rng(0)
    name, peers = f"{batch} x {length} x {length}", {}
    if dim is None:
        host = rng.random((batch, length, length), np.float32)
        cost = jnp.asarray(host)
        if has("numba"):
            loops = numba_soft_dtw()
            peers["Numba"] = lambda: loops(host)
        if has("tslearn") and has("torch"):
            peers["tslearn"] = tslearn_runs(host)
        if has("torch") and length < 1000:  # beyond, a call takes a minute
            peers["PyTorch"] = torch_runs(host)
        return compare(f"{name}, cost given", lambda: of_cost(cost), peers, exact(of_cost, host), repeats)
    x, y = (rng.normal(size=(batch, length, dim)).astype(np.float32) for _ in range(2))
    x, y = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
    device = jnp.asarray(x), jnp.asarray(y)
    if has("tslearn") and has("torch"):
        peers["tslearn"] = tslearn_runs(x, y)
    if has("ott"):
        peers["OTT"] = ott_of_sequences(*device)
    if has("torch"):
        peers["PyTorch"] = torch_runs(x, y)
    want = exact(of_sequences, x, y)
    return compare(f"{name}, from {dim} numbers", lambda: of_sequences(*device), peers, want, repeats)


def smooth(repeats: int) -> None:
    """The tables of GTA's loss: a batch of 4 videos, 20 frames, 3 pairs both ways."""
    rng = np.random.default_rng(0)
    cost = jnp.asarray(rng.random((6, 20, 20), np.float32))
    frames = rng.normal(size=(4, 20, 128)).astype(np.float32)
    frames = jnp.asarray(frames / np.linalg.norm(frames, axis=-1, keepdims=True))

    @jax.jit
    def tables(cost: jax.Array) -> tuple:
        return jax.value_and_grad(lambda c: dtw(c, minimum=smooth_min, gamma=GAMMA).sum())(cost)

    whole = jax.jit(jax.value_and_grad(lambda e: gta_loss(e).mean()))
    runs = {"smooth DTW, 6 x 20 x 20": lambda: tables(cost), "GTA's loss, 4 x 20 x 128": lambda: whole(frames)}
    first = {name: seconds(run) for name, run in runs.items()}
    took = medians(runs, repeats=repeats)
    rows = [(name, milliseconds(took[name]), f"{first[name] - took[name]:.1f} s") for name in runs]
    print_table(("value and gradient", "ours", "compile"), rows)


def banded(batch: int, length: int, bands: tuple[int, ...], repeats: int) -> None:
    """Soft-DTW within bands beside the whole table."""
    cost = jnp.asarray(np.random.default_rng(0).random((batch, length, length), np.float32))
    values, gradients = {}, {}
    for band in (None, *bands):
        value = jax.jit(lambda c, band=band: dtw(c, gamma=GAMMA, band=band).sum())
        name, gradient = "whole" if band is None else f"band {band}", jax.jit(jax.grad(value))
        values[name] = lambda value=value: value(cost)
        gradients[name] = lambda gradient=gradient: gradient(cost)
    of_values, of_gradients = medians(values, repeats=repeats), medians(gradients, repeats=repeats)
    rows = [(name, milliseconds(of_values[name]), milliseconds(of_gradients[name])) for name in values]
    print_table((f"soft-DTW, {batch} x {length} x {length}", "value", "gradient"), rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["smooth", "soft", "band"]
    parser.add_argument("parts", nargs="*", default=parts, help=f"which of {', '.join(parts)}; default all")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    sys.stdout.reconfigure(line_buffering=True)
    print(machine(*(package for module, package in PACKAGES.items() if has(module))))
    for module, package in PACKAGES.items():
        if not has(module):
            print(f"{package} is not installed: pip install {package}")
    if "smooth" in arguments.parts:
        smooth(20 if arguments.quick else 200)
    if "band" in arguments.parts:
        banded(*((2, 40, (5,), 3) if arguments.quick else (8, 400, (20, 40, 100), 9)))
    if "soft" in arguments.parts:
        sizes = [(8, 400, None, 9), (8, 400, 128, 5), (2, 2000, None, 3)]
        if arguments.quick:
            sizes = [(2, 40, None, 3), (2, 40, 16, 3)]
        rows = [soft(*size) for size in sizes]
        head = ["value and gradient", "ours", "Numba", "", "tslearn", "", "OTT", "", "PyTorch", "", "compile"]
        print_table(head, rows)


if __name__ == "__main__":
    main()
