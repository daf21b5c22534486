"""I3D on a clip beside PyTorch's with the same weights, part by part, and the bound of this machine.

Run:     python benchmarks/i3d.py              a minute on 2 CPU cores
         python benchmarks/i3d.py --cores 1    on one of them: the time of a busy machine is then that of the processor

The peer is the network as the common port writes it, convolutions of oneDNN, and batch normalisation on its own;
`peer, tuned` has channels last and batch normalisation folded, the fastest that PyTorch offers here. Times are
processor seconds, medians of interleaved runs; the wall clock is printed for the whole. The bound is FLOPs at the rate
of a large matrix product, that of JAX or PyTorch, whichever is faster: a direct convolution is hardly below it.

As single operations XLA on CPUs makes a convolution over three axes at half that rate, the first layer at an eighth,
and a maximum over 3 x 3 x 3 takes 7 to 20 times as long as axis by axis; hence `casejax/features/convolutions.py`.
The first layer stays the slow one: matrix products with its 64 columns run at 40 to 50 GFLOP/s, before patches are
gathered. Winograd's F(4 x 4, 3 x 3), also with F(2, 3) over time, does a fourth to a sixth of the products, but its
products and transforms are bound by memory: 55 to 95 GFLOP/s in direct terms on the large maps, for ten times the
error and the time to compile.

Last printout, on a machine busy with other work:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, flax 0.12.8, torch 2.13.0+cpu, 1 used
    16 frames of 224 x 224; large matrix products run at 56 GFLOP/s
                     GFLOP      peer  peer, tuned      ours  GFLOP/s  ratio  tuned    bound
    7x7x7, stride 2  13.22    215 ms       227 ms    399 ms       33  0.54x  0.57x   235 ms
    1x1x1, 3x3x3     16.85    270 ms       267 ms    285 ms       59  0.95x  0.94x   300 ms
    Mixed_3          15.33    543 ms       469 ms    363 ms       42  1.50x  1.29x   273 ms
    Mixed_4           9.24    353 ms       340 ms    196 ms       47  1.80x  1.73x   165 ms
    Mixed_5           0.93   46.1 ms      46.7 ms   34.5 ms       27  1.34x  1.36x  16.6 ms
    whole network    55.58  1,598 ms     1,496 ms  1,363 ms       41  1.17x  1.10x   990 ms
    wall clock of the whole: ours 1,484 ms, peer 1,685 ms, tuned 1,654 ms
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NUM_FRAMES, SIZE = 16, 224


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cores", type=int, help="cores to use; default all")
    parser.add_argument("--frames", type=int, default=NUM_FRAMES)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.cores:  # before JAX and PyTorch count them
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    cores = len(os.sched_getaffinity(0))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
    compare(cores, options.frames, options.repeats)


def compare(cores: int, num_frames: int, repeats: int) -> None:
    """Time both networks and their parts."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    from flax import nnx
    from measure import machine, milliseconds, print_table
    from torch_i3d import INCEPTION, random_model

    from casejax.features import I3D, i3d_features

    torch.set_num_threads(cores)
    print(machine("flax", "torch") + (f", {cores} used" if cores != os.cpu_count() else ""))
    model = random_model()
    graphdef, params = nnx.split(I3D(weights_of(model)))
    tuned = fold(random_model()).to(memory_format=torch.channels_last_3d)
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, size=(1, num_frames, SIZE, SIZE, 3), dtype=np.uint8)

    def part(function: Callable[[Any, Any], Any], x: np.ndarray) -> Callable[[], Any]:
        ours, value = jax.jit(lambda params, x: function(nnx.merge(graphdef, params), x)), jnp.asarray(x)
        return lambda: ours(params, value)

    def peer(function: Callable[[Any, Any], Any], network: Any, x: np.ndarray) -> Callable[[], Any]:
        value = torch.from_numpy(np.array(x, np.float32)).permute(0, 4, 1, 2, 3).contiguous()
        if network is tuned:
            value = value.contiguous(memory_format=torch.channels_last_3d)

        def run() -> Any:
            with torch.inference_mode():
                return function(network, value)

        return run

    def mixed(number: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
        names = [name for name in INCEPTION if name.startswith(number)]

        def ours(network: Any, x: Any) -> Any:
            for name, module in zip(INCEPTION, network.mixed, strict=True):
                x = module(x) if name in names else x
            return x

        def theirs(network: Any, x: Any) -> Any:
            for name in names:
                x = getattr(network, f"Mixed_{name}")(x)
            return x

        return ours, theirs

    half, quarter, eighth = (-(-num_frames // n) for n in (2, 4, 8))
    shapes = {"2": (half, 56, 64), "3": (half, 28, 192), "4": (quarter, 14, 480), "5": (eighth, 7, 832)}
    inputs = {name: rng.random((1, t, side, side, c), np.float32) for name, (t, side, c) in shapes.items()}
    scaled = clip / np.float32(127.5) - 1
    parts = {
        "7x7x7, stride 2": (lambda n, x: n.stem(x, stride=2), lambda n, x: n.Conv3d_1a_7x7(x), scaled),
        "1x1x1, 3x3x3": (
            lambda n, x: n.conv(n.reduce(x)),
            lambda n, x: n.Conv3d_2c_3x3(n.Conv3d_2b_1x1(x)),
            inputs["2"],
        ),
        **{f"Mixed_{n}": (*mixed(n), inputs[n]) for n in "345"},
    }
    rows = []
    rate = matmul_rate()
    work = flops(num_frames)
    for name, (ours, theirs, x) in parts.items():
        runs = {"ours": part(ours, x), "peer": peer(theirs, model, x), "tuned": peer(theirs, tuned, x)}
        got, want = runs["ours"](), runs["peer"]().permute(0, 2, 3, 4, 1)
        assert np.abs(got - want.numpy()).max() < 1e-4 * want.abs().max(), name
        rows.append(row(name, work[name], processor_medians(runs, repeats)[0], rate))
    pixels = jnp.asarray(clip)
    runs = {
        "ours": lambda: i3d_features(graphdef, params, pixels),
        "peer": peer(lambda n, x: n(x)[0], model, scaled),
        "tuned": peer(lambda n, x: n(x)[0], tuned, scaled),
    }
    got, want = runs["ours"](), runs["peer"]().numpy()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    totals, wall = processor_medians(runs, repeats)
    rows.append(row("whole network", sum(work.values()), totals, rate))
    print(f"{num_frames} frames of {SIZE} x {SIZE}; large matrix products run at {rate:.0f} GFLOP/s")
    print_table(["", "GFLOP", "peer", "peer, tuned", "ours", "GFLOP/s", "ratio", "tuned", "bound"], rows)
    print("wall clock of the whole: " + ", ".join(f"{name} {milliseconds(value)}" for name, value in wall.items()))


def row(name: str, work: float, times: Mapping[str, float], rate: float) -> list[str]:
    """A row of the table."""
    from measure import milliseconds

    ours = times["ours"]
    return [
        name,
        f"{work:.2f}",
        *(milliseconds(times[key]) for key in ("peer", "tuned", "ours")),
        f"{work / ours:.0f}",
        f"{times['peer'] / ours:.2f}x",
        f"{times['tuned'] / ours:.2f}x",
        milliseconds(work / rate),
    ]


def processor_medians(runs: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of the processor, and of the wall clock, of runs that take turns; each once before, untimed."""
    import jax

    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            since = time.process_time(), time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                taken[name].append((time.process_time() - since[0], time.perf_counter() - since[1]))
    processor, wall = ({name: statistics.median(t[i] for t in times) for name, times in taken.items()} for i in (0, 1))
    return processor, wall


def matmul_rate() -> float:
    """GFLOP a processor second of a product of 2048 x 1024 and 1024 x 1024, the faster of JAX and PyTorch."""
    import jax
    import jax.numpy as jnp
    import torch

    a, b = jnp.ones((2048, 1024)), jnp.ones((1024, 1024))
    left, right = torch.ones(2048, 1024), torch.ones(1024, 1024)
    product = jax.jit(jnp.matmul)
    taken, _ = processor_medians({"jax": lambda: product(a, b), "torch": lambda: left @ right}, 20)
    return 2 * 2048 * 1024**2 / 1e9 / min(taken.values())


def flops(num_frames: int) -> dict[str, float]:
    """GFLOP of every part: two for a product and its sum."""
    from casejax.features.i3d import LOGITS, layer_shapes

    positions = {
        "7x7x7, stride 2": -(-num_frames // 2) * 112**2,
        "1x1x1, 3x3x3": -(-num_frames // 2) * 56**2,
        "Mixed_3": -(-num_frames // 2) * 28**2,
        "Mixed_4": -(-num_frames // 4) * 14**2,
        "Mixed_5": -(-num_frames // 8) * 7**2,
    }
    work = dict.fromkeys(positions, 0.0)
    for layer, (t, h, w, c, k) in layer_shapes(3).items():
        if layer == LOGITS:
            continue
        name = {"Conv3d_1": "7x7x7, stride 2", "Conv3d_2": "1x1x1, 3x3x3"}.get(layer[:8], layer[:7])
        work[name] += 2e-9 * positions[name] * t * h * w * c * k
    return work


def weights_of(model: Any) -> dict[str, Any]:
    """Our weights from those of a PyTorch model, by way of a file."""
    import tempfile

    from casejax.data import write_torch
    from casejax.features import read_i3d_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        write_torch(path, {name: value.numpy() for name, value in model.state_dict().items()})
        return read_i3d_weights(path)


def fold(model: Any) -> Any:
    """A PyTorch model with its batch normalisation in its convolutions."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for unit in model.modules():
        if hasattr(unit, "bn"):
            unit.conv3d, unit.bn = fuse_conv_bn_eval(unit.conv3d, unit.bn), torch.nn.Identity()
    return model


if __name__ == "__main__":
    main()
