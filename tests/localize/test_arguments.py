"""What the functions of localize do with lists, integers, half precision and broken numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from casejax import localize
from casejax.records import Localization

CURVES = np.random.default_rng(0).random((3, 8)).round(2)
SCORES = np.random.default_rng(1).random((2, 6, 3)).astype(np.float32)
OVERALL, SECONDS = np.array([[0.9, 0.1, 0.3], [0.2, 0.1, 0.0]]), np.array([4.0, 3.0])
SEGMENTS, RANKS = np.array([[0.0, 4.0], [1.0, 4.0], [6.0, 7.0]]), np.array([0.9, 0.5, 0.25])


def same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_lists_integers_and_numpy_scalars_will_do():
    same(localize.select_classes(OVERALL.tolist(), threshold=np.float32(0.25)), localize.select_classes(OVERALL))
    same(localize.upsample(CURVES.tolist(), scale=np.int64(3)), localize.upsample(CURVES, scale=3))
    same(localize.smooth(CURVES.tolist(), width=np.int64(3)), localize.smooth(CURVES, width=3))
    runs = localize.propose(CURVES, thresholds=(0.2, 0.5))
    same(localize.propose(CURVES.tolist(), thresholds=np.array([0.2, 0.5])), runs)
    args = runs.curve, runs.first, runs.last
    want = localize.outer_inner_contrast(CURVES, *args)
    same(localize.outer_inner_contrast(CURVES.tolist(), *(list(map(float, x)) for x in args)), want)
    found = localize.localize(SCORES, OVERALL, SECONDS, lengths=np.array([6, 4]))
    same(localize.localize(SCORES.tolist(), OVERALL.tolist(), [4, 3], lengths=[6, 4.0]).video, found.video)
    same(localize.localize(jnp.asarray(SCORES), OVERALL, SECONDS, lengths=(6, 4)), found)
    same(localize.localize_tcam(SCORES.tolist()).segment, localize.localize_tcam(SCORES).segment)
    fused = localize.fuse_instances(SEGMENTS, RANKS, labels=[0, 0, 1])
    same(localize.fuse_instances(SEGMENTS.tolist(), RANKS.tolist(), labels=[0, 0, 1.0], mask=[1, 1, 1]), fused)
    same(localize.fuse_instances(SEGMENTS.astype(int), RANKS, labels=[0, 0, 1], max_groups=np.int64(3)), fused)
    table = localize.fuse_table(SEGMENTS, RANKS, np.array([0, 0, 1]))
    same(localize.fuse_table(SEGMENTS.tolist(), RANKS.tolist(), [0, 0, 1]), table)
    np.testing.assert_allclose(localize.temporal_iou([[0, 4], [0, 1]], [[2, 6], [1, 2]]), [1 / 3, 0])
    np.testing.assert_allclose(localize.candidate_overlap([[0, 4]], [[2, 6]]), [1 / 2])


def test_half_precision_is_computed_in_float32():
    times = np.array([[0, 60000], [30000, 65000]], np.float16)  # the lengths' sum leaves its range
    assert localize.temporal_iou(times[:1], times[1:]).dtype == np.float32
    np.testing.assert_allclose(localize.temporal_iou(times[:1], times[1:]), 30000 / 65000, rtol=1e-3)
    half = jnp.asarray(SCORES, jnp.bfloat16)
    got = localize.localize(half, OVERALL, SECONDS)
    same(got, localize.localize(np.asarray(half, np.float32), OVERALL, SECONDS))
    fused = localize.fuse_instances(times, np.float16([1, 0.5]))
    assert fused.segments.dtype == jnp.float32
    assert jnp.isfinite(fused.segments).all()


def test_what_lies_behind_a_video_is_not_read():
    lengths, spoiled = np.array([6, 4]), SCORES.copy()
    spoiled[1, 4:] = np.nan
    want = localize.localize(SCORES, OVERALL, SECONDS, lengths=lengths)
    same(localize.localize(spoiled, OVERALL, SECONDS, lengths=lengths, ranked=spoiled), want)
    spoiled[1, 3] = np.nan
    with pytest.raises(ValueError, match="scores of video 1 hold NaN"):
        localize.localize(spoiled, OVERALL, SECONDS, lengths=lengths)


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: localize.select_classes([[0.1, NAN]]), r"video_scores\[0, 1\] is NaN"),
        (lambda: localize.select_classes(OVERALL, threshold=NAN), "threshold must be a number, got nan"),
        (lambda: localize.select_classes([["a"]]), "video_scores must hold real numbers"),
        (lambda: localize.upsample([0.1, NAN]), r"scores\[1\] is NaN"),
        (lambda: localize.smooth([0.1, NAN, 1], width=3), r"curves\[1\] is NaN"),
        (lambda: localize.propose([[0.1, NAN]]), r"curves\[0, 1\] is NaN"),
        (lambda: localize.propose(CURVES, thresholds=[0.1, NAN]), r"thresholds\[1\] is NaN"),
        (lambda: localize.propose([[0.1], [0.1, 0.2]]), "curves is no array of numbers"),
        (lambda: localize.outer_inner_contrast(CURVES, [0], [0], [8]), "run 0, samples 0 to 8 of row 0, is not in"),
        (lambda: localize.outer_inner_contrast(CURVES, [0], [0.5], [3]), r"first\[0\] is 0.5, expected a whole"),
        (
            lambda: localize.outer_inner_contrast(CURVES, [0], [0], [3], outer_ratio=NAN),
            "outer_ratio must be 0 or more",
        ),
        (
            lambda: localize.outer_inner_contrast(CURVES, [0], [0], [3], outer_power=NAN),
            "outer_power must be 0 or more",
        ),
        (lambda: localize.localize(SCORES, OVERALL, SECONDS, lengths=[6, 2.5]), r"lengths\[1\] is 2.5"),
        (
            lambda: localize.localize(SCORES, OVERALL, SECONDS, options=Localization(score_weight=NAN)),
            "score_weight must be finite, got nan",
        ),
        (
            lambda: localize.localize(SCORES, OVERALL, SECONDS, options=Localization(nms_decay=NAN)),
            "sigma, the width of the decay, must be above 0, got nan",
        ),
        (lambda: localize.confidences(SCORES[0], divisor=0), "divisor must be 1 or more, got 0"),
        (lambda: localize.fuse_instances(SEGMENTS, RANKS, mask=[1, 2, 0]), "mask must be boolean, got 2 in it"),
        (lambda: localize.fuse_instances(SEGMENTS, RANKS, labels=[0, 0.5, 0]), r"labels\[1\] is 0.5"),
        (lambda: localize.fuse_table(SEGMENTS, RANKS, [0, 0, NAN]), r"group\[2\] is nan, expected a whole number"),
        (lambda: localize.temporal_iou(SEGMENTS, SEGMENTS, extra=NAN), "extra, added to every length, must be 0"),
    ],
)
def test_broken_numbers_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
