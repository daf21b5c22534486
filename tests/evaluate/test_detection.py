"""Detection mAP against the published program's numbers, its known behaviour, and plain loops."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from casejax.errors import DataError
from casejax.evaluate import detection
from casejax.evaluate.detection import evaluate_detections
from casejax.evaluate.protocols import CASE
from casejax.evaluate.results import parse_results
from casejax.records import SegmentTable


def loop_iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    return overlap / union if union > 0 else 0.0


def loop_ap(predictions, truth, label, tiou):
    """AP of one class at one threshold, one prediction after another."""
    positives = [j for j in range(len(truth.label)) if truth.label[j] == label]
    if not positives:
        return np.nan
    listed = [i for i in range(len(predictions.label)) if predictions.label[i] == label]
    taken, precision, recall, hits = set(), [], [], 0
    for n, i in enumerate(sorted(listed, key=lambda i: (-predictions.score[i], -i)), 1):
        rivals = [j for j in positives if truth.video[j] == predictions.video[i]]
        overlap = {j: loop_iou(predictions.segment[i], truth.segment[j]) for j in rivals}
        for j in sorted(rivals, key=lambda j: (-overlap[j], -j)):
            if overlap[j] >= tiou and j not in taken:
                taken.add(j)
                hits += 1
                break
        precision.append(hits / n)
        recall.append(hits / len(positives))
    precision, recall = [0.0, *precision, 0.0], [0.0, *recall, 1.0]
    for k in range(len(precision) - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    return sum((recall[k] - recall[k - 1]) * precision[k] for k in range(1, len(recall)))


def table(*segments, score=None, video=None, label=None):
    zeros = np.zeros(len(segments), int)
    return SegmentTable.from_rows(
        zeros if video is None else video, zeros if label is None else label, list(segments), score
    )


def one_ap(predictions, truth, tiou=0.5):
    """AP of the only class at one threshold."""
    return evaluate_detections(predictions, truth, ["Diving"], tious=[tiou]).ap.item()


def random_tables(rng, count, num_truth, *, step):
    """Times and scores on a grid, so that scores, overlaps and whole segments often tie."""

    def draw(rows):
        start = rng.integers(0, 30, rows) * step
        segment = np.stack([start, start + rng.integers(0, 12, rows) * step], axis=1)
        score = np.round(rng.uniform(size=rows), 1)
        return SegmentTable(rng.integers(0, 3, rows), rng.integers(0, 4, rows), segment, score)

    return draw(count), draw(num_truth)


# ---- against loops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "num_truth"), [(0, 5), (5, 0), (1, 1), (60, 12), (200, 60), (90, 300)])
@pytest.mark.parametrize("step", [1.0, 0.7])
def test_ap_equals_a_loop(rng, count, num_truth, step):
    predictions, truth = random_tables(rng, count, num_truth, step=step)
    tious = (0.1, 0.3, 0.5, 0.75, 1.0)
    result = evaluate_detections(predictions, truth, list("abcde"), tious=tious)
    want = [[loop_ap(predictions, truth, label, tiou) for tiou in tious] for label in range(5)]
    assert_allclose(result.ap, want, rtol=0, atol=1e-12)
    assert_array_equal(result.num_predictions, [np.sum(predictions.label == c) for c in range(5)])
    assert_array_equal(result.num_ground_truth, [np.sum(truth.label == c) for c in range(5)])


def test_a_long_chain_of_refusals():
    # Every prediction wants the instance before its own, where a better rank refuses it; the last of the
    # chain is left with nothing, and one hit elsewhere ranks below it.
    count = 60
    start = np.append(np.arange(count) * 1.0, 1000.0)
    predictions = table(*zip(start - 0.6, start + 9.4, strict=True), score=-start)
    truth = table(*zip(start, start + 10, strict=True)).take(np.arange(count + 1) != count - 1)
    want = (count - 1 + count / (count + 1)) / count
    assert loop_ap(predictions, truth, 0, 0.85) == pytest.approx(want)
    assert one_ap(predictions, truth, tiou=0.85) == pytest.approx(want)


def test_blocks_of_pairs_change_nothing(rng, monkeypatch):
    predictions, truth = random_tables(rng, 80, 40, step=1.0)
    want = evaluate_detections(predictions, truth, list("abcd"))
    for pairs in (1, 7):
        monkeypatch.setattr(detection, "_BLOCK_PAIRS", pairs)
        assert_array_equal(evaluate_detections(predictions, truth, list("abcd")).ap, want.ap)


def test_ap_does_not_depend_on_names_of_videos_or_unit_of_time(rng):
    predictions, truth = random_tables(rng, 80, 40, step=1.0)
    want = evaluate_detections(predictions, truth, list("abcd")).ap
    moved = [t._replace(video=7 - 2 * t.video, segment=t.segment * 4) for t in (predictions, truth)]
    assert_array_equal(evaluate_detections(*moved, list("abcd")).ap, want)


# ---- the published program's numbers ---------------------------------------------------------------------


def test_golden_average_precision(golden):
    notes = golden.notes("eval_synthetic")
    database = notes["ground_truth"]["database"]
    videos = list(database)
    assert notes["expected"]
    for expected in notes["expected"].values():
        classes = list(expected["ap"])
        rows = [
            (v, classes.index(annotation["label"]), annotation["segment"])
            for v, video in enumerate(database.values())
            for annotation in video["annotations"]
        ]
        truth = SegmentTable.from_rows(*zip(*rows, strict=True))
        predictions = parse_results(notes["predictions"], videos, classes).table
        result = evaluate_detections(predictions, truth, classes, tious=expected["thresholds"])
        assert_allclose(result.ap, list(expected["ap"].values()), rtol=0, atol=1e-12)
        assert_allclose(result.mean_ap, expected["mAP"], rtol=0, atol=1e-12)
        assert_allclose(result.average(0.0, 1.0), expected["average"], rtol=0, atol=1e-12)


# ---- behaviour, case by case -----------------------------------------------------------------------------


def test_one_prediction():
    assert one_ap(table([0, 10]), table([0, 10])) == 1
    assert one_ap(table([0, 4]), table([0, 10])) == 0


def test_a_second_prediction_of_one_instance_is_a_false_positive():
    truth = table([0, 10], [20, 30])
    predictions = table([0, 10], [0, 10], [20, 30], score=[0.9, 0.8, 0.7])
    assert one_ap(predictions, truth) == pytest.approx((1 + 2 / 3) / 2)


def test_an_instance_listed_twice_counts_twice():
    assert one_ap(table([0, 10]), table([0, 10], [0, 10])) == 0.5


def test_the_second_best_instance_is_used_when_the_best_is_taken():
    truth = table([0, 10], [0, 8])
    assert one_ap(table([0, 10], [0, 10], score=[0.9, 0.8]), truth) == 1


def test_a_better_score_takes_its_instance_from_a_better_overlap():
    truth = table([0, 10])
    predictions = table([0, 10], [0, 6], score=[0.1, 0.9])
    assert one_ap(predictions, truth) == 1  # the first in rank hits, the perfect one is a duplicate
    assert one_ap(predictions, truth, tiou=0.7) == 0.5


def test_an_overlap_equal_to_the_threshold_is_a_hit():
    assert one_ap(table([0, 5]), table([0, 10])) == 1
    assert one_ap(table([0, 5]), table([0, 10]), tiou=np.nextafter(0.5, 1)) == 0


@pytest.mark.parametrize(
    ("place", "num_wrong", "want"),
    [(0, 1, 1 / 2), (1, 1, 1.0), (0, 40, 1 / 41), (40, 40, 1.0), (20, 40, 1 / 21)],
)
def test_of_equal_scores_the_later_listed_comes_first(place, num_wrong, want):
    segments = [[50.0, 60.0]] * num_wrong
    segments.insert(place, [0.0, 10.0])
    predictions = table(*segments, score=np.full(num_wrong + 1, 0.5))
    assert one_ap(predictions, table([0, 10])) == pytest.approx(want)


def test_of_equal_overlaps_the_later_listed_instance_is_taken():
    # The first prediction overlaps both alike. Only the first instance serves the second prediction.
    truth = table([0, 10], [10, 20])
    predictions = table([5, 15], [0, 10], score=[0.9, 0.8])
    assert one_ap(predictions, truth, tiou=0.3) == 1
    assert one_ap(predictions, truth.take(np.array([1, 0])), tiou=0.3) == 0.5


def test_instances_of_other_videos_and_classes_are_no_match():
    truth = table([0, 10], [0, 10], video=[0, 1], label=[0, 1])
    predictions = table([0, 10], [0, 10], video=[1, 0], label=[0, 1])
    assert_array_equal(evaluate_detections(predictions, truth, ["a", "b"], tious=[0.5]).ap, [[0], [0]])


def test_a_video_without_ground_truth_gives_false_positives():
    predictions = table([0, 10], [0, 10], video=[-1, 0], score=[0.9, 0.8])
    assert one_ap(predictions, table([0, 10])) == 0.5


def test_classes_without_predictions_count_and_classes_without_ground_truth_do_not():
    truth = table([0, 10], [0, 10], label=[0, 1])
    predictions = table([0, 10], [0, 10], label=[0, 2])
    result = evaluate_detections(predictions, truth, ["a", "b", "c", "d"], tious=[0.5])
    assert_array_equal(result.ap[:, 0], [1, 0, np.nan, np.nan])
    assert_array_equal(result.mean_ap, [0.5])
    assert result.without_predictions == ("b",)
    assert result.without_ground_truth == ("c", "d")
    assert_array_equal(result.num_predictions, [1, 0, 1, 0])
    assert_array_equal(result.num_ground_truth, [1, 1, 0, 0])


def test_no_prediction_is_zero_and_no_ground_truth_is_nan():
    result = evaluate_detections(table(), table([0, 10]), ["a"])
    assert_array_equal(result.ap, np.zeros((1, 7)))
    assert result.without_predictions == ("a",)
    result = evaluate_detections(table([0, 10]), table(), ["a"])
    assert_array_equal(result.mean_ap, np.full(7, np.nan))


def test_a_segment_of_zero_length_never_matches():
    assert one_ap(table([5, 5]), table([5, 5])) == 0  # the published program calls 0 / 0 a hit
    assert one_ap(table([0, 10]), table([5, 5]), tiou=0.1) == 0


@pytest.mark.parametrize(
    ("segment", "score", "label", "message"),
    [
        ([5, 2], 0.5, 0, r"row 1: segment \[5\.0, 2\.0\] ends before it starts"),
        ([np.nan, 2], 0.5, 0, r"row 1: segment \[nan, 2\.0\]"),
        ([0, np.inf], 0.5, 0, r"row 1: segment \[0\.0, inf\]"),
        ([0, 2], np.nan, 0, "row 1: .*score nan"),
        ([0, 2], 0.5, 1, "row 1: label 1 is no index into the 1 classes"),
        ([0, 2], 0.5, -1, "row 1: label -1"),
    ],
)
def test_rows_that_mean_nothing_are_refused(segment, score, label, message):
    good, bad = table([0, 1]), table([0, 1], segment, score=[1, score], label=[0, label])
    with pytest.raises(DataError, match=f"predictions, {message}"):
        evaluate_detections(bad, good, ["a"])
    with pytest.raises(DataError, match=f"ground truth, {message}"):
        evaluate_detections(good, bad, ["a"])


@pytest.mark.parametrize("tiou", [0.0, -0.5, 1.5, np.nan])
def test_thresholds_outside_the_unit_interval_are_refused(tiou):
    with pytest.raises(ValueError, match=r"\(0, 1\], got \[0\.5"):
        evaluate_detections(table([0, 1]), table([0, 1]), ["a"], tious=[0.5, tiou])


# ---- averages -------------------------------------------------------------------------------------------


def test_averages_include_both_ends():
    truth = table([0, 10])
    result = evaluate_detections(table([0, 4]), truth, ["a"])  # hits at 0.1 to 0.4
    assert_array_equal(result.mean_ap, [1, 1, 1, 1, 0, 0, 0])
    averages = [result.average(low, high) for low, high in CASE.averages]
    assert averages == pytest.approx([4 / 5, 2 / 5, 4 / 7])
    with pytest.raises(ValueError, match=r"\[0\.8, 0\.9\]"):
        result.average(0.8, 0.9)
