"""The bootstrap over videos against data sets that are literally copied together."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console

from casejax.errors import DataError
from casejax.evaluate import bootstrap
from casejax.evaluate.bootstrap import bootstrap_detections, bootstrap_difference
from casejax.evaluate.classification import ClassificationMetrics
from casejax.evaluate.detection import evaluate_detections
from casejax.evaluate.protocols import CASE, PROTOCOLS, judge
from casejax.records import SegmentTable
from casejax.report import tables as report

TIOUS = (0.1, 0.3, 0.5, 0.75)
CLASSES = list("abcde")


def named(num_videos):
    return [f"video {v}" for v in range(num_videos)]


def at(*tious):
    """The protocol of CASE at other thresholds."""
    return replace(CASE, tious=tious)


def draws(num_videos, num_resamples, seed=0):
    """How often each resample holds each video."""
    chance = np.full(num_videos, 1 / num_videos)
    return np.random.default_rng(seed).multinomial(num_videos, chance, size=num_resamples)


def copied(table, times):
    """The table of a data set with `times[v]` videos in place of video v, copies of a row side by side."""
    repeats = times[table.video]
    first = np.cumsum(times) - times
    copy = np.concatenate([np.arange(n) for n in repeats]) if len(repeats) else repeats
    out = table.take(np.repeat(np.arange(len(table.video)), repeats))
    return out._replace(video=first[out.video] + copy.astype(int))


def random_tables(rng, num_videos, count, num_truth, *, ties):
    """Predictions near the ground truth of four classes; with `ties` scores and times lie on coarse grids."""
    start = rng.integers(0, 30, num_truth) * 1.0
    segment = np.stack([start, start + rng.integers(1, 9, num_truth)], axis=1)
    truth = SegmentTable(
        rng.integers(0, num_videos, num_truth), rng.integers(0, 4, num_truth), segment, np.ones(num_truth)
    )
    predictions = truth.take(rng.integers(0, num_truth, count))
    shift = rng.integers(-3, 4, (count, 1)) if ties else rng.normal(0, 2, (count, 1))
    score = rng.uniform(size=count)
    label = np.where(rng.uniform(size=count) < 0.8, predictions.label, rng.integers(0, 4, count))
    return (
        predictions._replace(
            segment=predictions.segment + shift, score=np.round(score, 1) if ties else score, label=label
        ),
        truth,
    )


def simulated(rng, num_videos, num_classes):
    """A test set of one class a video, in which some videos are harder than others."""
    truth, predictions = [], []
    for v in range(num_videos):
        label, quality = v % num_classes, rng.beta(2, 2)
        for i in range(rng.integers(2, 20)):
            start = 20.0 * i
            truth.append((v, label, start, start + 5, 1.0))
            if rng.uniform() < quality:
                moved = start + rng.normal()
                predictions.append((v, label, moved, moved + 5, quality / 2 + rng.uniform()))
            for _ in range(rng.poisson(2 * (1 - quality))):
                wrong = label if rng.uniform() < 0.8 else rng.integers(num_classes)
                start = rng.uniform(0, 400)
                predictions.append((v, wrong, start, start + 5, rng.uniform()))
    columns = (np.array(rows).T for rows in (predictions, truth))
    return [SegmentTable.from_rows(c[0], c[1], c[2:4].T, c[4]) for c in columns]


def table(*rows):
    """Rows of (video, label, start, end, score)."""
    columns = np.array(rows, float).reshape(-1, 5).T
    return SegmentTable.from_rows(columns[0], columns[1], columns[2:4].T, columns[4])


# ---- against copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("num_videos", "count", "num_truth"), [(1, 9, 3), (3, 40, 7), (8, 150, 40), (20, 90, 12)])
def test_a_resample_is_the_evaluation_of_copied_videos(rng, num_videos, count, num_truth, ties):
    predictions, truth = random_tables(rng, num_videos, count, num_truth, ties=ties)
    result = bootstrap_detections(
        predictions, truth, CLASSES, videos=named(num_videos), protocol=at(*TIOUS), num_resamples=40, seed=5
    )
    for got, times in zip(result.mean_ap, draws(num_videos, 40, seed=5), strict=True):
        want = evaluate_detections(copied(predictions, times), copied(truth, times), CLASSES, tious=TIOUS)
        assert_allclose(got, want.mean_ap, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(("num_videos", "count"), [(3, 40), (8, 150), (8, 12)])
def test_a_resample_is_what_judge_gives_for_copied_videos(rng, name, num_videos, count):
    """Video 1292 is in no protocol of THUMOS14; with few videos, classes often lose their truth or predictions."""
    predictions, truth = random_tables(rng, num_videos, count, 2 * num_videos, ties=True)
    ambiguous = truth.take(np.array([0]))._replace(segment=np.array([[4.0, 6.0]]))
    protocol = PROTOCOLS[name]
    videos = named(num_videos)
    videos[1] = "video_test_0001292"
    options = {"protocol": protocol, "snippet_seconds": 0.7}
    result = bootstrap_detections(
        predictions, truth, CLASSES, videos=videos, ambiguous=ambiguous, **options, num_resamples=40, seed=5
    )
    kept = np.flatnonzero([protocol.keeps(video) for video in videos])
    assert result.num_videos == num_videos - (name != "activitynet")
    for got, drawn in zip(result.mean_ap, draws(len(kept), 40, seed=5), strict=True):
        times = np.zeros(num_videos, int)
        times[kept] = drawn
        tables = [copied(each, times) for each in (predictions, truth, ambiguous)]
        want = judge(*tables[:2], CLASSES, videos=named(times.sum()), ambiguous=tables[2], **options)
        assert_allclose(got, want.mean_ap, rtol=0, atol=1e-12)


def test_without_equal_scores_the_order_of_the_copies_is_free(rng):
    predictions, truth = random_tables(rng, 6, 80, 20, ties=False)
    result = bootstrap_detections(predictions, truth, CLASSES, videos=named(6), protocol=at(*TIOUS), num_resamples=20)
    for got, times in zip(result.mean_ap, draws(6, 20), strict=True):
        again = copied(predictions, times)
        again = again.take(rng.permutation(len(again.score)))
        want = evaluate_detections(again, copied(truth, times), CLASSES, tious=TIOUS)
        assert_allclose(got, want.mean_ap, rtol=0, atol=1e-12)


def test_copies_of_a_row_stay_together_among_equal_scores():
    # Read from the end: hit, miss, hit. Drawn twice row by row that is h h m m h h, video by video h m h h m h.
    predictions = table((0, 0, 0, 10, 0.5), (0, 0, 50, 60, 0.5), (0, 0, 20, 30, 0.5))
    truth = table((0, 0, 0, 10, 1), (0, 0, 20, 30, 1))
    result = bootstrap_detections(predictions, truth, ["a"], videos=named(2), protocol=at(0.5), num_resamples=20)
    twice = result.mean_ap[draws(2, 20)[:, 0] == 2, 0]
    assert_allclose(twice, np.full(len(twice), (1 + 1 + 4 / 6 + 4 / 6) / 4))
    assert len(twice)
    videos = predictions.take(np.tile(np.arange(3), 2))._replace(video=np.repeat([0, 1], 3))
    other = evaluate_detections(videos, copied(truth, np.array([2])), ["a"], tious=[0.5])
    assert other.ap.item() == pytest.approx((1 + 3 / 4 + 3 / 4 + 4 / 6) / 4)


def test_a_single_video_has_no_spread(rng):
    predictions, truth = random_tables(rng, 1, 30, 8, ties=True)
    result = bootstrap_detections(predictions, truth, CLASSES, videos=named(1), num_resamples=5)
    want = evaluate_detections(predictions, truth, CLASSES)
    assert_allclose(result.interval, [want.mean_ap] * 2, rtol=0, atol=1e-12)
    assert_allclose(result.average_interval(0.3, 0.7), [want.average(0.3, 0.7)] * 2, rtol=0, atol=1e-12)


def test_blocks_of_resamples_change_nothing(rng, monkeypatch):
    predictions, truth = random_tables(rng, 6, 60, 20, ties=True)
    want = bootstrap_detections(predictions, truth, CLASSES, videos=named(6), num_resamples=50)
    for values in (1, 100):
        monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", values)
        got = bootstrap_detections(predictions, truth, CLASSES, videos=named(6), num_resamples=50)
        assert_array_equal(got.mean_ap, want.mean_ap)


# ---- behaviour, case by case -----------------------------------------------------------------------------


def test_seeds_are_reproducible(rng):
    predictions, truth = random_tables(rng, 6, 60, 20, ties=False)
    one, same, other = (
        bootstrap_detections(predictions, truth, CLASSES, videos=named(6), num_resamples=30, seed=seed)
        for seed in (1, 1, 2)
    )
    assert_array_equal(one.mean_ap, same.mean_ap)
    assert (one.mean_ap != other.mean_ap).any()


def test_a_class_of_one_video_counts_only_where_the_video_was_drawn():
    # Class 0 is found in both videos, class 1 only stands in the second and is missed there.
    predictions = table((0, 0, 0, 10, 0.9), (1, 0, 0, 10, 0.8))
    truth = table((0, 0, 0, 10, 1), (1, 0, 0, 10, 1), (1, 1, 0, 10, 1))
    result = bootstrap_detections(predictions, truth, CLASSES, videos=named(2), protocol=at(0.5), num_resamples=50)
    want = np.where(draws(2, 50)[:, 1] > 0, 0.5, 1.0)
    assert set(want) == {0.5, 1.0}
    assert_array_equal(result.mean_ap[:, 0], want)


def test_no_prediction_is_zero():
    truth = table((0, 0, 0, 10, 1), (1, 1, 0, 10, 1))
    result = bootstrap_detections(table(), truth, CLASSES, videos=named(2), num_resamples=20)
    assert_array_equal(result.interval, np.zeros((2, 7)))
    assert_array_equal(result.average_interval(0.1, 0.7), [0, 0])


def test_resamples_without_ground_truth_are_left_out():
    predictions, truth = table((0, 0, 0, 10, 1)), table((0, 0, 0, 10, 1))
    result = bootstrap_detections(predictions, truth, CLASSES, videos=named(3), protocol=at(0.5), num_resamples=50)
    assert_array_equal(np.isnan(result.mean_ap[:, 0]), draws(3, 50)[:, 0] == 0)
    assert_array_equal(result.interval, [[1], [1]])
    nothing = bootstrap_detections(predictions, table(), CLASSES, videos=named(3), num_resamples=4)
    assert_array_equal(nothing.interval, np.full((2, 7), np.nan))
    assert_array_equal(nothing.average_interval(0.1, 0.5), [np.nan, np.nan])


def test_one_resample_is_its_own_interval(rng):
    predictions, truth = random_tables(rng, 6, 60, 20, ties=False)
    result = bootstrap_detections(predictions, truth, CLASSES, videos=named(6), num_resamples=1)
    assert result.num_resamples == 1
    assert_array_equal(result.interval, result.mean_ap[[0, 0]])


def test_intervals_are_quantiles_of_the_resamples(rng):
    predictions, truth = random_tables(rng, 12, 200, 60, ties=False)
    options = {"videos": named(12), "num_resamples": 200}
    wide = bootstrap_detections(predictions, truth, CLASSES, **options)
    narrow = bootstrap_detections(predictions, truth, CLASSES, **options, level=0.5)
    assert_allclose(wide.interval, np.percentile(wide.mean_ap, [2.5, 97.5], axis=0))
    averages = wide.mean_ap[:, 2:].mean(axis=1)
    assert_allclose(wide.average_interval(0.3, 0.7), np.percentile(averages, [2.5, 97.5]))
    assert (wide.interval[0] < narrow.interval[0]).all()
    assert (narrow.interval[0] < narrow.interval[1]).all()
    assert (narrow.interval[1] < wide.interval[1]).all()
    with pytest.raises(ValueError, match=r"\[0\.8, 0\.9\]"):
        wide.average_interval(0.8, 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_resamples": 0}, "num_resamples must be a whole number from 1, got 0"),
        ({"videos": []}, "at least one video, protocol case keeps 0 of 0"),
        ({"videos": ["video_test_0000270", "v_video_test_0001292.mp4"]}, "keeps 0 of 2"),
        ({"level": 1.0}, r"level must lie in \(0, 1\), got 1\.0"),
        ({"level": float("nan")}, "got nan"),
        ({"protocol": at(0.0)}, r"\(0, 1\]"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    truth = table((0, 0, 0, 10, 1)).take(np.arange(len(options.get("videos", "12")) > 0))
    with pytest.raises(ValueError, match=message):
        bootstrap_detections(truth, truth, CLASSES, **{"videos": named(2), **options})


@pytest.mark.parametrize("video", [-1, 2])
def test_rows_of_unknown_videos_are_refused(video):
    good, bad = table((0, 0, 0, 10, 1)), table((0, 0, 0, 10, 1), (video, 0, 0, 10, 1))
    with pytest.raises(DataError, match=f"predictions, row 1: video {video} .* 2 videos"):
        bootstrap_detections(bad, good, CLASSES, videos=named(2))
    with pytest.raises(DataError, match="ground truth, row 1"):
        bootstrap_detections(good, bad, CLASSES, videos=named(2))


@pytest.mark.slow
def test_intervals_cover_the_map_of_the_population():
    rng = np.random.default_rng(1)
    want = evaluate_detections(*simulated(rng, 8000, 4), CLASSES, tious=(0.3, 0.5)).mean_ap
    inside = []
    for seed in range(150):
        sample = simulated(rng, 40, 4)
        result = bootstrap_detections(
            *sample, CLASSES, videos=named(40), protocol=at(0.3, 0.5), num_resamples=300, seed=seed
        )
        low, high = result.interval
        inside.append((low <= want) & (want <= high))
    coverage = np.mean(inside, axis=0)
    assert (coverage > 0.82).all(), coverage


# ---- two methods -----------------------------------------------------------------------------------------


def test_a_difference_is_taken_on_the_same_resamples(rng):
    predictions, truth = random_tables(rng, 12, 200, 60, ties=False)
    # Both err alike, but the second also misses every fifth instance: small, yet sure in every resample.
    predictions = predictions._replace(score=predictions.score - 1)
    found = truth._replace(score=rng.uniform(size=60))
    better, worse = (
        SegmentTable(*map(np.concatenate, zip(found.take(kept), predictions, strict=True)))
        for kept in (np.arange(60) >= 0, np.arange(60) % 5 > 0)
    )
    options = {"videos": named(12), "num_resamples": 100, "seed": 3}
    a = bootstrap_detections(better, truth, CLASSES, **options)
    b = bootstrap_detections(worse, truth, CLASSES, **options)
    difference = bootstrap_difference(a, b)
    assert_array_equal(difference.mean_ap, a.mean_ap - b.mean_ap)
    assert (difference.interval[0] > 0).all()
    assert_array_equal(bootstrap_difference(a, a).interval, np.zeros((2, 7)))


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"videos": named(3)}, {"num_resamples": 5}, {"protocol": at(0.5)}, {"level": 0.9}]
)
def test_a_difference_of_other_resamples_is_refused(other):
    truth = table((0, 0, 0, 10, 1))
    options = {"videos": named(2), "num_resamples": 4}
    a = bootstrap_detections(truth, truth, CLASSES, **options)
    b = bootstrap_detections(truth, truth, CLASSES, **{**options, **other})
    with pytest.raises(ValueError, match="paired bootstrap needs the same"):
        bootstrap_difference(a, b)


# ---- in the report ---------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(rng):
    predictions, truth = random_tables(rng, 12, 200, 60, ties=False)
    result = evaluate_detections(predictions, truth, CLASSES[:4])
    interval = bootstrap_detections(predictions, truth, CLASSES[:4], videos=named(12), num_resamples=50)
    return result, interval


def printed(result, intervals):
    console = Console(file=io.StringIO(), width=100)
    classes = ClassificationMetrics(1.0, 0.9)
    rows = {"untrained": (result, classes), "trained": (result, classes)}
    options = {"protocol": CASE, "num_videos": 12, "num_instances": 60, "selection": "last step"}
    report.print_results(console, rows, **options, intervals=intervals)
    return console.file.getvalue().splitlines()


def test_the_table_has_the_ends_of_an_interval_below_its_row(evaluated):
    result, interval = evaluated
    lines = printed(result, {"trained": interval})
    row = next(i for i, line in enumerate(lines) if line.startswith("trained"))
    for line, which, end in zip(lines[row + 1 : row + 3], ("low", "high"), (0, 1), strict=True):
        averages = [interval.average_interval(*bounds)[end] for bounds in CASE.averages]
        want = [f"{100 * value:.1f}" for value in [*interval.interval[end], *averages]]
        assert line.split() == ["95%", which, *want]
    assert max(map(len, lines[1:])) <= 100
    assert any("50 resamples of the videos" in line for line in lines)
    # The columns of the intervals line up with those of the number they belong to.
    assert lines[row].index(f"{100 * result.average(0.1, 0.7):.1f}", 60) == lines[row + 1].rindex(
        f"{100 * interval.average_interval(0.1, 0.7)[0]:.1f}"
    )


def test_a_perfect_result_fits_the_table_too():
    truth = table((0, 0, 0, 10, 1))
    result = evaluate_detections(truth, truth, ["a"])
    interval = bootstrap_detections(truth, truth, ["a"], videos=named(1), num_resamples=3, level=0.999)
    lines = printed(result, {"untrained": interval, "trained": interval})
    assert max(map(len, lines[1:])) <= 100
    assert sum(line.split() == ["99.9%", "high", *["100.0"] * 10] for line in lines) == 2
    assert sum("percentile interval" in line for line in lines) == 1


def test_without_intervals_the_table_is_as_before(evaluated):
    result, interval = evaluated
    plain = printed(result, None)
    assert not any("%" in line for line in plain[2:])
    kept = [line.split() for line in printed(result, {"trained": interval}) if "95%" not in line]
    assert kept == [line.split() for line in plain]


def test_the_summary_holds_the_interval(evaluated):
    result, interval = evaluated
    classes = ClassificationMetrics(1.0, 0.9)
    plain = report.summary(result, classes, CASE)
    full = json.loads(json.dumps(report.summary(result, classes, CASE, interval)))
    part = full.pop("interval")
    assert full == plain
    assert (part["level"], part["resamples"], part["seed"]) == (0.95, 50, 0)
    assert part["mAP"].keys() == plain["mAP"].keys()
    assert part["mAP"]["0.50"] == interval.interval[:, 4].tolist()
    assert part["average_mAP"].keys() == plain["average_mAP"].keys()
    assert part["average_mAP"]["0.1:0.5"] == interval.average_interval(0.1, 0.5).tolist()
