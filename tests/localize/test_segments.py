"""Localisation by its options: videos of their own lengths, scores that rank, suppression and what takes its place."""

import inspect
from dataclasses import replace
from functools import partial
from typing import get_args, get_type_hints

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from casejax import localize
from casejax.localize import Survivors, hard_nms, segments
from casejax.localize.nms import NMS
from casejax.records import Localization

LENGTHS = np.array([9, 1, 13, 2, 7])
THRESHOLDS = (0.2, 0.5, 0.7)
OF_BASES = Localization(
    thresholds=THRESHOLDS,
    scale=1,
    outer_ratio=0.4,
    outer_power=0.9,
    min_snippets=2,
    nms_unit="snippets",
    drop_lone_first=False,
)
FUSED = Localization(thresholds=THRESHOLDS, scale=2, fusion="student_t")
POSITIVE = Localization(proposals="positive", class_threshold=0.5, min_snippets=2)
SMOOTH = replace(OF_BASES, smooth_width=5, scale=3)


def keep_all(segment, score, group):
    return Survivors(np.arange(len(score)), score)


def assert_same_tables(got, want):
    for a, b in zip(got, want, strict=True):
        assert_array_equal(a, b)


@pytest.fixture
def padded(rng):
    """Scores, video scores, durations and ranking scores of five videos, noise behind the end of each."""
    scores, ranked = rng.uniform(size=(2, 5, 13, 3)).astype(np.float32)
    scores[3] = 0.6  # active throughout
    return scores, rng.dirichlet(np.ones(3), 5), 0.64 * LENGTHS.astype(float), ranked


def loop_contrast(curve, first, last, *, ratio, power, scale):
    """Mean inside less mean outside, sample by sample; widths grow with a power of the length in snippets."""
    snippets = (last - first + 1) / scale
    width = ratio * snippets**power * scale
    inside = [curve[i] for i in range(first, last + 1)]
    around = list(range(max(0, int(first - width)), first))
    around += range(last + 1, min(len(curve) - 1, int(last + width)) + 1)
    return np.mean(inside) - (np.mean([curve[i] for i in around]) if around else 0)


def loop_localize(arrays, *, scale, ratio, power, least):
    """(video, class, start, end, score) of the proposals of every video, cropped; no suppression, no lone first."""
    rows = []
    for v, length in enumerate(LENGTHS.tolist()):
        scores, video_scores, durations, ranked = (x[v] for x in arrays)
        for c in np.flatnonzero(localize.select_classes(video_scores[None])[0]):
            curve, other = (localize.upsample(x[:length, c], scale=scale) for x in (scores, ranked))
            seconds = durations / len(curve)
            for threshold in THRESHOLDS:
                first = None
                for i in range(len(curve) + 1):
                    active = i < len(curve) and curve[i] >= threshold
                    if active and first is None:
                        first = i
                    if first is not None and not active:
                        if least == 1 or (i - first) / scale >= least:
                            score = loop_contrast(other, first, i - 1, ratio=ratio, power=power, scale=scale)
                            rows.append((v, c, first * seconds, i * seconds, score + 0.2 * video_scores[c]))
                        first = None
    return rows


@pytest.mark.parametrize(("scale", "power", "least"), [(1, 1.0, 1), (1, 0.9, 2), (4, 0.5, 1), (4, 2.0, 3)])
def test_options_equal_a_loop(padded, scale, power, least):
    scores, video_scores, durations, ranked = padded
    options = replace(OF_BASES, scale=scale, outer_power=power, min_snippets=least, nms_unit="seconds")
    got = localize.localize(
        scores, video_scores, durations, options=options, ranked=ranked, lengths=LENGTHS, suppress=keep_all
    )
    want = loop_localize(padded, scale=scale, ratio=0.4, power=power, least=least)
    assert len(want) > 10
    assert {row[0] for row in want} == {v for v, length in enumerate(LENGTHS) if length >= least}
    video, label, start, end, score = map(np.array, zip(*want, strict=True))
    assert_array_equal(got.video, video)
    assert_array_equal(got.label, label)
    assert_allclose(got.segment, np.stack([start, end], axis=1), atol=1e-12)
    assert_allclose(got.score, score, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [Localization(), OF_BASES, FUSED, POSITIVE, SMOOTH, replace(POSITIVE, smooth_width=3)],
    ids=["case", "bases", "fused", "positive", "smooth", "smooth positive"],
)
@pytest.mark.parametrize("has_ranked", [False, True])
def test_a_padded_video_is_localised_as_if_it_were_alone(padded, options, has_ranked):
    scores, video_scores, durations, ranked = padded
    if options.proposals == "positive":
        scores = scores - np.float32(0.5)
    whole = partial(localize.localize, options=options)
    got = whole(scores, video_scores, durations, ranked=ranked if has_ranked else None, lengths=LENGTHS)
    rows = 0
    for v, length in enumerate(LENGTHS):
        one = slice(v, v + 1)
        own = {"ranked": ranked[one, :length]} if has_ranked else {}
        alone = whole(scores[one, :length], video_scores[one], durations[one], **own)
        part = got.take(got.video == v)
        for name in ("label", "segment", "score"):
            assert_array_equal(getattr(part, name), getattr(alone, name), err_msg=f"{name} of video {v}")
        assert (part.segment <= durations[v] * (1 + (1e-6 if options.fusion != "none" else 1e-12))).all()  # in float32
        rows += len(part.score)
    assert rows == len(got.score) > 4
    assert_array_equal(got.video, np.sort(got.video))


def test_padding_is_not_looked_at(padded):
    scores, video_scores, durations, ranked = padded
    behind = np.arange(13)[None, :, None] >= LENGTHS[:, None, None]
    for options in (Localization(), OF_BASES, POSITIVE, SMOOTH, replace(POSITIVE, smooth_width=3)):
        tables = [
            localize.localize(
                np.where(behind, value, scores),
                video_scores,
                durations,
                options=options,
                ranked=np.where(behind, -value, ranked),
                lengths=LENGTHS,
            )
            for value in (np.float32(0), np.float32(50))
        ]
        assert_same_tables(*tables)


@pytest.mark.parametrize("options", [SMOOTH, replace(SMOOTH, smooth_degree=2), replace(POSITIVE, smooth_width=3)])
def test_smoothing_is_that_of_the_scores_beforehand(padded, options):
    scores, video_scores, durations, ranked = padded
    if options.proposals == "positive":
        scores = scores - np.float32(0.5)
    before = []
    for x in (scores, ranked):
        smoothed = np.zeros_like(x)
        for v, length in enumerate(LENGTHS):
            for c in range(3):
                smoothed[v, :length, c] = localize.smooth(
                    x[v, :length, c], width=options.smooth_width, degree=options.smooth_degree
                )
        before.append(smoothed)
    run = partial(localize.localize, video_scores=video_scores, durations=durations, lengths=LENGTHS)
    got = run(scores, options=options, ranked=ranked)
    assert len(got.score) > 3
    plain = replace(options, smooth_width=1)
    assert_same_tables(got, run(before[0], options=plain, ranked=before[1]))
    other = run(scores, options=plain, ranked=ranked)
    assert len(other.score) != len(got.score)


def test_videos_of_full_length_are_those_without_lengths(padded):
    scores, video_scores, durations, ranked = padded
    for options in (Localization(), OF_BASES, POSITIVE):
        tables = [
            localize.localize(scores, video_scores, durations, options=options, ranked=ranked, lengths=lengths)
            for lengths in (None, np.full(5, 13))
        ]
        assert_same_tables(*tables)


def test_ranking_scores_change_scores_and_no_segment(padded):
    scores, video_scores, durations, ranked = padded
    run = partial(localize.localize, scores, video_scores, durations, options=Localization(scale=3), suppress=keep_all)
    plain, same, other = run(), run(ranked=scores.copy()), run(ranked=ranked)
    assert_same_tables(plain, same)
    for name in ("video", "label", "segment"):
        assert_array_equal(getattr(plain, name), getattr(other, name))
    assert (np.abs(plain.score - other.score) > 1e-3).mean() > 0.9


def test_suppression_gets_seconds_or_snippets(padded):
    scores, video_scores, durations, _ = padded
    seen = []

    def recording(segment, score, group):
        seen.append(segment)
        return hard_nms(segment, score, group, plus_one=True)

    tables = [
        localize.localize(
            scores, video_scores, durations, options=Localization(scale=4, nms_unit=unit), suppress=recording
        )
        for unit in ("seconds", "snippets")
    ]
    in_seconds, in_snippets = seen
    assert in_seconds.shape == in_snippets.shape
    assert len(in_snippets) > 20
    assert_array_equal(4 * in_snippets, np.round(4 * in_snippets))  # samples, four to a snippet
    assert in_snippets.max() <= 13
    ratio = in_seconds[:, 1] / in_snippets[:, 1]
    assert_allclose(np.unique(np.round(ratio, 9)), np.unique(np.round(durations / 13, 9)), rtol=1e-6)
    assert len(tables[0].score) != len(tables[1].score)  # one second added is not one snippet added
    assert (tables[1].segment[:, 1] <= durations[tables[1].video] + 1e-9).all()  # seconds come back all the same


@pytest.mark.parametrize(
    ("kind", "function", "arguments"),
    [
        ("decay_once", localize.decay_once_nms, {"threshold": 0.3, "sigma": 0.6}),
        ("soft", localize.soft_nms, {"sigma": 0.6}),
        ("hard", localize.hard_nms, {"threshold": 0.3}),
    ],
)
@pytest.mark.parametrize("plus_one", [False, True])
def test_suppression_is_the_one_that_the_options_name(padded, kind, function, arguments, plus_one):
    options = Localization(nms=kind, nms_threshold=0.3, nms_decay=0.6, nms_plus_one=plus_one)
    got = localize.localize(*padded[:3], options=options)
    own = partial(function, **arguments, plus_one=plus_one)
    assert_same_tables(got, localize.localize(*padded[:3], suppress=own))


def test_every_kind_that_the_options_have_is_known():
    kinds = get_type_hints(Localization)
    assert set(get_args(kinds["nms"])) == set(NMS)
    assert set(get_args(kinds["fusion"])) == {"none", *segments.TEMPLATES}
    assert all(getattr(localize, name) is template for name, template in segments.TEMPLATES.items())


def test_fusion_takes_the_place_of_suppression(padded):
    """Fused proposals of every video and class, in seconds."""
    tables = []

    def keep(segment, score, group):
        tables.append(localize.fuse_table(segment, score, group, template=localize.student_t))
        return keep_all(segment, score, group)

    kept = localize.localize(*padded[:3], options=replace(FUSED, fusion="none"), suppress=keep)
    got = localize.localize(*padded[:3], options=FUSED)
    assert_array_equal(got.segment, tables[0].segment)
    assert_array_equal(got.score, tables[0].score)
    owners = (np.unique(np.stack([table.video, table.label], axis=1), axis=0) for table in (got, kept))
    assert_array_equal(*owners)
    assert 5 <= len(got.score) < len(kept.score) / 2
    assert (got.segment[:, 1] <= padded[2][got.video] + 1e-4).all()


def test_positive_stretches_are_those_of_the_t_cams(padded):
    scores, video_scores, _, _ = padded
    logits = scores - np.float32(0.5)
    got = localize.localize(logits, video_scores, 3.0 * LENGTHS, options=POSITIVE, lengths=LENGTHS)
    tcams = [x[:length] for x, length in zip(logits, LENGTHS, strict=True)]
    want = localize.localize_tcam(tcams, class_threshold=0.5, min_snippets=2, snippet_seconds=3.0)
    assert len(want.score) > 4
    assert_same_tables(got, want)


def test_proposals_of_a_method_are_suppressed_by_video_and_class(rng):
    """Against doing it one video and class at a time; those of score 0 and without length are left out."""
    begin = rng.uniform(0, 20, (3, 12))
    own = np.stack([begin, begin + rng.uniform(1, 6, (3, 12))], axis=2)
    labels, scores, video = rng.integers(0, 3, (3, 12)), rng.random((3, 12)), rng.random((3, 3))
    own[1, 2, 1], scores[2, 4] = own[1, 2, 0], 0
    seconds = np.array([0.5, 2.0, 1.0])
    options = Localization(proposals="regressed", class_threshold=0.4, nms="hard", nms_threshold=0.2, min_snippets=2)
    options = replace(options, nms_plus_one=False)
    got = localize.localize_proposals(own, labels, scores, video, seconds, options=options)
    rows = []
    for v in range(3):
        for c in np.flatnonzero(localize.select_classes(video[v : v + 1], threshold=0.4)[0]):
            long = own[v, :, 1] - own[v, :, 0] >= 2
            mine = np.flatnonzero((labels[v] == c) & (scores[v] > 0) & long)
            kept = hard_nms(own[v, mine] * seconds[v], scores[v, mine], threshold=0.2)
            rows += [(v, c, *(own[v, mine[k]] * seconds[v]), s) for k, s in zip(kept.row, kept.score, strict=True)]
    assert len(rows) > 5
    assert_allclose(np.column_stack([got.video, got.label, got.segment, got.score]), rows)
    options = replace(options, fusion="gaussian")
    fused = localize.localize_proposals(own, labels, scores, video, seconds, options=options)
    with pytest.raises(ValueError, match='suppress takes the place of suppression, which needs fusion="none"'):
        localize.localize_proposals(own, labels, scores, video, seconds, options=options, suppress=keep_all)
    options = replace(options, fusion="none")
    assert 0 < len(fused.score) < (scores > 0).sum()
    with pytest.raises(ValueError, match=r"needs segments \(V, K, 2\).*got \(3, 12, 2\), \(3, 11\)"):
        inspect.unwrap(localize.localize_proposals)(own, labels[:, 1:], scores, video, seconds)
    with pytest.raises(ValueError, match="labels must lie from 0 to 1, got 0 to 2"):
        localize.localize_proposals(own, labels, scores, video[:, :2], seconds)
    with pytest.raises(ValueError, match="localize_proposals takes such segments"):
        localize.localize(scores[..., None], video[:, :1], seconds, options=options)


@pytest.mark.parametrize("options", [FUSED, POSITIVE])
def test_suppression_is_refused_where_nothing_is_suppressed(padded, options):
    with pytest.raises(ValueError, match=f'got "{options.proposals}" and "{options.fusion}"'):
        localize.localize(*padded[:3], options=options, suppress=keep_all)


def test_a_margin_of_power_one_is_the_plain_margin(rng):
    curves = rng.uniform(size=(4, 60))
    first = rng.integers(0, 60, 100)
    table = rng.integers(0, 4, 100), first, rng.integers(first, 60)
    plain = localize.outer_inner_contrast(curves, *table, outer_ratio=0.3, scale=5)
    assert_array_equal(plain, localize.outer_inner_contrast(curves, *table, outer_ratio=0.3))
    for power in (0.9, 0.5, 1.5):
        got = localize.outer_inner_contrast(curves, *table, outer_ratio=0.3, outer_power=power, scale=5)
        want = [loop_contrast(curves[c], f, e, ratio=0.3, power=power, scale=5) for c, f, e in zip(*table, strict=True)]
        assert_allclose(got, want, atol=1e-12)
        assert np.abs(got - plain).max() > 0.05


def test_no_video_has_no_detection():
    for options in (Localization(), FUSED, POSITIVE):
        nothing = np.zeros((0, 7, 2)), np.zeros((0, 2)), np.zeros(0)
        got = localize.localize(*nothing, options=options, lengths=np.zeros(0, int))
        assert [column.shape for column in got] == [(0,), (0,), (0, 2), (0,)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": np.array([9, 1, 14, 0, 7])}, "^length of video 2 is 14 snippets, expected 1 to 13"),
        ({"lengths": np.array([9, 1, 13, 0, 7])}, "^length of video 3 is 0 snippets, expected 1 to 13"),
        ({"lengths": np.array([9, 1])}, r"^lengths must have shape \(5,\), .* got \(2,\)"),
        ({"ranked": np.zeros((5, 12, 3))}, r"^ranked must have the shape of scores, \(5, 13, 3\), got \(5, 12, 3\)"),
    ],
)
def test_lengths_and_ranking_scores_that_do_not_fit_are_refused(padded, changed, message):
    unchecked = inspect.unwrap(localize.localize)  # past the shape checks that only tests have
    for options in (Localization(), POSITIVE):
        with pytest.raises(ValueError, match=message):
            unchecked(*padded[:3], options=options, **changed)


def test_a_ranking_score_that_is_no_number_is_refused_by_video(padded):
    scores, video_scores, durations, ranked = padded
    ranked[4, 2, 1] = np.nan
    with pytest.raises(ValueError, match=r"^ranked of video 4 hold NaN"):
        localize.localize(scores, video_scores, durations, ranked=ranked, lengths=LENGTHS)
