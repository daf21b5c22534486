"""Localisation against the published program's numbers and against plain loops."""

import inspect
import re

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import loop_greedy, loop_iou

from casejax import localize
from casejax.localize import segments
from casejax.records import Localization

keep_all = lambda segment, score, group: localize.Survivors(np.arange(len(score)), score)  # noqa: E731


def loop_upsample(curve, scale):
    out = []
    for i in range(len(curve) * scale):
        if len(curve) == 1:
            out.append(curve[0])
            continue
        left = min(i // scale, len(curve) - 2)
        out.append(curve[left] + (curve[left + 1] - curve[left]) * (i / scale - left))
    return np.array(out)


def loop_propose(curves, thresholds, drop_lone_first):
    rows = []
    for g, curve in enumerate(curves):
        for k, threshold in enumerate(thresholds):
            active = [i for i, value in enumerate(curve) if value >= threshold and value > 0]
            if drop_lone_first and active == [0]:
                continue
            for i in active:
                if rows and rows[-1][:2] == [g, k] and rows[-1][3] == i - 1:
                    rows[-1][3] = i
                else:
                    rows.append([g, k, i, i])
    return np.array(rows, np.int64).reshape(-1, 4)


def loop_contrast(curve, first, last, ratio):
    length = last - first + 1
    begin = max(0, int(first - ratio * length))
    end = min(len(curve) - 1, int(last + ratio * length))
    outer = [curve[i] for i in range(begin, end + 1) if i < first or i > last]
    return np.mean(curve[first : last + 1]) - (np.mean(outer) if outer else 0)


def proposals(rng, count, num_groups):
    """Rounded times and scores: many ties, touching and identical segments."""
    start = np.round(rng.uniform(0, 12, count))
    segment = np.stack([start, start + np.round(rng.uniform(1, 8, count))], axis=1)
    return segment, np.round(rng.uniform(-0.2, 1, count), 1), rng.integers(0, num_groups, count)


def test_select_classes_by_threshold_else_the_best():
    scores = np.array([[0.25, 0.5, 0.1], [0.2, 0.1, 0.24], [0.1, 0.1, 0.1]], np.float32)
    assert_array_equal(
        localize.select_classes(scores, threshold=0.25),
        [[True, True, False], [False, False, True], [True, False, False]],
    )
    assert localize.select_classes(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("length", [1, 2, 3, 11])
@pytest.mark.parametrize("scale", [1, 2, 7, 24])
def test_upsample_equals_a_loop(rng, length, scale):
    scores = rng.normal(size=(2, 3, length))
    got = localize.upsample(scores, scale=scale)
    assert got.shape == (2, 3, length * scale)
    assert got.dtype == np.float64
    want = [[loop_upsample(curve, scale) for curve in block] for block in scores]
    assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(("length", "scale"), [(0, 24), (4, 0)])
def test_upsample_refuses_nothing(length, scale):
    with pytest.raises(ValueError, match=f"scale={scale}"):
        localize.upsample(np.zeros((2, length)), scale=scale)


@pytest.mark.parametrize("drop_lone_first", [True, False])
def test_propose_equals_a_loop(rng, drop_lone_first):
    curves = np.round(rng.uniform(-0.3, 1, (40, 9)), 1)
    curves[0], curves[1], curves[2] = 0, 1, [1] + 8 * [0]  # silent, active throughout, lone first sample
    thresholds = (-0.1, 0.0, 0.3, 0.5, 1.0)
    runs = localize.propose(curves, thresholds=thresholds, drop_lone_first=drop_lone_first)
    want = loop_propose(curves, thresholds, drop_lone_first)
    assert_array_equal(np.stack(runs, axis=1), want)
    assert len(want) > 200


@pytest.mark.parametrize("curves", [np.zeros((0, 5)), np.zeros((3, 5)), np.zeros((3, 0))])
def test_propose_finds_nothing_in_nothing(curves):
    runs = localize.propose(curves)
    assert [len(column) for column in runs] == [0, 0, 0, 0]
    assert len(localize.propose(curves + 1, thresholds=()).curve) == 0


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.25, 2.0])
def test_outer_inner_contrast_equals_a_loop(rng, ratio):
    curves = rng.uniform(size=(6, 31))
    first = rng.integers(0, 31, 200)
    last = rng.integers(first, 31)
    first[0], last[0] = 0, 30  # no margin at all
    curve = rng.integers(0, 6, 200)
    got = localize.outer_inner_contrast(curves, curve, first, last, outer_ratio=ratio)
    want = [loop_contrast(curves[c], f, e, ratio) for c, f, e in zip(curve, first, last, strict=True)]
    assert_allclose(got, want, atol=1e-12)


def test_outer_inner_contrast_refuses_a_negative_margin():
    one = np.array([0])
    with pytest.raises(ValueError, match=r"-0\.1"):
        localize.outer_inner_contrast(np.ones((1, 3)), one, one, one, outer_ratio=-0.1)


def test_temporal_iou_equals_a_loop(rng):
    segment, _, _ = proposals(rng, 30, 1)
    jitted = jax.jit(lambda s, e: localize.temporal_iou(s[:, None], s[None], extra=e))
    for plus_one in (False, True):
        want = [[loop_iou(a, b, float(plus_one)) for b in segment] for a in segment]
        got = localize.temporal_iou(segment[:, None], segment[None], extra=float(plus_one))
        assert_allclose(got, want, rtol=1e-15)
        shifted = (segment - segment.min()).astype(np.float32)
        assert_allclose(jitted(shifted, float(plus_one)), want, rtol=1e-4, atol=1e-5)


def test_temporal_iou_of_an_empty_union_is_zero():
    # A point with itself, and touching segments of one second, which a second added makes overlap.
    a, b = np.array([[3.0, 3.0], [0.0, 1.0]]), np.array([[3.0, 3.0], [1.0, 2.0]])
    assert_array_equal(localize.temporal_iou(a, b), [0, 0])
    assert_allclose(localize.temporal_iou(a, b, extra=1.0), [1, 1 / 3])


def fused_scores(rng, num_videos, num_snippets, num_classes):
    scores = rng.uniform(size=(num_videos, num_snippets, num_classes))
    return scores, rng.dirichlet(np.ones(num_classes), num_videos), rng.uniform(5, 90, num_videos)


@pytest.mark.parametrize("num_snippets", [1, 2, 13])
def test_localize_equals_a_loop(rng, num_snippets):
    scores, video_scores, durations = fused_scores(rng, 5, num_snippets, 4)
    scores[0] = 0
    scores[1] = 1
    options = Localization(scale=3, score_weight=0.5, nms_plus_one=False)
    got = localize.localize(scores, video_scores, durations, options=options)
    row = 0
    for video in range(5):
        chosen = [c for c in range(4) if video_scores[video, c] >= 0.25]
        for label in chosen or [int(video_scores[video].argmax())]:
            curve = loop_upsample(scores[video, :, label], 3)
            runs = loop_propose(curve[None], localize.THRESHOLDS, drop_lone_first=True)
            seconds = durations[video] / len(curve)
            segment = np.array([[first * seconds, (last + 1) * seconds] for *_, first, last in runs])
            score = [
                loop_contrast(curve, first, last, 0.15) + 0.5 * video_scores[video, label] for *_, first, last in runs
            ]
            group = np.zeros(len(runs), np.int64)
            for i, value in loop_greedy(segment, np.array(score), group, 0.4, 0.0, sigma=0.35):
                assert (got.video[row], got.label[row]) == (video, label)
                assert_allclose(got.segment[row], segment[i], atol=1e-10)
                assert_allclose(got.score[row], value, atol=1e-10)
                row += 1
    assert row == len(got.score)
    assert not (got.video == 0).any()  # a silent video has no detection


def test_localize_does_not_depend_on_blocks_or_on_other_videos(rng, monkeypatch):
    scores, video_scores, durations = fused_scores(rng, 6, 10, 3)
    want = localize.localize(scores, video_scores, durations)
    alone = localize.localize(scores[2:3], video_scores[2:3], durations[2:3])
    part = want.take(want.video == 2)
    assert_array_equal(part.segment, alone.segment)
    assert_array_equal(part.score, alone.score)
    monkeypatch.setattr(segments, "_BLOCK_SAMPLES", 1)
    for got_column, want_column in zip(localize.localize(scores, video_scores, durations), want, strict=True):
        assert_array_equal(got_column, want_column)


def test_localize_of_no_video_is_empty():
    got = localize.localize(np.zeros((0, 7, 2)), np.zeros((0, 2)), np.zeros(0))
    assert [column.shape for column in got] == [(0,), (0,), (0, 2), (0,)]


@pytest.mark.parametrize(
    ("which", "value", "message"),
    [
        (0, np.nan, "^scores of video 2 hold NaN"),
        (1, np.inf, "^video_scores of video 2 hold"),
        (2, np.nan, "^durations of video 2 hold"),
        (2, 0.0, r"^duration of video 2 is 0\.0 s"),
    ],
)
def test_localize_names_the_video_that_is_broken(rng, which, value, message):
    arrays = fused_scores(rng, 4, 5, 2)
    arrays[which][2] = value
    with pytest.raises(ValueError, match=message):
        localize.localize(*arrays)


def test_localize_shows_shapes_it_cannot_use():
    with pytest.raises(ValueError, match=r"scores\.shape=\(2, 0\)"):
        localize.localize(np.zeros((1, 0, 2)), np.ones((1, 2)), np.ones(1))
    unchecked = inspect.unwrap(localize.localize)  # past the shape checks that only tests have
    with pytest.raises(ValueError, match=r"\(2, 5, 3\), \(2, 4\) and \(2,\)"):
        unchecked(np.zeros((2, 5, 3)), np.zeros((2, 4)), np.ones(2))


def test_golden_upsampling(golden):
    arrays = golden.arrays("localize")
    names = [name for name in arrays if re.fullmatch(r"unit/up_scale\d+", name)]
    assert names
    for name in names:
        got = localize.upsample(np.moveaxis(arrays["unit/up_in"], 0, -1), scale=int(name.split("scale")[1]))
        assert_allclose(np.moveaxis(got, -1, 0), arrays[name], rtol=0, atol=1e-13)


def test_golden_contrast(golden):
    arrays, notes = golden.arrays("localize"), golden.notes("localize")
    curves = arrays["unit/oic_wtcam"][:, :, 0].T
    cases = 0
    for name, lists in notes["unit_oic_outputs"].items():
        match = re.fullmatch(r"oic_lambda([\d.]+)_gamma([\d.]+)", name)
        if match is None:
            continue
        ratio, weight = map(float, match.groups())
        for column, rows in enumerate(lists):
            index = arrays[f"unit/oic_idx{column}"]
            first = index[np.diff(index, prepend=-2) > 1]
            last = index[np.diff(index, append=index[-1] + 2) > 1]
            contrast = localize.outer_inner_contrast(
                curves, np.full(len(first), column), first, last, outer_ratio=ratio
            )
            label, score, start, end = np.array(rows).T
            video_score = arrays["unit/oic_final_score"][label.astype(int)]
            assert_allclose(contrast + weight * video_score, score, rtol=0, atol=1e-12)
            seconds = end[0] / (last[0] + 1)
            assert_allclose(first * seconds, start, atol=1e-12)
            assert_allclose((last + 1) * seconds, end, atol=1e-12)
            cases += 1
    assert cases


def test_golden_lone_first_sample(golden):
    lists = golden.notes("localize")["unit_oic_outputs"]["oic_only_index0_active"]
    curves = np.zeros((len(lists), len(golden.arrays("localize")["unit/oic_wtcam"])))
    curves[:, 0] = 0.7
    runs = localize.propose(curves, thresholds=(0.5,))
    assert [np.count_nonzero(runs.curve == g) for g in range(len(lists))] == [len(rows) for rows in lists]


def test_golden_videos(golden):
    arrays, notes = golden.arrays("localize"), golden.notes("localize")
    config = notes["config"]
    names = notes["class_dict"]
    options = Localization(
        class_threshold=config["class_thresh"],
        thresholds=tuple(config["act_thresh"]),
        scale=config["scale"],
        outer_ratio=config["gamma_in_config"],  # where the published call binds it
        nms_threshold=config["nms_thresh"],
        nms_decay=config["nms_alpha"],
    )
    for v, video in enumerate(notes["videos"]):
        chosen = arrays[f"v{v}/pred"]
        video_scores = arrays[f"v{v}/final_score"]
        fused = arrays[f"v{v}/combined_cas_pred"]
        selected = localize.select_classes(video_scores[None], threshold=config["class_thresh"])
        assert_array_equal(np.flatnonzero(selected[0]), np.sort(chosen))

        upsampled = localize.upsample(fused.T, scale=config["scale"]).T
        for name, want in arrays.items():
            if match := re.fullmatch(rf"v{v}/upsampled_every(\d+)", name):
                assert_allclose(upsampled[:: int(match[1])], want, rtol=0, atol=1e-14)
            if match := re.fullmatch(rf"v{v}/upsampled_last(\d+)", name):
                assert_allclose(upsampled[-int(match[1]) :], want, rtol=0, atol=1e-14)

        scores = np.zeros((1, len(fused), len(video_scores)), np.float32)
        scores[0][:, chosen] = fused
        proposed, detected = (
            localize.localize(
                scores,
                video_scores[None],
                np.array([video["vid_num_seg"] * 16 / config["feature_fps"]]),
                options=options,
                suppress=suppress,
            )
            for suppress in (keep_all, None)
        )
        for label in chosen:
            for table, stage in ((proposed, "nms_in"), (detected, "nms_out")):
                got, want = table.take(table.label == label), arrays[f"v{v}/c{label}/{stage}"]
                assert_allclose(got.segment, want[:, 2:], rtol=0, atol=1e-10)
                assert_allclose(got.score, want[:, 1], rtol=0, atol=1e-11)
            got = detected.take(detected.label == label)
            final = [r for r in notes["final_results"][video["name"]] if r["label"] == names[str(label)]]
            assert_allclose(got.segment, [r["segment"] for r in final], rtol=0, atol=1e-10)
            assert_allclose(got.score, [r["score"] for r in final], rtol=0, atol=1e-11)
        assert len(detected.score) == len(notes["final_results"][video["name"]])
