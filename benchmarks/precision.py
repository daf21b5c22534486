"""Training with bfloat16 encoders beside float32 ones, and whether the difference is within the noise of the seed.

Run:     python benchmarks/precision.py              two minutes on 2 CPU cores
         python benchmarks/precision.py --seeds 16   a firmer answer

The embedded world is trained from the same seeds (parameters, order, sampling) in both types. A loss term counts as
its mean over the steps of a run. `bf16 - f32` is the mean over seeds of the paired difference, with its standard error;
`spread` is the standard deviation of the float32 runs over seeds. A difference below the spread is `within` noise: no
more than another seed would have made. docs/precision.md has what to expect and why.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, flax 0.12.8, optax 0.2.8
    8 seeds, 300 steps of 16 x 128 x 2 streams of 64, hidden 256; all that is kept is float32
    over all steps  float32  bfloat16        bf16 - f32  spread  of spread   noise
    loss             5.0367    5.0373  +0.0005 ± 0.0017  0.0655       0.01  within
    loss_video       0.7008    0.7010  +0.0001 ± 0.0004  0.0334       0.00  within
    loss_attention   1.4463    1.4459  -0.0004 ± 0.0002  0.0342       0.01  within
    loss_snippet     2.6934    2.6941  +0.0007 ± 0.0014  0.0619       0.01  within
    loss_cluster     0.6541    0.6545  +0.0004 ± 0.0009  0.0493       0.01  within
    loss, last       3.3362    3.3394  +0.0032 ± 0.0041  0.0814       0.04  within
    mAP 0.1:0.7      0.3465    0.3445  -0.0020 ± 0.0025  0.0324       0.06  within
    along the curve of the loss the mean difference is 0.09 of the spread at most
    loss of a single seed, relative difference: 7.8e-05 at most over the first 5 steps, 8.5e-04 in the median of all,
    9.8e-03 at most
    a step takes 8.4 ms in float32, 12.3 ms in bfloat16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, print_table

from casejax.data.synthetic import make_world
from casejax.inference.evaluate import evaluate_scores
from casejax.inference.scoring import make_test_scorer
from casejax.records import Dataset
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.runtime.mesh import make_mesh, replicated
from casejax.train.feed import pack
from casejax.train.step import make_train_steps

TERMS = ("loss", "loss_video", "loss_attention", "loss_snippet", "loss_cluster")
DTYPES = ("float32", "bfloat16")


class Curves(NamedTuple):
    """What training from every seed gave in one type."""

    terms: dict[str, np.ndarray]  # (seeds, dispatches) mean of every loss term over the steps of a dispatch
    mean_ap: np.ndarray  # (seeds,) mAP 0.1:0.7
    milliseconds: float  # of a step, compilation left out


def train(world: Dataset, config: Config, seeds: range) -> Curves:
    """Train once from every seed; one compilation serves them all."""
    mesh = make_mesh(1)
    graphdef, _ = initial_state(config, world.dims, len(world.classes))
    train_steps = make_train_steps(graphdef, config, mesh)
    score = make_test_scorer(graphdef, world, config)
    split = pack(world.train, world.classes, mesh)
    dispatches = (
        config.schedule.epochs * (len(world.train.videos) // config.schedule.batch_size) // config.training.log_every
    )
    count = jnp.int32(config.training.log_every)
    curves, mean_ap, times = [], [], []
    for seed in seeds:
        _, state = initial_state(config.changed(seed=seed), world.dims, len(world.classes))
        state = jax.device_put(state, replicated(mesh))
        lines = []
        for _ in range(dispatches):
            since = time.perf_counter()
            state, metrics = train_steps(state, split, count)
            lines.append(jax.device_get(metrics))
            times.append(time.perf_counter() - since)
        check_float32(state, metrics)
        curves.append(lines)
        found = score(state.params, state.cluster_labels)
        mean_ap.append(evaluate_scores(found.scores, world, config.localization)[1].average(0.1, 0.7))
    terms = {name: np.array([[line[name] for line in lines] for lines in curves]) for name in TERMS}
    return Curves(terms, np.array(mean_ap), 1e3 * float(np.median(times)) / config.training.log_every)


def check_float32(*trees: object) -> None:
    """Parameters, optimizer state, labels and losses are float32 whatever the encoders compute in."""
    for leaf in jax.tree.leaves(trees):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert leaf.dtype == jnp.float32, leaf.dtype


def compare(values: Mapping[str, np.ndarray]) -> list[str]:
    """A row: both means, the paired difference with its standard error, the spread, and whether it is within."""
    full, half = (values[name] for name in DTYPES)
    difference = half - full
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    spread = full.std(ddof=1)
    within = "within" if abs(difference.mean()) <= spread else "BEYOND"
    return [
        *(f"{x.mean():.4f}" for x in (full, half)),
        f"{difference.mean():+.4f} ± {error:.4f}",
        f"{spread:.4f}",
        f"{abs(difference.mean()) / spread:.2f}",
        within,
    ]


def main() -> None:
    """Train, check the types, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8, help="runs in each type")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of a run, of 5 steps each")
    parser.add_argument("--num-snippets", type=int, default=128, help="snippets of a video")
    parser.add_argument("--hidden", type=int, default=256, help="width of the encoders")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error(f"--seeds must be at least 2, got {arguments.seeds}: one run has no spread")
    world = make_world()
    config = Config.of("case", "corrected").changed(
        num_snippets=arguments.num_snippets,
        hidden=arguments.hidden,
        epochs=arguments.epochs,
        learning_rate=1e-3,
        log_every=5,
    )
    runs = {name: train(world, config.changed(encoder_dtype=name), range(arguments.seeds)) for name in DTYPES}
    full, half = (runs[name] for name in DTYPES)
    assert (full.terms["loss"] != half.terms["loss"]).any(), "both types computed the same"

    num_steps = full.terms["loss"].shape[1] * config.training.log_every
    print(machine("flax", "optax"))
    print(
        f"{arguments.seeds} seeds, {num_steps} steps of 16 x {arguments.num_snippets} x 2 streams of "
        f"{world.dims[0]}, hidden {arguments.hidden}; all that is kept is float32"
    )
    rows = [[name, *compare({key: run.terms[name].mean(axis=1) for key, run in runs.items()})] for name in TERMS]
    rows += [
        [f"{name}, last", *compare({key: run.terms[name][:, -1] for key, run in runs.items()})] for name in TERMS[:1]
    ]
    rows.append(["mAP 0.1:0.7", *compare({key: run.mean_ap for key, run in runs.items()})])
    print_table(["over all steps", *DTYPES, "bf16 - f32", "spread", "of spread", "noise"], rows)
    loss, other = full.terms["loss"], half.terms["loss"]
    along = np.abs((other - loss).mean(axis=0)) / loss.std(axis=0, ddof=1)
    print(f"along the curve of the loss the mean difference is {along.max():.2f} of the spread at most")
    relative = np.abs(other / loss - 1)
    print(
        f"loss of a single seed, relative difference: {relative[:, 0].max():.1e} at most over the first 5 steps, "
        f"{np.median(relative):.1e} in the median of all,\n{relative.max():.1e} at most"
    )
    print(f"a step takes {full.milliseconds:.1f} ms in float32, {half.milliseconds:.1f} ms in bfloat16")


if __name__ == "__main__":
    main()
