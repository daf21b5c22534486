"""Non-maximum suppression against plain loops and the published program's numbers."""

import math
import re
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import loop_greedy, loop_iou

from casejax import localize
from casejax.localize import nms


def proposals(rng, count, num_groups):
    """Rounded times and scores: many ties, touching and identical segments."""
    start = np.round(rng.uniform(0, 12, count))
    segment = np.stack([start, start + np.round(rng.uniform(1, 8, count))], axis=1)
    return segment, np.round(rng.uniform(-0.2, 1, count), 1), rng.integers(0, num_groups, count)


def loop_soft(segment, score, group, sigma, extra):
    out = []
    for g in sorted(set(group.tolist())):
        rest = sorted(np.flatnonzero(group == g), key=lambda i: (-score[i], -i))
        value = {i: score[i] for i in rest}
        while rest:
            best = max(rest, key=lambda i: value[i])  # the first of equals
            out.append((best, value[best]))
            rest.remove(best)
            for i in rest:
                value[i] *= math.exp(-(loop_iou(segment[best], segment[i], extra) ** 2) / sigma)
    return out


def assert_same_survivors(got, want):
    assert_array_equal(got.row, [row for row, _ in want])
    assert_allclose(got.score, [score for _, score in want], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.5, 1.0])
@pytest.mark.parametrize(("count", "num_groups"), [(0, 1), (1, 1), (60, 1), (150, 5), (40, 40)])
def test_greedy_suppression_equals_a_loop(rng, count, num_groups, threshold, plus_one):
    table = proposals(rng, count, num_groups)
    options = {"threshold": threshold, "plus_one": plus_one}
    assert_same_survivors(localize.hard_nms(*table, **options), loop_greedy(*table, threshold, extra=float(plus_one)))
    assert_same_survivors(
        localize.decay_once_nms(*table, **options, sigma=0.3),
        loop_greedy(*table, threshold, extra=float(plus_one), sigma=0.3),
    )


@pytest.mark.parametrize("least", [0, -1, -4])
@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize(("count", "num_groups"), [(0, 1), (1, 1), (60, 1), (150, 5), (40, 40), (150, 20)])
def test_soft_nms_equals_a_loop(rng, count, num_groups, plus_one, least):
    segment, _, group = proposals(rng, count, num_groups)
    segment[:, 0] *= 4  # some overlap nothing, some only what others overlap
    segment[:, 1] += segment[:, 0] * 3 / 4
    score = rng.uniform(least, 1, size=count)  # a pick raises those below zero, perhaps above picks elsewhere
    score[count // 2 :] = rng.choice([-0.5, 0.5] if least else [0.5], count - count // 2)  # ties, whose decays differ
    got = localize.soft_nms(segment, score, group, sigma=0.5, plus_one=plus_one)
    assert_same_survivors(got, loop_soft(segment, score, group, 0.5, float(plus_one)))


def test_identical_proposals():
    segment, score, group = np.tile([2.0, 5.0], (4, 1)), np.full(4, 0.5), np.zeros(4, int)
    assert_array_equal(localize.hard_nms(segment, score, group).row, [3])  # of equals the later listed
    decayed = 0.5 * math.exp(-1 / 0.35)
    assert_same_survivors(
        localize.decay_once_nms(segment, score, group), [(3, 0.5), (2, decayed), (1, decayed), (0, decayed)]
    )
    soft = localize.soft_nms(segment, score, group, sigma=0.5)
    assert_allclose(soft.score, 0.5 * np.exp(-2.0 * np.arange(4)))


def dense_and_sparse(rng, kind, count):
    """Proposals of two groups: by hundreds over one another, in a chain with a dense patch, or one over all others."""
    start, length = rng.uniform(0, 20, count), rng.uniform(4, 12, count)
    if kind == "chain and patch":
        start[: count // 2], length[: count // 2] = np.arange(count // 2) * 1.5, 2.0
    elif kind == "one over all":
        start, length = rng.uniform(0, 10 * count, count), rng.uniform(1, 9, count)
        start[count // 3], length[count // 3] = 0, 10 * count
    segment = np.stack([start, start + length], axis=1)
    return segment, np.round(rng.uniform(size=count), 2), rng.integers(-1, 1, count)


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.9, 1.5])
@pytest.mark.parametrize("kind", ["dense", "chain and patch", "one over all"])
def test_suppression_of_many_proposals_equals_a_loop(rng, monkeypatch, kind, threshold):
    table = dense_and_sparse(rng, kind, 400)
    want = loop_greedy(*table, threshold, sigma=0.3)
    monkeypatch.setattr(nms, "_BLOCK_PAIRS", 64)
    for most in (nms._LISTED_PAIRS, 8):  # pairs are listed at once, or picks come first
        monkeypatch.setattr(nms, "_LISTED_PAIRS", most)
        assert_same_survivors(localize.decay_once_nms(*table, threshold=threshold, sigma=0.3), want)
        assert_same_survivors(localize.hard_nms(*table, threshold=threshold), loop_greedy(*table, threshold))


def test_ten_thousand_dense_proposals_take_little_memory(rng):
    start = rng.uniform(0, 100, 10_000)
    segment, score = np.stack([start, start + rng.uniform(20, 60, 10_000)], axis=1), rng.uniform(size=10_000)
    tracemalloc.start()
    got = localize.hard_nms(segment, score)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8e6  # all pairs that overlap are 28 million
    rest, kept = np.argsort(score)[::-1], []
    while len(rest):
        kept.append(rest[0])
        rest = rest[localize.temporal_iou(segment[rest[:1]], segment[rest]) < 0.4]
    assert_array_equal(got.row, kept)


@pytest.mark.parametrize("suppress", [localize.hard_nms, localize.decay_once_nms, localize.soft_nms])
def test_nms_takes_lists_integers_and_no_group(suppress):
    segment, score = [[0, 10], [1, 11], [20, 30], [21, 30]], [1, 3, 2, 4]
    want = suppress(np.array(segment, float), np.array(score, float), np.zeros(4, int))
    assert_same_survivors(suppress(segment, score), list(zip(want.row, want.score, strict=True)))
    halved = suppress(np.array(segment, np.float16), jnp.array(score), jnp.zeros(4, jnp.uint8))
    want = suppress(np.array(segment, np.float32), np.array(score, float), np.zeros(4, int))
    assert_same_survivors(halved, list(zip(want.row, want.score, strict=True)))
    apart = suppress(segment, score, np.array([1, 0, 1, 0], np.uint8))  # negatives of unsigned numbers are large
    assert_array_equal(apart.row, [3, 1, 2, 0])
    assert len(suppress([], [], []).row) == len(suppress(np.empty((0, 2)), []).row) == 0


@pytest.mark.parametrize("suppress", [localize.hard_nms, localize.decay_once_nms, localize.soft_nms])
@pytest.mark.parametrize(
    ("segment", "score", "group", "says"),
    [
        ([[0, 1], [2, 3]], [0.5, np.nan], None, r"score\[1\] is NaN"),
        ([[0, 1], [2, 3]], [0.5], None, r"\(2, 2\), \(1,\)"),
        ([[0, 1]], [0.5], [0, 1], r"\(2,\)"),
        ([[0, 1, 2]], [0.5], None, r"\(1, 3\)"),
        ([[0, np.inf]], [0.5], None, r"segment\[0\] is \[0\.0, inf\]"),
        ([[0, 1], [3, 2]], [0.5, 0.4], None, r"segment\[1\] is \[3\.0, 2\.0\]"),
        ([[0, 1]], [0.5], [0.5], r"group\[0\] is 0\.5"),
    ],
)
def test_nms_refuses_what_is_no_proposal(suppress, segment, score, group, says):
    with pytest.raises(ValueError, match=says):
        suppress(segment, score, group)


@pytest.mark.parametrize("suppress", [localize.decay_once_nms, localize.soft_nms])
@pytest.mark.parametrize("sigma", [0, np.float32(-1), math.nan])
def test_nms_refuses_a_decay_without_width(suppress, sigma):
    with pytest.raises(ValueError, match=f"above 0, got {sigma}"):
        suppress([[0, 1]], [0.5], sigma=sigma)


def test_nms_refuses_a_threshold_that_everything_reaches():
    with pytest.raises(ValueError, match="above 0, got 0"):
        localize.hard_nms(np.zeros((1, 2)), np.zeros(1), np.zeros(1, int), threshold=0.0)


def test_golden_nms(golden):
    arrays = golden.arrays("localize")
    table = arrays["unit/nms_in"]
    names = [name for name in arrays if re.fullmatch(r"unit/nms_(soft|hard)_.*", name)]
    assert names
    for name in names:
        _, _, kind, *numbers = re.split("[/_]", name)
        options = dict(zip(("threshold", "sigma"), map(float, numbers), strict=False))
        suppress = {"soft": localize.decay_once_nms, "hard": localize.hard_nms}[kind]
        group = table[:, 0].astype(np.int64)
        got = suppress(table[:, 2:], table[:, 1], group, plus_one=True, **options)
        assert_array_equal(table[got.row][:, [0, 2, 3]], arrays[name][:, [0, 2, 3]])
        assert_allclose(got.score, arrays[name][:, 1], rtol=0, atol=1e-14)
