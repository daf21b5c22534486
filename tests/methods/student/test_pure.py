"""Targets, losses and proposals of the student, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.methods.student import (
    Regressed,
    assign,
    boundary_distribution,
    decode,
    diou_loss,
    focal_loss,
    locations,
)

LEVELS, T, C, REACH, RADIUS = 3, 16, 3, 3.0, 1.5


def listed_locations():
    """(position, stride, level) of each real location, and None between levels."""
    out = []
    for level in range(LEVELS):
        stride = 2**level
        out += [((i + 0.5) * stride, stride, level) for i in range(T // stride)] + [None]
    return out


def test_locations_are_the_middles_of_equal_parts():
    places = locations(T, LEVELS)
    for n, want in enumerate(listed_locations()):
        assert places.real[n] == (want is not None)
        if want is not None:
            assert (places.position[n], places.stride[n], places.level[n]) == want
    assert len(places.real) == len(listed_locations())
    with pytest.raises(ValueError, match="multiple of 4 snippets, got 18; pad"):
        locations(18, LEVELS)


def slow_targets(segments, labels, weights, mask):
    """Location by location, class by class, instance by instance."""
    places = listed_locations()
    weight, offsets = np.zeros((len(places), C)), np.zeros((len(places), C, 2))
    ignored = np.zeros((len(places), C), bool)
    for n, place in enumerate(places):
        for c in range(C):
            shortest, doubtful = None, False
            for (start, end), label, w, real in zip(segments, labels, weights, mask, strict=True):
                if not real or label != c:
                    continue
                if place is None:
                    continue
                position, stride, level = place
                if not start <= position < end:
                    continue
                if w <= 0:
                    doubtful = True
                    continue
                low = 0 if level == 0 else REACH * 2 ** (level - 1)
                high = np.inf if level == LEVELS - 1 else REACH * 2**level
                farther = max(position - start, end - position)
                near = abs(position - (start + end) / 2) <= RADIUS * stride
                if near and low <= farther < high and (shortest is None or end - start < shortest[1] - shortest[0]):
                    shortest = start, end, w, position
            if shortest is not None:
                start, end, weight[n, c], position = shortest
                offsets[n, c] = position - start, end - position
            ignored[n, c] = doubtful and shortest is None
    return weight, offsets, ignored


def test_targets_are_the_written_out_ones():
    rng = np.random.default_rng(0)
    places = locations(T, LEVELS)
    run = jax.jit(
        lambda s, k, w, m: assign(places, s, k, w, mask=m, num_classes=C, levels=LEVELS, reach=REACH, radius=RADIUS)
    )
    seen = np.zeros(3, int)
    for _ in range(20):
        segments = np.sort(rng.uniform(0, T, (8, 2)), axis=1).astype(np.float32)
        labels = rng.integers(0, C, 8).astype(np.int32)
        weights = np.where(rng.random(8) < 0.3, 0, rng.random(8)).astype(np.float32)
        mask = rng.random(8) < 0.8
        segments[~mask] = np.nan
        got = run(segments, labels, weights, mask)
        want = slow_targets(segments, labels, weights, mask)
        real = places.real
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(a)[real], b[real], rtol=1e-5, atol=1e-5)
        assert not np.asarray(got.weights)[~real].any()
        seen += [(want[0] > 0).sum(), (want[0] > 0)[real][-4:].sum(), want[2].sum()]
    assert (seen > 5).all()  # instances, at the last level too, and doubtful places


def test_focal_loss_is_the_equation():
    logits = np.random.default_rng(1).normal(scale=3, size=50)
    targets = np.arange(50) % 2
    p = 1 / (1 + np.exp(-logits))
    pt, at = np.where(targets, p, 1 - p), np.where(targets, 0.3, 0.7)
    got = focal_loss(jnp.asarray(logits), jnp.asarray(targets, jnp.float32), alpha=0.3, gamma=1.5)
    np.testing.assert_allclose(got, -at * (1 - pt) ** 1.5 * np.log(pt), rtol=2e-5)
    plain = focal_loss(jnp.asarray(logits), jnp.asarray(targets, jnp.float32), alpha=0.5, gamma=0.0)
    np.testing.assert_allclose(plain, -0.5 * np.log(pt), rtol=2e-5, atol=1e-7)
    slopes = jax.grad(lambda x: focal_loss(x, jnp.asarray([1.0, 0.0])).sum())(jnp.asarray([200.0, -200.0]))
    np.testing.assert_array_equal(slopes, 0)


def test_diou_loss_is_that_of_boxes_of_one_dimension():
    rng = np.random.default_rng(2)
    offsets, targets = rng.uniform(0, 5, (2, 40, 2))
    want = []
    for (left, right), (start, end) in zip(offsets, targets, strict=True):
        a, b = (-left, right), (-start, end)
        inter = max(min(a[1], b[1]) - max(a[0], b[0]), 0)
        union = a[1] - a[0] + b[1] - b[0] - inter
        hull = max(a[1], b[1]) - min(a[0], b[0])
        want.append(1 - inter / union + ((sum(a) - sum(b)) / 2 / hull) ** 2)
    got = diou_loss(jnp.asarray(offsets, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    same = diou_loss(jnp.asarray(targets, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(same, 0, atol=1e-6)
    nothing = jax.value_and_grad(lambda x: diou_loss(x, jnp.zeros((3, 2))).sum())(jnp.zeros((3, 2)))
    np.testing.assert_array_equal(nothing[0], 0)
    np.testing.assert_array_equal(nothing[1], 0)


@pytest.mark.parametrize("columns", [1, C])
def test_proposals_are_the_best_of_all_levels_and_classes(columns):
    rng = np.random.default_rng(3)
    places, length = listed_locations(), 13
    logits = rng.normal(size=(1, len(places), C)).astype(np.float32)
    offsets = rng.uniform(0, 6, (1, len(places), columns, 2)).astype(np.float32)
    real = np.array([place is not None and place[0] - place[1] / 2 < length for place in places])
    got = decode(
        Regressed(jnp.asarray(logits), jnp.asarray(offsets), jnp.asarray(real[None])),
        levels=LEVELS,
        max_proposals=20,
        factors=jnp.asarray([[1.0, 0.5, 0.75]]),
        mask=jnp.arange(T)[None] < length,
    )
    rows = []
    for n in np.flatnonzero(real):
        for c in range(C):
            left, right = offsets[0, n, min(c, columns - 1)]
            ends = np.clip([places[n][0] - left, places[n][0] + right], 0, length)
            rows.append(([1, 0.5, 0.75][c] / (1 + np.exp(-logits[0, n, c])), c, *ends))
    best = sorted(rows, reverse=True)[:20]
    np.testing.assert_allclose(got.scores[0], [row[0] for row in best], rtol=1e-5)
    np.testing.assert_array_equal(got.labels[0], [row[1] for row in best])
    least = float(best[7][0] + best[8][0]) / 2
    few = decode(
        Regressed(jnp.asarray(logits), jnp.asarray(offsets), jnp.asarray(real[None])),
        levels=LEVELS,
        max_proposals=20,
        min_score=least,
        factors=jnp.asarray([[1.0, 0.5, 0.75]]),
        mask=jnp.arange(T)[None] < length,
    )
    np.testing.assert_array_equal(few.scores[0], np.where(np.arange(20) < 8, got.scores[0], 0))
    np.testing.assert_allclose(got.segments[0], [row[2:] for row in best], rtol=1e-5, atol=1e-5)


def test_expected_boundaries_are_those_of_the_places_nearby():
    rng = np.random.default_rng(3)
    places, columns, bins = listed_locations(), 2, 3
    responses = rng.normal(size=(2, len(places), 2 * columns)).astype(np.float32)
    centred = rng.normal(size=(2, len(places), 2 * (bins + 1))).astype(np.float32)
    mask = np.array([[place is not None for place in places]] * 2)
    mask[1, 11:16] = False  # the end of the first level of a shorter video
    got = boundary_distribution(jnp.asarray(responses), jnp.asarray(centred), mask=jnp.asarray(mask))
    for b in range(2):
        for n in np.flatnonzero(mask[b]):
            for side, sign in enumerate((-1, 1)):
                for k in range(columns):
                    logits = []
                    for j in range(bins + 1):
                        there = n + sign * j
                        if not 0 <= there < len(places) or not mask[b, there] or places[there][2] != places[n][2]:
                            break
                        logits.append(responses[b, there, 2 * k + side] + centred[b, n, side * (bins + 1) + j])
                    chance = np.exp(logits) / np.exp(logits).sum()
                    want = (chance * np.arange(len(chance))).sum()
                    np.testing.assert_allclose(got[b, n, 2 * k + side], want, rtol=1e-5, atol=1e-6)
    assert not np.asarray(got)[~mask].any()

    # What stands in padding, and how many bins reach past a short pyramid, makes no difference.
    spoiled = np.where(mask[..., None], responses, np.inf).astype(np.float32)
    again = boundary_distribution(jnp.asarray(spoiled), jnp.asarray(centred), mask=jnp.asarray(mask))
    np.testing.assert_array_equal(np.asarray(again)[mask], np.asarray(got)[mask])
    alone = boundary_distribution(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 8)), mask=jnp.ones((1, 1), bool))
    np.testing.assert_array_equal(alone, np.zeros((1, 1, 2)))
