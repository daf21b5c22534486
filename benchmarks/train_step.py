"""Time of one CASE training step, and how much of it the encoders' matrix products take.

Run:     python benchmarks/train_step.py            THUMOS14 size: 16 videos x 750 snippets x (1024 + 1024)
         python benchmarks/train_step.py --dim 128  surrogate features

Sampling, gathering, labels, gradients and Adam are all inside the step. The bound is measured in the same run: the
products that the four encoders cannot do without, 4 forward and 4 for the gradient of their weights.

Last printouts, on 2 cores of an AMD EPYC without AVX-512:

    x86_64, 2 cores, cpu, jax 0.10.2
    batch 16 x 750 x 2 streams of 1024; compiled in 3.2 s
    step                   718.0 ms      16,713 snippets/s
    encoder products       583.7 ms         172 GFLOP/s, 81% of the step
    x86_64, 2 cores, cpu, jax 0.10.2
    batch 16 x 750 x 2 streams of 128; compiled in 3.2 s
    step                   182.1 ms      65,907 snippets/s
    encoder products        75.1 ms         168 GFLOP/s, 41% of the step
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from casejax.data.sampling import PackedSplit
from casejax.train.config import Config
from casejax.train.mesh import make_mesh, replicated
from casejax.train.state import initial_state
from casejax.train.step import make_train_steps


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """Median wall time of `run`, which must return what it computed."""
    times = []
    for _ in range(repeats):
        since = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - since)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=1024, help="feature dimension of each of the two streams")
    parser.add_argument("--steps", type=int, default=4, help="steps in one dispatch")
    parser.add_argument("--repeats", type=int, default=5, help="dispatches timed")
    arguments = parser.parse_args()
    config, rng, num_classes, num_videos = Config(), np.random.default_rng(0), 20, 200
    lengths = rng.integers(100, 560, num_videos)  # THUMOS14: 327 snippets on average
    total = int(lengths.sum())
    split = PackedSplit(
        streams=tuple(jnp.asarray(rng.random((total, arguments.dim), np.float32)) for _ in range(2)),
        offsets=jnp.asarray(np.cumsum(lengths) - lengths, jnp.int32),
        lengths=jnp.asarray(lengths, jnp.int32),
        labels=jax.nn.one_hot(jnp.arange(num_videos) % num_classes, num_classes),
    )
    mesh = make_mesh(1)
    graphdef, state = initial_state(config, (arguments.dim, arguments.dim), num_classes)
    state = jax.device_put(state, replicated(mesh))
    train_steps = make_train_steps(graphdef, config, mesh)
    since = time.perf_counter()
    compiled = train_steps.lower(state, split, jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - since

    def steps() -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, split, jnp.int32(arguments.steps))
        return metrics["loss"]

    steps()
    step = median_seconds(steps, arguments.repeats) / arguments.steps
    assert int(state.step) == (arguments.repeats + 1) * arguments.steps

    snippets, hidden = config.train.batch_size * config.method.num_snippets, config.network.hidden
    x = jnp.asarray(rng.random((snippets, arguments.dim), np.float32))
    w = jnp.asarray(rng.random((arguments.dim, hidden), np.float32))
    g = jnp.asarray(rng.random((snippets, hidden), np.float32))
    forward = jax.jit(lambda x, w: x @ w)
    backward = jax.jit(lambda x, g: x.T @ g)
    forward(x, w), backward(x, g)
    bound = 4 * median_seconds(lambda: forward(x, w), 10) + 4 * median_seconds(lambda: backward(x, g), 10)
    gflop = 8 * 2 * snippets * arguments.dim * hidden / 1e9

    print(f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"batch 16 x 750 x 2 streams of {arguments.dim}; compiled in {compile_seconds:.1f} s")
    print(f"step                {1e3 * step:8.1f} ms  {snippets / step:10,.0f} snippets/s")
    print(f"encoder products    {1e3 * bound:8.1f} ms  {gflop / bound:10,.0f} GFLOP/s, {bound / step:.0%} of the step")


if __name__ == "__main__":
    main()
