"""Every protocol against a loop that judges as its program does, prediction after prediction."""

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from casejax.errors import DataError
from casejax.evaluate.detection import evaluate_detections
from casejax.evaluate.protocols import A2CL_PT, CASE, PROTOCOLS, Protocol, compared, judge, touches
from casejax.records import SegmentTable

CLASSES = list("abcd")
VIDEOS = ["one", "video_test_0000270", "two", "v_video_test_0001292.mp4", "three", "video_test_0001496", "four"]
SKIPPED = {
    "case": {1, 3, 5},
    "wtalc": {3},
    "co2": {3},
    "a2clpt": {1, 3, 5},
    "opentad": {1, 3},
    "activitynet": set(),
}


def table(*rows):
    """Rows of (video, label, start, end, score)."""
    columns = np.array(rows, float).reshape(-1, 5).T
    return SegmentTable.from_rows(columns[0], columns[1], columns[2:4].T, columns[4])


def random_tables(rng, count, num_truth, *, last=4, grid=0.4):
    """Predictions near the ground truth, and ambiguous intervals; scores, tIoUs and whole segments often tie."""

    def draw(rows):
        start = rng.integers(0, 40, rows) * grid
        segment = np.stack([start, start + rng.integers(1, 12, rows) * grid], axis=1)
        score = np.round(rng.uniform(size=rows), 1)
        return SegmentTable(rng.integers(0, len(VIDEOS), rows), rng.integers(0, last, rows), segment, score)

    truth = draw(num_truth)
    truth = SegmentTable(*(np.concatenate([c, c[: num_truth // 4]]) for c in truth))  # some twice
    near = truth.take(rng.integers(0, len(truth.score), count))
    shift = rng.integers(-2, 3, (count, 1)) * grid
    near = near._replace(segment=near.segment + shift, score=np.round(rng.uniform(size=count), 1))
    predictions = SegmentTable(*map(np.concatenate, zip(near, draw(count // 2), strict=True)))
    return predictions, truth, draw(3)


def rows_of(table):
    return [
        {"video": int(v), "label": int(c), "start": float(s), "end": float(e), "score": float(x)}
        for v, c, (s, e), x in zip(*table, strict=True)
    ]


def seconds_tiou(a, b):
    overlap = max(0.0, min(a["end"], b["end"]) - max(a["start"], b["start"]))
    union = (a["end"] - a["start"]) + (b["end"] - b["start"]) - overlap
    return overlap / union if union > 0 else 0.0


def set_tiou(a, b):
    a, b = (set(range(int(row["start"]), int(row["end"]))) for row in (a, b))
    return len(a & b) / len(a | b) if a | b else 0.0


def loop_map(name, predictions, truth, ambiguous, tiou):
    """mAP at one threshold, in loops; what the programs do differently is written out by their names."""
    predictions, truth, ambiguous = (
        [row for row in rows_of(each) if row["video"] not in SKIPPED[name]] for each in (predictions, truth, ambiguous)
    )
    grid = name in ("wtalc", "a2clpt")
    overlap = set_tiou if grid else seconds_tiou
    if grid or name == "co2":
        for row in truth + ambiguous + (predictions if grid else []):
            row["start"], row["end"] = (round(row[key] * 25 / 16) for key in ("start", "end"))
    if name == "co2":
        for row in predictions:
            row["start"], row["end"] = (row[key] * 25 / 16 for key in ("start", "end"))
    if name == "opentad":
        once = []
        for row in truth:
            if not any(
                row["video"] == old["video"]
                and row["label"] == old["label"]
                and abs(row["start"] - old["start"]) <= 1e-3
                and abs(row["end"] - old["end"]) <= 1e-3
                for old in once
            ):
                once.append(row)
        truth = once
    listed = predictions
    if name in ("wtalc", "co2", "a2clpt"):
        predictions = [
            row for row in listed if not any(a["video"] == row["video"] and overlap(a, row) > 0 for a in ambiguous)
        ]
    aps = []
    for c in range(len(CLASSES)):
        free = [row for row in truth if row["label"] == c]
        mine = [row for row in predictions if row["label"] == c]
        count = len(free)
        if not count:
            continue
        if name == "a2clpt" and not any(row["label"] == c for row in listed):
            continue
        if name == "wtalc" and not mine:
            return 0.0
        if name not in ("wtalc", "a2clpt"):
            mine, free = mine[::-1], free[::-1]
        mine = sorted(mine, key=lambda row: -row["score"])
        hits = []
        for row in mine:
            fits = [g for g in free if g["video"] == row["video"] and overlap(row, g) >= tiou]
            if not fits:
                hits.append(0)
                continue
            hits.append(1)
            best = fits[0] if name == "wtalc" else max(fits, key=lambda g: overlap(row, g))
            free = [g for g in free if g is not best]
        precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
        if name == "wtalc":
            aps.append(sum(p for p, hit in zip(precision, hits, strict=True) if hit) / count)
        else:
            aps.append(sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / count)
    return np.mean(aps) if aps else np.nan


# ---- against loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize(("count", "num_truth", "last"), [(0, 6, 4), (6, 3, 4), (60, 30, 4), (90, 60, 3), (120, 20, 4)])
def test_a_protocol_judges_as_its_program(rng, name, count, num_truth, last):
    """With `last` 3 the class d has neither ground truth nor predictions."""
    predictions, truth, ambiguous = random_tables(rng, count, num_truth, last=last)
    got = judge(predictions, truth, CLASSES, PROTOCOLS[name], videos=VIDEOS, ambiguous=ambiguous)
    want = [loop_map(name, predictions, truth, ambiguous, tiou) for tiou in PROTOCOLS[name].tious]
    assert_allclose(got.mean_ap, want, rtol=0, atol=1e-12)
    assert count < 60 or want[0] > 0.1


def test_no_two_protocols_of_thumos_agree(rng):
    predictions, truth, ambiguous = random_tables(rng, 120, 60)
    values = [
        judge(predictions, truth, CLASSES, replace(each, tious=(0.5,)), videos=VIDEOS, ambiguous=ambiguous).mean_ap[0]
        for each in PROTOCOLS.values()
    ]
    assert len(set(values)) == len(PROTOCOLS) == 6


def test_every_field_that_is_not_a_description_changes_the_number(rng):
    """A field that decided nothing would leave the result of another value as it is."""
    predictions, truth, ambiguous = random_tables(rng, 200, 80)
    predictions = predictions.take(predictions.label > 0)
    base = replace(CASE, tious=(0.3, 0.5), averages=((0.3, 0.5),))
    others = {
        "without": ("one",),
        "unique_ground_truth": True,
        "ambiguous_filter": True,
        "units": "whole snippets",
        "tious": (0.4, 0.5),
        "matching": "first free ground truth",
        "ties": "first listed first",
        "interpolation": "not interpolated",
        "class_mean": "classes with both ground truth and predictions",
    }
    described = {"name", "ground_truth", "num_videos", "label_source", "averages"}  # averages: read by whoever prints
    assert {field.name for field in fields(Protocol)} == set(others) | described

    def mean_ap(protocol):
        return judge(predictions, truth, CLASSES, protocol, videos=VIDEOS, ambiguous=ambiguous).mean_ap

    for name, value in others.items():
        assert (mean_ap(replace(base, **{name: value})) != mean_ap(base)).any(), name
    half = replace(base, units="snippets, whole ones for the ground truth")
    assert (mean_ap(half) != mean_ap(replace(base, units="whole snippets"))).any()
    zero = replace(base, class_mean="classes with ground truth, 0 as soon as one has no prediction")
    assert_array_equal(mean_ap(zero), [0, 0])


def test_case_is_the_program_of_activitynet(rng):
    predictions, truth, ambiguous = random_tables(rng, 60, 30)
    got = judge(predictions, truth, CLASSES, replace(CASE, without=()), videos=VIDEOS, ambiguous=ambiguous)
    want = evaluate_detections(predictions, truth, CLASSES)
    assert_array_equal(got.ap, want.ap)
    assert CASE.tious == tuple(np.linspace(0.1, 0.7, 7))
    assert CASE.averages == ((0.1, 0.5), (0.3, 0.7), (0.1, 0.7))


# ---- case by case ----------------------------------------------------------------------------------------


def one_map(predictions, truth, name, **options):
    protocol = replace(PROTOCOLS[name], tious=(0.5,))
    result = judge(predictions, truth, ["a", "b"], protocol, videos=["x", "y"], **options)
    return result, result.mean_ap.item()


def test_the_first_free_instance_is_taken_though_another_fits_better():
    # The first prediction equals the second instance; the second one fits the first instance alone.
    truth = table((0, 0, 0, 6.4, 1), (0, 0, 1.28, 7.68, 1))
    predictions = table((0, 0, 1.28, 7.68, 0.9), (0, 0, 0, 6.4, 0.8), (0, 0, -3.2, 5.12, 0.7))
    assert one_map(predictions, truth, "wtalc")[1] == 1
    late = predictions.take(np.array([0, 2]))  # fits the first instance, which is taken, not the second
    assert one_map(late, truth, "wtalc")[1] == 0.5
    assert one_map(late, truth, "a2clpt")[1] == 1


def test_of_equals_the_first_or_the_last_listed_is_taken():
    # The first prediction overlaps both instances alike; only the first instance serves the second prediction.
    truth = table((0, 0, 0, 10, 1), (0, 0, 10, 20, 1))
    predictions = table((0, 0, 5, 15, 0.9), (0, 0, 0, 10, 0.8))
    # Of two predictions with one score the hit is listed first.
    equal = table((0, 0, 0, 10, 0.5), (0, 0, 50, 60, 0.5))
    want = {"case": (1, 0.5), "wtalc": (0.5, 1), "co2": (1, 0.5), "a2clpt": (0.5, 1), "opentad": (1, 0.5)}
    for name, values in want.items():
        protocol = replace(PROTOCOLS[name], tious=(0.3,))
        got = [
            judge(found, there, ["a"], protocol, videos=["x"], snippet_seconds=1.0).mean_ap.item()
            for found, there in ((predictions, truth), (equal, truth.take(np.array([0]))))
        ]
        assert got == list(values), name


def test_one_class_without_a_prediction():
    truth = table((0, 0, 0, 6.4, 1), (0, 1, 0, 6.4, 1))
    found = table((0, 0, 0, 6.4, 1))
    want = {"case": 0.5, "wtalc": 0, "co2": 0.5, "a2clpt": 1, "opentad": 0.5, "activitynet": 0.5}
    for name, value in want.items():
        result, mean = one_map(found, truth, name)
        assert mean == value, name
        assert result.ap.tolist() == [[1], [0]]
        assert result.without_predictions == (("b",) if name != "a2clpt" else ())
        assert result.left_out == (("b",) if name == "a2clpt" else ())
        assert result.voided_by == (("b",) if name == "wtalc" else ())


def test_a_class_whose_predictions_are_all_ambiguous():
    truth = table((0, 0, 0, 6.4, 1), (0, 1, 12.8, 19.2, 1))
    predictions = truth._replace(score=np.array([1.0, 2.0]))
    filtered = {"ambiguous": truth.take(np.array([1]))}
    want = {"case": 1, "wtalc": 0, "co2": 0.5, "a2clpt": 0.5, "opentad": 1, "activitynet": 1}
    assert {name: one_map(predictions, truth, name, **filtered)[1] for name in want} == want


def test_an_instance_annotated_twice():
    truth = table((0, 0, 0, 6.4, 1), (0, 0, 0.0008, 6.4, 1), (1, 0, 0, 6.4, 1), (0, 0, 0.002, 6.4, 1))
    result, mean = one_map(truth.take(np.array([0, 2, 3])), truth, "opentad")
    assert (mean, result.num_ground_truth.tolist()) == (1, [3, 0])
    assert one_map(truth.take(np.array([0, 2, 3])), truth, "case")[1] == 0.75


def test_nothing_to_judge(rng):
    _, truth, _ = random_tables(rng, 3, 8)
    for name, protocol in PROTOCOLS.items():
        got = judge(table(), truth, CLASSES, protocol, videos=VIDEOS).mean_ap
        assert_array_equal(got, np.full(len(protocol.tious), np.nan if name == "a2clpt" else 0))
        got = judge(truth, table(), CLASSES, protocol, videos=VIDEOS).mean_ap
        assert_array_equal(got, np.full(len(protocol.tious), np.nan))


def test_times_are_rounded_as_published():
    times = np.arange(0, 4000) / 10
    rows = SegmentTable.from_rows(np.zeros(4000), np.zeros(4000), np.stack([times, times + 0.1], axis=1))
    grid = compared(rows, rows, ["a"], A2CL_PT, videos=["x"]).predictions.segment[:, 0]
    assert_array_equal(grid, [round(float(t) * 25 / 16) for t in times])
    index = np.arange(3000)
    rows = SegmentTable.from_rows(0 * index, 0 * index, np.stack([index, index + 1], axis=1) * 0.64)
    assert_array_equal(compared(rows, rows, ["a"], A2CL_PT, videos=["x"]).predictions.segment[:, 0], index)


def test_segments_that_meet_do_not_touch():
    others = table((0, 0, 2, 3, 1), (0, 0, 5, 5, 1), (2, 0, 0, 9, 1))
    segments = table((0, 1, 0, 2, 1), (0, 1, 2.5, 2.6, 1), (0, 0, 3, 9, 1), (1, 0, 2, 3, 1), (2, 3, 8, 20, 1))
    assert_array_equal(touches(segments, others), [False, True, False, False, True])


# ---- what is refused, what is said -----------------------------------------------------------------------


def test_unusable_input_is_refused():
    good = table((0, 0, 0, 1, 1))
    for bad, message in (
        (good._replace(label=np.array([7])), "row 0: label 7 is no index into the 2 classes"),
        (good._replace(video=np.array([2])), "row 0: video 2 is no index into the 2 videos; number"),
        (good._replace(video=np.array([-1])), "row 0: video -1"),
        (good._replace(score=np.array([np.nan])), "row 0: .*score nan"),
    ):
        with pytest.raises(DataError, match=f"predictions, {message}"):
            judge(bad, good, ["a", "b"], CASE, videos=["x", "y"])
        with pytest.raises(DataError, match=f"ground truth, {message}"):
            judge(good, bad, ["a", "b"], CASE, videos=["x", "y"])
    with pytest.raises(ValueError, match="snippet_seconds must be positive and finite, got 0"):
        judge(good, good, ["a"], CASE, videos=["x"], snippet_seconds=0)
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], got \[0\.0\]"):
        judge(good, good, ["a"], replace(CASE, tious=(0.0,)), videos=["x"])


@pytest.mark.parametrize("field", ["units", "matching", "ties", "interpolation", "class_mean"])
def test_a_word_that_decides_nothing_is_refused(field):
    protocol = replace(CASE)
    object.__setattr__(protocol, field, "other")  # under test, the type checker would be first to refuse it
    with pytest.raises(ValueError, match=f"{field} of a protocol must be one of .*, got 'other'"):
        protocol.__post_init__()


def test_a_protocol_describes_itself_in_one_line():
    line = CASE.describe(210, 3311, selection="last step")
    for part in ("case", "210 videos", "3311 instances", "seconds", "0.3, 0.4", "filter off", "last step"):
        assert part in line
    assert "\n" not in line
    line = A2CL_PT.describe(210, 3234)
    assert "ambiguous filter on, whole snippets, tIoU 0.1, 0.2," in line
    assert "mean over classes with both ground truth and predictions" in line
    assert "selection: not stated" in line
    assert len({protocol.describe(1, 1) for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)
