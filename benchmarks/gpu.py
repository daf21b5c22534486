"""Parity and rates on an accelerator: the training step, Sinkhorn and DTW against the card's own ceilings.

Run:     python benchmarks/gpu.py               on the machine with the accelerator; a few minutes
         python benchmarks/gpu.py --quick       small sizes, to see that it runs anywhere

First the same computations on the device and on the host's CPU are compared; no time is printed if they differ. Then
rates, each beside what the device reaches in a product of two matrices and in a copy; DTW, which is bound by the number
of its steps, beside the time of so many empty steps.

Last printout: none from an accelerator. No figure is quoted until there is one.
"""

import argparse
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, medians, milliseconds, print_table

from casejax import ot
from casejax.alignment.soft_min import Minimum, min_gamma, smooth_min
from casejax.alignment.warping import dtw
from casejax.data.sampling import PackedSplit
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.runtime import mesh as placement
from casejax.train.step import make_train_steps

NUM_CLASSES = 20


def make_split(rng: np.random.Generator, videos: int, dim: int, dtype: str) -> PackedSplit:
    """Random features of THUMOS14's lengths, 327 snippets on average, on the host."""
    lengths = rng.integers(100, 560, videos).astype(np.int32)
    total = int(lengths.sum())
    return PackedSplit(
        streams=tuple(rng.random((total, dim), np.float32).astype(jnp.dtype(dtype)) for _ in range(2)),
        offsets=np.cumsum(lengths, dtype=np.int32) - lengths,
        lengths=lengths,
        labels=np.eye(NUM_CLASSES, dtype=np.float32)[np.arange(videos) % NUM_CLASSES],
    )


def parity(rng: np.random.Generator, config: Config, dim: int) -> list[tuple[str, float, float]]:
    """(what, greatest difference, its bound) between the device and the CPU."""
    split = make_split(rng, 2 * config.schedule.batch_size, dim, "float32")
    results = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            mesh = jax.sharding.Mesh(np.array([[device]]), ("data", "model"))
            graphdef, state = initial_state(config, (dim, dim), NUM_CLASSES)
            everywhere = placement.replicated(mesh)
            state, here = jax.device_put((state, split), everywhere)
            state, metrics = make_train_steps(graphdef, config, mesh)(state, here, jnp.int32(3))
            results.append(jax.device_get((metrics["loss"], state.cluster_labels, state.params)))
    (loss, labels, params), (cpu_loss, cpu_labels, cpu_params) = results
    moved = max(float(np.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (params, cpu_params)), strict=True))
    found = [
        ("three steps: loss, relative", float(abs(loss - cpu_loss) / abs(cpu_loss)), 1e-4),
        ("three steps: Q^C", float(np.abs(labels - cpu_labels).max()), 1e-3),
        # Adam's first steps are of the learning rate's size whatever the gradient's: a sign may flip near 0
        ("three steps: parameters, in learning rates", moved / config.schedule.learning_rate, 6.0),
    ]
    for reach in (20.0, 1e3):
        scores = rng.uniform(-reach, reach, (4000, 16)).astype(np.float32)
        plan = np.asarray(ot.sinkhorn(scores, epsilon=1.0).plan)
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            want = np.asarray(ot.sinkhorn(scores.astype(np.float64), epsilon=1.0).plan)
        kept = want > 1e-30
        error = float((np.abs(plan - want)[kept] / want[kept]).max())
        found.append((f"Sinkhorn, scores within {reach:g} epsilon, relative", error, 2e-5))
    cost = rng.random((4, 100, 80), np.float32)
    for minimum in (smooth_min, min_gamma):
        got = [np.asarray(x) for x in warp(minimum)(cost)]
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            want = [np.asarray(x) for x in warp(minimum)(cost.astype(np.float64))]
        worst = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(got, want, strict=True)]
        found.append((f"DTW, {minimum.__name__}: value, relative", worst[0], 1e-5))
        found.append((f"DTW, {minimum.__name__}: gradient", worst[1], 1e-3))
    return found


def warp(minimum: Minimum) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """DTW and its gradient in the cost."""

    def run(cost: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, pullback = jax.vjp(lambda c: dtw(c, minimum=minimum), cost)
        return value, pullback(jnp.ones_like(value))[0]

    return jax.jit(run)


def warping(sizes: tuple[tuple[int, int], ...]) -> list[tuple[str, str, str, str]]:
    """Times of DTW, of its value alone, and of loops that do next to nothing in as many steps."""
    rows = []
    for batch, length in sizes:
        cost = jax.random.uniform(jax.random.key(2), (batch, length, length))
        steps = 2 * (2 * length - 1)
        empty = jax.jit(lambda x, n=steps: jax.lax.fori_loop(0, n, lambda _, x: x * 0.5 + 1, x))
        value = jax.jit(lambda c: dtw(c, minimum=smooth_min))
        gradient, start = warp(smooth_min), cost[:, 0]
        runs = {"gradient": lambda: gradient(cost), "value": lambda: value(cost), "empty": lambda: empty(start)}  # noqa: B023
        times = medians(runs, repeats=9)
        name = f"{batch} x {length} x {length}"
        rows.append((name, *(milliseconds(times[key]) for key in ("value", "gradient", "empty"))))
    return rows


def ceilings(size: int) -> dict[str, float]:
    """Products in float32, in JAX's default precision and in bfloat16, FLOP/s; and a copy, bytes/s."""
    keys = jax.random.split(jax.random.key(0))
    full = [jax.random.normal(key, (size, size)) for key in keys]
    half = [x.astype(jnp.bfloat16) for x in full]
    long = jnp.zeros(4 * size * size, jnp.float32)
    runs = {
        "float32": (jax.jit(lambda a, b: jnp.dot(a, b, precision="highest")), full),
        "default": (jax.jit(jnp.dot), full),
        "bfloat16": (jax.jit(jnp.dot), half),
        "copy": (jax.jit(lambda x: x + 1), [long]),
    }
    times = medians({name: lambda f=f, x=x: f(*x) for name, (f, x) in runs.items()}, repeats=7)
    return {name: (2 * long.nbytes if name == "copy" else 2 * size**3) / seconds for name, seconds in times.items()}


def training(rng: np.random.Generator, config: Config, dim: int, videos: int, steps: int) -> dict[str, float]:
    """Seconds a step, by the type of encoders and features."""
    mesh, times = placement.make_mesh(1), {}
    for encoders, features in (("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")):
        own = config.changed(encoder_dtype=encoders)
        graphdef, state = initial_state(own, (dim, dim), NUM_CLASSES)
        split = make_split(rng, videos, dim, features)
        state, split = jax.device_put((state, split), placement.replicated(mesh))
        train_steps = make_train_steps(graphdef, own, mesh)

        def run() -> jax.Array:
            nonlocal state
            state, metrics = train_steps(state, split, jnp.int32(steps))  # noqa: B023
            return metrics["loss"]

        times[f"{encoders} encoders, {features} features"] = medians({"": run}, repeats=5)[""] / steps
    return times


def main() -> int:
    """Print parity, then rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    arguments = parser.parse_args()
    rng, config = np.random.default_rng(0), Config.of("case")
    dim, videos, steps, size, rows = 1024, 200, 50, 8192, (12_000, 200_000, 10_000_000)
    if arguments.quick:
        config = config.changed(num_snippets=50, batch_size=4, hidden=32)
        dim, videos, steps, size, rows = 16, 8, 2, 256, (1_000, 12_000)
    print(machine())

    found = parity(rng, config.changed(num_snippets=min(100, config.schedule.num_snippets)), dim)
    print_table(("parity with the CPU", "found", "bound"), [(what, f"{a:.1e}", f"{b:.0e}") for what, a, b in found])
    if any(not value <= bound for _, value, bound in found):
        print("the device and the CPU disagree; no rates")
        return 1

    ceiling = ceilings(size)
    print(
        ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in ceiling.items() if name != "copy")
        + f"; copy {ceiling['copy'] / 1e9:.4g} GB/s"
    )
    snippets = config.schedule.batch_size * config.schedule.num_snippets
    flops = (
        8 * 2 * snippets * dim * config.settings.base.hidden
    )  # four encoders, forward and the gradient of their weights
    rows_of = []
    for name, seconds in training(rng, config, dim, videos, steps).items():
        share = flops / seconds / ceiling["bfloat16" if name.startswith("bfloat16") else "default"]
        rows_of.append(
            (name, milliseconds(seconds), f"{snippets / seconds:,.0f}", f"{3600 * seconds:.1f} s", f"{share:.0%}")
        )
    print_table(("training step", "time", "snippets/s", "3600 steps", "of its matmul rate"), rows_of)

    rows_of = []
    for count in rows:
        scores = jax.random.uniform(jax.random.key(1), (count, 16), minval=-1, maxval=1)
        seconds = medians({"": lambda s=scores: ot.sinkhorn(s, epsilon=0.05).plan}, repeats=9)[""]
        least = 2 * scores.nbytes / ceiling["copy"]  # the scores read and the plan written, once
        rows_of.append((f"{count:,} x 16, 3 iterations", milliseconds(seconds), f"{least / seconds:.0%}"))
    print_table(("Sinkhorn", "time", "of the copy rate"), rows_of)
    sizes = ((6, 20), (2, 40)) if arguments.quick else ((6, 20), (8, 400), (64, 400), (2, 2000))
    print_table(("smooth DTW", "value", "value and gradient", "as many empty steps"), warping(sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
