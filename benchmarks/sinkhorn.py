"""Sinkhorn iterations per second, beside exp-domain PyTorch, OTT-JAX and POT, and the memory that they take.

Run:     python benchmarks/sinkhorn.py                                  everything, about three minutes
         python benchmarks/sinkhorn.py truncated --rows 12000 200000 --columns 16
         python benchmarks/sinkhorn.py converged ragged far gradients compile relaxed memory

Scores lie within ±1 and epsilon is 1/20, as CASE has them; half of a score is a preference common to all rows. Before
a time is printed, plans are compared entry by entry. `ours` is all that `ot.sinkhorn` returns, marginal errors included
and without an outer jit; PyTorch works in place, without a guard against overflow. The bound, with its name, is the
greatest of the bytes that must pass at the rate at which all cores copy arrays of that size, one exponential for each
score, and one empty dispatch. Bytes are those of whole-array passes: the range of the scores, the kernel written, two
reads an iteration, the marginal error, the plan. `first` is what the first call takes longer, compilation for the most.
A `+` after an iteration count: in float32 that peer had not met its tolerance after five times our iterations.

Last printout, of a virtual machine whose speed changes by a factor of 2.5, within a run too (ratios are of neighbours
in time):

    AMD EPYC, 2 cores, cpu, jax 0.10.2, torch 2.13.0+cpu, ott-jax 0.6.0, POT 0.9.7.post1
    3 iterations
    rows x columns       ours   PyTorch         OTT lse        OTT kernel           bound                  first
    1,000 x 16       0.395 ms  0.266 ms  0.7x  0.396 ms  1.0x    0.297 ms  0.8x  0.168 ms  dispatch   43%  1.4 s
    12,000 x 16        1.4 ms   1.19 ms  0.9x    3.1 ms  2.2x     2.71 ms  1.9x  0.229 ms     bytes   16%  0.9 s
    200,000 x 16      26.5 ms   68.2 ms  2.6x   86.1 ms  3.3x      145 ms  5.5x     14 ms     bytes   53%  1.1 s
    1,000,000 x 16     142 ms    170 ms  1.2x    287 ms  2.0x      477 ms  3.4x   45.3 ms     bytes   32%  1.6 s
    10,000,000 x 16  1,369 ms  2,125 ms  1.6x         -                 -          329 ms     bytes   24%  2.4 s
    1,000 x 128       1.51 ms    1.1 ms  0.7x   2.06 ms  1.4x     2.65 ms  1.8x   1.69 ms     bytes  112%  1.5 s
    12,000 x 128      8.92 ms     16 ms  1.8x   30.3 ms  3.4x     38.1 ms  4.3x   2.35 ms     bytes   26%  1.7 s
    200,000 x 128      254 ms    277 ms  1.1x    593 ms  2.3x    1,302 ms  5.1x   65.1 ms     bytes   26%  1.6 s
    1,000,000 x 128    959 ms    908 ms  0.9x         -                 -          230 ms     bytes   24%  2.2 s

    to 1e-06
    rows x columns     ours  OTT lse         OTT kernel          POT log             bound                   iterations
    1,000 x 16         1 ms  1.85 ms   1.8x     1.23 ms   1.2x     27 ms   26.9x  0.257 ms  dispatch   26%   7/20/20/20
    12,000 x 16        2 ms  13.7 ms   6.9x     29.9 ms  15.0x    449 ms  224.8x  0.365 ms     bytes   18% 5/20/50+/44+
    200,000 x 16    23.7 ms   449 ms  18.9x      848 ms  35.8x  7,144 ms  301.2x   29.1 ms     bytes  123% 4/20/40+/39+
    1,000 x 128     2.05 ms   6.3 ms   3.1x     6.79 ms   3.3x   40.8 ms   19.9x   1.78 ms     bytes   87%   5/10/10/10
    12,000 x 128    6.42 ms  29.5 ms   4.6x      240 ms  37.4x    498 ms   77.5x   2.02 ms     bytes   32%  4/10/40+/10

    64 problems of 50 to 750 rows x 16, 3 iterations
              ours  PyTorch, a loop        OTT lse, vmap           bound              first
    batch  4.38 ms          14.3 ms  3.3x          16 ms  3.7x  0.888 ms  bytes  20%  2.6 s

    scores to 20 epsilon, and to 30
    rows x columns  3 iterations     to 30        10 iterations     to 30        to 1e-06     to 30
    1,000 x 16          0.253 ms  0.352 ms  1.4x       0.259 ms  0.388 ms  1.5x  0.376 ms  0.476 ms  1.3x
    12,000 x 16         0.767 ms   1.18 ms  1.5x        1.59 ms   2.27 ms  1.4x    1.3 ms   1.85 ms  1.4x
    200,000 x 16         18.8 ms   27.6 ms  1.5x        23.6 ms     33 ms  1.4x   17.8 ms   34.1 ms  1.9x
    1,000 x 128         0.509 ms  0.776 ms  1.5x       0.624 ms  0.843 ms  1.4x  0.762 ms   1.14 ms  1.5x
    12,000 x 128          4.4 ms   8.21 ms  1.9x        5.55 ms   8.97 ms  1.6x   4.91 ms   8.53 ms  1.7x

    a plan, and its gradient
    rows x columns           to 1e-06       3 iterations     50 iterations     3, naive loop
    32 x 6000        1.62 ms, 2.37 ms  0.666 ms, 1.94 ms  2.97 ms, 35.5 ms  1.69 ms, 5.13 ms
    6,000 x 32      0.943 ms, 1.74 ms  0.798 ms, 2.22 ms  2.75 ms, 20.4 ms  1.16 ms, 2.46 ms
    12,000 x 16      0.92 ms, 1.59 ms   1.22 ms, 4.66 ms  3.32 ms, 27.4 ms   1.1 ms, 2.71 ms

    to trace and compile, in a new process each
    1,000 x 16                             seconds
    3 iterations                            0.92 s
    3 iterations, naive loop                0.48 s
    to 1e-06                                2.16 s
    to 1e-06, OTT lse                       1.13 s
    to 1e-06, OTT kernel                    1.44 s
    gradient of 3 iterations                2.02 s
    gradient of 3 iterations, naive loop    0.80 s
    gradient of 20 iterations               1.86 s
    gradient of 20 iterations, naive loop   5.27 s

    both marginals relaxed, 300 x 7, to 1e-06: iterations
    relaxation 100 epsilon: plain 593, ours 36, bool(ours.converged)=True
    relaxation 1000 epsilon: plain 4755, ours 37, bool(ours.converged)=True
    relaxation 5000 epsilon: plain 19741, ours 38, bool(ours.converged)=True

    peak resident memory at 10,000,000 x 16, times the input (input and plan alone: 2)
    ours    2.26
    torch   2.06
    lse     3.20
    kernel  5.07

    sinkhorn_embeddings, 8 numbers a row, 16 columns: peak memory, embeddings included
    1,000,000 rows: 65 bytes a row; the scores alone would take 64
    10,000,000 rows: 64 bytes a row; the scores alone would take 64
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, medians, milliseconds, print_table, seconds

from casejax import ot

EPSILON, PACKAGES = 0.05, {"torch": "torch", "ott": "ott-jax", "ot": "POT"}
WIDTH = 8  # numbers of an embedding


def make_scores(num_rows: int, num_columns: int, spread: float = 0.5) -> np.ndarray:
    """Uniform scores within ±1, a share of each being common to its column."""
    rng = np.random.default_rng(0)
    common = (2 * rng.random(num_columns) - 1).astype(np.float32)
    scores = rng.random((num_rows, num_columns), np.float32)
    scores *= 2 * (1 - spread)
    scores += spread * common - (1 - spread)
    return scores


def exp_domain(scores, num_iters: int = 3):
    """What a PyTorch user writes: the exponential, then columns and rows scaled in place."""
    plan = (scores / EPSILON).exp_()
    for _ in range(num_iters):
        plan *= (len(plan) / plan.shape[1]) / plan.sum(0)
        plan /= plan.sum(1, keepdim=True)
    return plan


def ott_plan(*, lse_mode: bool, **options) -> Callable[..., tuple]:
    """A jitted function from scores and row weights, which sum to 1, to OTT's plan and iterations."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    solver = Sinkhorn(lse_mode=lse_mode, **options)

    def solve(scores: jax.Array, weights: jax.Array | None = None) -> tuple:
        done = solver(LinearProblem(Geometry(cost_matrix=-scores, epsilon=EPSILON), a=weights))
        return done.matrix, done.n_iters

    return jax.jit(solve)


def has(module: str) -> bool:
    """Whether a peer is there."""
    return find_spec(module) is not None


def check(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Stop where two plans differ; row sums are 1."""
    worst = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    assert worst < tolerance, f"{name}: plans differ by {worst:.2g}"


def traffic_bound(num_bytes: float, array_bytes: int) -> float:
    """Seconds to move so many bytes, at the rate of copies of two arrays, or of 1 GB of them, by all cores."""
    size = min(array_bytes, 2**29) // 8
    source, target = np.ones(size), np.zeros(size)
    cores = os.cpu_count() or 1
    pieces = [slice(i * size // cores, (i + 1) * size // cores) for i in range(cores)]
    repeats = max(1, int(3e6 // size))
    with ThreadPoolExecutor(cores) as pool:

        def copy(piece: slice) -> None:
            for _ in range(repeats):
                np.copyto(target[piece], source[piece])

        taken = medians({"copy": lambda: list(pool.map(copy, pieces))}, repeats=5)["copy"] / repeats
    return num_bytes * taken / (16 * size)


def bound(scores: jax.Array, num_iters: int) -> tuple[float, str]:
    """The least time of an iteration count, in seconds, and which of the three bounds it is."""
    empty, exponentials = jax.jit(lambda x: x + 1), jax.jit(jnp.exp)
    some = jnp.zeros(2**18)  # within a cache, so that it is no copy that is timed
    runs = {"dispatch": lambda: empty(jnp.zeros(8)), "exp": lambda: exponentials(some)}
    took = medians(runs, repeats=50)
    took["exp"] = max(0, took["exp"] - took["dispatch"]) * scores.size / some.size
    took["bytes"] = traffic_bound((6 + 2 * num_iters) * scores.nbytes, scores.nbytes)
    which = max(took, key=lambda name: took[name])
    return took[which], which


def against(least: tuple[float, str], ours: float) -> list[str]:
    """A bound, which it is, and its share of our time."""
    return [milliseconds(least[0]), least[1], f"{least[0] / ours:.0%}"]


def times(theirs: float | None, ours: float) -> list[str]:
    """A peer's time and how many times ours it is."""
    return ["-", ""] if theirs is None else [milliseconds(theirs), f"{theirs / ours:.1f}x"]


def truncated(sizes: Sequence[tuple[int, int]]) -> None:
    """Three iterations, the labels of CASE."""
    table = []
    for num_rows, num_columns in sizes:
        host = make_scores(num_rows, num_columns)
        scores = jnp.asarray(host)
        first = seconds(lambda: ot.sinkhorn(scores, epsilon=EPSILON))  # noqa: B023
        runs: dict[str, Callable] = {"ours": lambda: ot.sinkhorn(scores, epsilon=EPSILON)}  # noqa: B023
        plan = runs["ours"]().plan
        small = num_rows * num_columns <= 2**25
        if has("torch"):
            import torch

            tensor = torch.from_numpy(host)
            runs["torch"] = lambda: exp_domain(tensor)  # noqa: B023
            check("PyTorch", plan, runs["torch"](), 1e-5)
        if has("ott") and small:
            for name, lse_mode in (("lse", True), ("kernel", False)):
                solve = ott_plan(
                    lse_mode=lse_mode, threshold=-1.0, min_iterations=3, max_iterations=3, inner_iterations=3
                )
                runs[name] = lambda solve=solve: solve(scores)  # noqa: B023
                check(f"OTT {name}", plan, runs[name]()[0] * num_rows, 5e-5)
        del plan
        took = medians(runs, repeats=int(np.clip(4e8 // host.size, 3, 100)))
        ours, least = took["ours"], bound(scores, 3)
        row = [f"{num_rows:,} x {num_columns}", milliseconds(ours)]
        for name in ("torch", "lse", "kernel"):
            row += times(took.get(name), ours)
        table.append([*row, *against(least, ours), f"{first - ours:.1f} s"])
    print("3 iterations")
    head = ["rows x columns", "ours", "PyTorch", "", "OTT lse", "", "OTT kernel", "", "bound", "", "", "first"]
    print_table(head, table)


def converged(sizes: Sequence[tuple[int, int]], tolerance: float = 1e-6, most: int = 2000) -> None:
    """To a marginal error of 1e-6, as a share of the mass in L1."""
    table = []
    for num_rows, num_columns in sizes:
        host = make_scores(num_rows, num_columns)
        scores = jnp.asarray(host)
        runs: dict[str, Callable] = {
            "ours": lambda: ot.sinkhorn(scores, epsilon=EPSILON, num_iters=most, tolerance=tolerance)  # noqa: B023
        }
        got = runs["ours"]()
        assert bool(got.converged)
        done, cap = [f"{got.iterations}"], 5 * int(got.iterations) + 20  # float32 peers may never get there
        if has("ott"):
            for name, lse_mode in (("lse", True), ("kernel", False)):
                solve = ott_plan(lse_mode=lse_mode, threshold=tolerance, max_iterations=cap)
                runs[name] = lambda solve=solve: solve(scores)  # noqa: B023
                plan, count = runs[name]()
                check(f"OTT {name}", got.plan, plan * num_rows, 1e-3)
                done.append(f"{count}" + "+" * (int(count) >= cap - 1))
        pot_seconds = None
        if has("ot"):
            from ot.bregman import sinkhorn_log

            rows = np.full(num_rows, 1 / num_rows, np.float32)
            columns = np.full(num_columns, 1 / num_columns, np.float32)
            since = time.perf_counter()  # once: it takes the longest by far
            plan, log = sinkhorn_log(
                rows, columns, -host, EPSILON, numItermax=cap, stopThr=tolerance, log=True, warn=False
            )
            pot_seconds = time.perf_counter() - since
            check("POT", got.plan, plan * num_rows, 1e-3)
            done.append(f"{log['niter']}" + "+" * (log["niter"] >= cap - 1))
        took = medians(runs, repeats=int(np.clip(2e7 // host.size, 5, 20)))
        ours, least = took["ours"], bound(scores, int(got.iterations))
        row = [f"{num_rows:,} x {num_columns}", milliseconds(ours)]
        for theirs in (took.get("lse"), took.get("kernel"), pot_seconds):
            row += times(theirs, ours)
        table.append([*row, *against(least, ours), " / ".join(done)])
    print(f"\nto {tolerance:g}")
    head = ["rows x columns", "ours", "OTT lse", "", "OTT kernel", "", "POT log", "", "bound", "", "", "iterations"]
    print_table(head, table)


def ragged(num_problems: int = 64, longest: int = 750, num_columns: int = 16) -> None:
    """Problems of 50 to 750 rows: one masked batch, against a loop and against a batch of weights."""
    lengths = np.random.default_rng(1).integers(50, longest + 1, num_problems)
    host = make_scores(num_problems * longest, num_columns).reshape(num_problems, longest, num_columns)
    mask = np.arange(longest) < lengths[:, None]
    scores, device_mask = jnp.asarray(host), jnp.asarray(mask)
    solve = jax.jit(jax.vmap(lambda s, m: ot.sinkhorn(s, mask=m, epsilon=EPSILON)))
    runs: dict[str, Callable] = {"ours": lambda: solve(scores, device_mask)}
    first = seconds(runs["ours"])
    plan = np.asarray(runs["ours"]().plan)
    if has("torch"):
        import torch

        tensors = [torch.from_numpy(s[:n]) for s, n in zip(host, lengths, strict=True)]
        runs["torch"] = lambda: [exp_domain(tensor) for tensor in tensors]
        for ours, theirs in zip(plan, runs["torch"](), strict=True):
            check("PyTorch", ours[: len(theirs)], theirs, 1e-5)
    if has("ott"):
        weights = jnp.asarray(mask / lengths[:, None], jnp.float32)
        options = {"threshold": -1.0, "min_iterations": 3, "max_iterations": 3, "inner_iterations": 3}
        batch = jax.jit(jax.vmap(ott_plan(lse_mode=True, **options)))
        runs["lse"] = lambda: batch(scores, weights)
        check("OTT lse", plan, runs["lse"]()[0] * lengths[:, None, None], 5e-5)
    took = medians(runs, repeats=30)
    ours, least = took["ours"], bound(scores, 3)
    print(f"\n{num_problems} problems of 50 to {longest} rows x {num_columns}, 3 iterations")
    row = ["batch", milliseconds(ours), *times(took.get("torch"), ours), *times(took.get("lse"), ours)]
    row += [*against(least, ours), f"{first - ours:.1f} s"]
    print_table(["", "ours", "PyTorch, a loop", "", "OTT lse, vmap", "", "bound", "", "", "first"], [row])


def relaxed(num_rows: int = 300, num_columns: int = 7, epsilon: float = 0.2, tolerance: float = 1e-6) -> None:
    """Print iterations with both marginals relaxed, ours beside the plain update in float64."""
    scores = np.random.default_rng(0).normal(size=(num_rows, num_columns))
    rows, columns = np.ones(num_rows), np.full(num_columns, num_rows / num_columns)
    print(f"\nboth marginals relaxed, {num_rows} x {num_columns}, to {tolerance:g}: iterations")
    for share in (100, 1000, 5000):
        kernel, power, plain = np.exp(scores / epsilon), share / (share + 1), 0
        u, error = np.ones(num_rows), np.inf
        while error > tolerance and plain < 50_000:
            v = (columns / (kernel.T @ u)) ** power
            u, plain = (rows / (kernel @ v)) ** power, plain + 1
            sums = kernel.T @ u
            error = np.abs(sums * (v - (columns / sums) ** power)).sum() / (sums @ v)
        ours = ot.sinkhorn(
            jnp.asarray(scores, jnp.float32),
            epsilon=epsilon,
            num_iters=50_000,
            tolerance=tolerance,
            row_relaxation=share * epsilon,
            column_relaxation=share * epsilon,
        )
        check("the plain update", np.asarray(ours.plan), u[:, None] * kernel * v, 1e-4)
        print(f"relaxation {share} epsilon: plain {plain}, ours {int(ours.iterations)}, {bool(ours.converged)=}")


def far(sizes: Sequence[tuple[int, int]]) -> None:
    """Scores beyond 24 epsilon, where the kernel is centred, beside the same within; inside a jit."""
    table = []
    for num_rows, num_columns in sizes:
        scores = jnp.asarray(make_scores(num_rows, num_columns))
        row = [f"{num_rows:,} x {num_columns}"]
        for options in ({}, {"num_iters": 10}, {"num_iters": 2000, "tolerance": 1e-6}):
            solve = jax.jit(lambda s, o=options: ot.sinkhorn(s, epsilon=EPSILON, **o))
            runs = {scale: lambda s=scale * scores: solve(s) for scale in (1.0, 1.5)}  # noqa: B023
            took = medians(runs, repeats=int(np.clip(4e8 // scores.size, 10, 100)))
            row += [milliseconds(took[1.0]), *times(took[1.5], took[1.0])]
        table.append(row)
    print("\nscores to 20 epsilon, and to 30")
    head = ["rows x columns"]
    for each in ("3 iterations", "10 iterations", "to 1e-06"):
        head += [each, "to 30", ""]
    print_table(head, table)


def gradients(sizes: Sequence[tuple[int, int]] = ((32, 6000), (6000, 32), (12_000, 16))) -> None:
    """Plans, and gradients through them, converged and truncated; inside a jit."""
    table = []
    for num_rows, num_columns in sizes:
        scores = jnp.asarray(make_scores(num_rows, num_columns))
        row = [f"{num_rows:,} x {num_columns}"]
        for solve in (_plan(num_iters=2000, tolerance=1e-6), _plan(), _plan(num_iters=50), naive):
            both = jax.jit(solve), jax.jit(_gradient(solve))
            took = medians({i: lambda f=f: f(scores) for i, f in enumerate(both)}, repeats=50)  # noqa: B023
            row += [f"{milliseconds(took[0])}, {milliseconds(took[1])}"]
        table.append(row)
    print("\na plan, and its gradient")
    print_table(["rows x columns", "to 1e-06", "3 iterations", "50 iterations", "3, naive loop"], table)


def naive(scores: jax.Array, num_iters: int = 3) -> jax.Array:
    """What a JAX user writes."""
    plan = jnp.exp(scores / EPSILON)
    for _ in range(num_iters):
        plan = plan * (plan.shape[0] / plan.shape[1] / plan.sum(axis=0))
        plan = plan / plan.sum(axis=1, keepdims=True)
    return plan


def _plan(**options) -> Callable[[jax.Array], jax.Array]:
    return lambda scores: ot.sinkhorn(scores, epsilon=EPSILON, **options).plan


def _gradient(solve: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return jax.grad(lambda scores: (solve(scores) ** 2).sum())


COMPILED: dict[str, Callable[[], Callable]] = {
    "3 iterations": _plan,
    "3 iterations, naive loop": lambda: naive,
    "to 1e-06": lambda: _plan(num_iters=2000, tolerance=1e-6),
    "to 1e-06, OTT lse": lambda: ott_plan(lse_mode=True, threshold=1e-6, max_iterations=2000),
    "to 1e-06, OTT kernel": lambda: ott_plan(lse_mode=False, threshold=1e-6, max_iterations=2000),
    "gradient of 3 iterations": lambda: _gradient(_plan()),
    "gradient of 3 iterations, naive loop": lambda: _gradient(naive),
    "gradient of 20 iterations": lambda: _gradient(_plan(num_iters=20)),
    "gradient of 20 iterations, naive loop": lambda: _gradient(lambda s: naive(s, 20)),
}
"""What is compiled in a process of its own each, from its name."""


def compile_times(repeats: int = 3) -> None:
    """Seconds to trace and compile at 1,000 x 16, least of some processes, nothing of it in a cache."""
    print("\nto trace and compile, in a new process each")
    table = []
    for name in COMPILED:
        if "OTT" in name and not has("ott"):
            continue
        command = [sys.executable, __file__, "compile", "--compile-of", name]
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        took = [
            float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
            for _ in range(repeats)
        ]
        table.append([name, f"{min(took):.2f} s"])
    print_table(["1,000 x 16", "seconds"], table)


def compile_time(name: str) -> float:
    """Seconds to trace and compile what has this name."""
    scores, solve = jnp.asarray(make_scores(1000, 16)), jax.jit(COMPILED[name]())
    jax.block_until_ready(jax.jit(lambda x: x + 1)(scores))  # threads and libraries
    return seconds(lambda: solve.lower(scores).compile() and None)


def memory(num_rows: int, num_columns: int = 16) -> None:
    """Peak resident memory of one call, input included, in sizes of the input; each in a process of its own."""
    print(f"\npeak resident memory at {num_rows:,} x {num_columns}, times the input (input and plan alone: 2)")
    peers = [("ours", "jax"), ("torch", "torch"), ("lse", "ott"), ("kernel", "ott")]
    for name, module in peers:
        if has(module):
            command = [sys.executable, __file__, "memory", "--peak-of", name, str(num_rows), str(num_columns)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            print(f"{name:8s}{output.strip()}")


def many_rows(num_rows: Sequence[int] = (1_000_000, 10_000_000), num_columns: int = 16) -> None:
    """Peak resident memory of scores that are made in parts, in bytes a row; each in a process of its own."""
    print(f"\nsinkhorn_embeddings, {WIDTH} numbers a row, {num_columns} columns: peak memory, embeddings included")
    for rows in num_rows:
        command = [sys.executable, __file__, "memory", "--peak-of", "embeddings", str(rows), str(num_columns)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(
            f"{rows:,} rows: {float(output) * 4 * WIDTH:.0f} bytes a row; the scores alone would take {4 * num_columns}"
        )


def peak_of(name: str, num_rows: int, num_columns: int) -> float:
    """Peak resident memory of this process during one call, input included, over the size of the input."""

    def resident(field: str) -> int:
        with open("/proc/self/status", encoding="utf-8") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))

    def solver(scores: np.ndarray) -> Callable[[], object]:
        if name == "torch":
            import torch

            tensor = torch.from_numpy(scores)
            return lambda: exp_domain(tensor)
        device = jax.block_until_ready(jnp.array(scores))
        if name == "embeddings":
            return lambda: ot.sinkhorn_embeddings(device, make_scores(num_columns, WIDTH), epsilon=EPSILON)
        if name == "ours":
            return lambda: ot.sinkhorn(device, epsilon=EPSILON)
        options = {"threshold": -1.0, "min_iterations": 3, "max_iterations": 3, "inner_iterations": 3}
        solve = ott_plan(lse_mode=name == "lse", **options)
        return lambda: solve(device)

    width = WIDTH if name == "embeddings" else num_columns
    seconds(solver(make_scores(1000, width)))  # threads and libraries
    before = resident("VmRSS")
    host = make_scores(num_rows, width)
    size, run = host.nbytes, solver(host)
    del host
    time.sleep(2)  # pages of the copy that is no longer needed go back after a while
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")  # Linux: the peak starts again from here
    seconds(run)
    return (resident("VmHWM") - before) / size


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["truncated", "converged", "ragged", "far", "gradients", "compile", "relaxed", "memory", "rows"]
    parser.add_argument("parts", nargs="*", default=parts, help=f"which of {', '.join(parts)}; default all")
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 12_000, 200_000, 1_000_000, 10_000_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--largest", type=int, default=160_000_000, help="entries of the largest problem")
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--compile-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if arguments.peak_of:
        name, num_rows, num_columns = arguments.peak_of
        print(f"{peak_of(name, int(num_rows), int(num_columns)):.2f}")
        return
    if arguments.compile_of:
        print(f"{compile_time(arguments.compile_of):.3f}")
        return
    sys.stdout.reconfigure(line_buffering=True)
    print(machine(*(package for module, package in PACKAGES.items() if has(module))))
    for module, package in PACKAGES.items():
        if not has(module):
            print(f'{package} is not installed: pip install -e ".[bench]"')
    sizes = [(n, k) for k in arguments.columns for n in arguments.rows if n * k <= arguments.largest]
    if "truncated" in arguments.parts:
        truncated(sizes)
    if "converged" in arguments.parts:
        converged([(n, k) for n, k in sizes if n * k <= 4_000_000])
    if "ragged" in arguments.parts:
        ragged()
    if "far" in arguments.parts:
        far([(n, k) for n, k in sizes if n * k <= 4_000_000])
    if "gradients" in arguments.parts:
        gradients()
    if "compile" in arguments.parts:
        compile_times()
    if "relaxed" in arguments.parts:
        relaxed()
    if "memory" in arguments.parts:
        memory(max(n for n in arguments.rows if n * 16 <= arguments.largest))
    if "rows" in arguments.parts:
        many_rows()


if __name__ == "__main__":
    main()
