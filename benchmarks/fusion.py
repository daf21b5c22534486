"""Weighted instance fusion at THUMOS14's size, beside a loop over videos, classes and groups of proposals.

Run:     python benchmarks/fusion.py    a minute on 2 CPU cores

The peer is the NumPy loop that everybody runs, written here for the comparison: per video and class take the best
proposal, those that overlap it, their weighted location, and go on with the rest; for Student's t 32 steps of
expectation maximisation a group. Both get the same float32 numbers and are checked to agree before a time is printed.
Ours is the whole of `fuse_table`, from a table of proposals to a table of instances, copies to and from the device
included; and `fuse_instances` alone, under one `vmap`, on arrays that are already padded.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, numpy 2.4.6
    210 videos, 32,772 proposals, 6,435 instances
    gaussian: the same groups; starts and ends within 0.0002 s
    student_t: the same groups; starts and ends within 0.0002 s
                   loop  fuse_table  fuse_instances  ratio  ratio alone
    gaussian     388 ms     29.4 ms         16.9 ms  13.2x        23.0x
    student_t  6,054 ms      112 ms         82.5 ms  53.9x        73.4x
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from localization import NUM_VIDEOS, make_world
from measure import machine, medians, milliseconds, print_table

from casejax import localize
from casejax.localize import Survivors, templates

THRESHOLD, TEMPERATURE = 0.25, 0.2
Location = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_table(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Proposals (n, 2) in seconds, scores (n,) and groups (n,), as localisation hands them to suppression."""
    world, kept = make_world(rng), []

    def keep(segment: np.ndarray, score: np.ndarray, group: np.ndarray) -> Survivors:
        kept.append((segment.astype(np.float32), score.astype(np.float32), group))
        return Survivors(np.arange(len(score)), score)

    localize.localize(world.scores, world.video_scores, world.durations, suppress=keep)
    segment, score, group = kept[0]
    # From the start of the first of a group, which float32 then holds exactly the same for both.
    origin = np.full(group.max() + 1, np.inf, np.float32)
    np.minimum.at(origin, group, segment[:, 0])
    return segment - origin[group][:, None], score, group


# The loop


def fuse_in_loops(
    segment: np.ndarray, score: np.ndarray, group: np.ndarray, *, location: Location
) -> list[tuple[int, float, float, float]]:
    """Rows (group, start, end, score)."""
    rows = []
    for g in range(group.max() + 1):
        rest = np.flatnonzero(group == g)
        start, end = segment[rest].T
        rest = rest[np.lexsort((start, start - end, -score[rest]))]
        while len(rest):
            start, end = segment[rest].T
            both = np.maximum(np.minimum(end[0], end) - np.maximum(start[0], start), 0)
            joins = both / (end - start) > THRESHOLD
            members, rest = rest[joins], rest[~joins]
            odds = np.exp((score[members] - score[members[0]]) / np.float32(TEMPERATURE))
            values = np.column_stack([segment[members], score[members]])
            rows.append((g, *location(values, odds / odds.sum())))
    return rows


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The Gaussian's location."""
    return weights @ values


def expectation_maximisation(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """That of Student's t with 3 degrees of freedom, all columns at once."""
    location = weights @ values
    least = np.maximum(1e-8 * np.ptp(values, axis=0) ** 2, 1e-30)
    variance = np.maximum(weights @ (values - location) ** 2, least)
    for _ in range(32):
        pull = weights[:, None] * 4 / (3 + (values - location) ** 2 / variance)
        mass = pull.sum(axis=0)
        location = (pull * values).sum(axis=0) / mass
        variance = np.maximum((pull * (values - location) ** 2).sum(axis=0) / mass, least)
    return location


# Ours


def pad(segment: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One row a group: segments (B, N, 2), scores (B, N) and mask (B, N)."""
    size = np.bincount(group)
    order = np.argsort(group, kind="stable")
    place = group[order], np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    shape = len(size), size.max()
    segments, scores, mask = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    segments[..., 1] = 1
    segments[place], scores[place], mask[place] = segment[order], score[order], True
    return jnp.asarray(segments), jnp.asarray(scores), jnp.asarray(mask)


def check(got: localize.FusedTable, want: list[tuple[int, float, float, float]]) -> float:
    """The largest difference of a start or end in seconds, after making sure that the groups are the same."""
    table = np.array(want)
    np.testing.assert_array_equal(got.group, table[:, 0])
    np.testing.assert_allclose(got.score, table[:, 3], atol=1e-4)
    difference = np.abs(got.segment - table[:, 1:3]).max()
    assert difference < 0.05, difference
    return float(difference)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    table = make_table(np.random.default_rng(0))
    padded = pad(*table)
    print(machine("numpy"))

    rows = []
    for name, template, location in (
        ("gaussian", localize.gaussian, weighted_mean),
        ("student_t", localize.student_t, expectation_maximisation),
    ):
        whole = partial(localize.fuse_table, *table, template=template)
        loop = partial(fuse_in_loops, *table, location=location)
        one = partial(fuse_one, template=template)
        alone = partial(jax.jit(jax.vmap(one)), *padded)
        fused = whole()
        difference = check(fused, loop())
        if not rows:
            print(f"{NUM_VIDEOS} videos, {len(table[1]):,} proposals, {len(fused.score):,} instances")
        print(f"{name}: the same groups; starts and ends within {difference:.1g} s")
        times = medians({"loop": loop, "whole": whole, "alone": alone}, repeats=arguments.repeats)
        values = [milliseconds(times[part]) for part in ("loop", "whole", "alone")]
        rows.append([name, *values, *(f"{times['loop'] / times[part]:.1f}x" for part in ("whole", "alone"))])
    print_table(["", "loop", "fuse_table", "fuse_instances", "ratio", "ratio alone"], rows)


def fuse_one(
    segments: jax.Array, scores: jax.Array, mask: jax.Array, *, template: templates.Template
) -> localize.FusedInstances:
    """One video and class."""
    options = {"temperature": TEMPERATURE, "threshold": THRESHOLD}
    return localize.fuse_instances(segments, scores, mask=mask, template=template, **options)


if __name__ == "__main__":
    main()
