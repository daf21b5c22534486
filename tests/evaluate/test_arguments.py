"""What the functions of evaluate do with lists, half precision and broken numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from casejax.errors import DataError
from casejax.evaluate import (
    CASE,
    bootstrap_detections,
    classification_metrics,
    evaluate_detections,
    judge,
    match_detections,
)
from casejax.records import SegmentTable

TRUTH = SegmentTable([0, 0, 1], [0, 1, 0], [[0, 2], [3, 5], [1, 4]], [1, 1, 1])
FOUND = SegmentTable([0, 0, 1], [0, 1, 0], [[0, 2], [3.5, 5], [0, 4]], [0.5, 0.25, 0.75])
CLASSES, VIDEOS = ["run", "jump"], ["a", "b"]


def arrays(table, dtype=float):
    return SegmentTable.from_rows(*table[:2], np.asarray(table.segment, dtype), np.asarray(table.score, dtype))


def test_tables_of_lists_and_half_precision_will_do():
    want = evaluate_detections(arrays(FOUND), arrays(TRUTH), CLASSES)
    half = SegmentTable(*(jnp.asarray(x, jnp.float16 if k > 1 else jnp.int32) for k, x in enumerate(FOUND)))
    for found in (FOUND, half):
        np.testing.assert_array_equal(evaluate_detections(found, TRUTH, CLASSES).ap, want.ap)
        got = judge(found, TRUTH, CLASSES, CASE, videos=VIDEOS, snippet_seconds=np.float32(0.64), ambiguous=TRUTH)
        np.testing.assert_array_equal(got.ap, want.ap)
        assert match_detections(found, TRUTH, CLASSES, tious=[0.5]).hit.tolist() == [[True] * 3]
    drawn = [
        bootstrap_detections(found, TRUTH, CLASSES, videos=VIDEOS, num_resamples=np.int64(20), level=np.float32(0.5))
        for found in (FOUND, arrays(FOUND))
    ]
    np.testing.assert_array_equal(drawn[0].mean_ap, drawn[1].mean_ap)
    empty = SegmentTable([], [], [], [])
    assert not evaluate_detections(empty, TRUTH, CLASSES).mean_ap.any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"score": [0.5, 0.5]}, r"predictions: columns must be .* score \(2,\)"),
        ({"segment": [[0, 2]] * 2}, r"predictions: columns must be .* segment \(2, 2\)"),
        ({"label": [0, 0.5, 0]}, r"predictions: label\[1\] is 0.5, expected a whole number"),
        ({"video": [0, 0, np.nan]}, r"predictions: video\[2\] is nan, expected a whole number"),
        ({"score": [0.5, np.nan, 0.5]}, "predictions, row 1: .* must be finite"),
        ({"segment": [[0, 2], [0], [0, 1]]}, "predictions: segment is no array of numbers"),
    ],
)
def test_broken_tables_are_refused(changes, said):
    found = FOUND._replace(**changes)
    for call in (
        lambda: evaluate_detections(found, TRUTH, CLASSES),
        lambda: judge(found, TRUTH, CLASSES, CASE, videos=VIDEOS),
        lambda: bootstrap_detections(found, TRUTH, CLASSES, videos=VIDEOS),
    ):
        with pytest.raises(DataError, match=said):
            call()


def test_broken_options_are_refused():
    for options in ({"snippet_seconds": np.nan}, {"snippet_seconds": np.inf}, {"snippet_seconds": -1}):
        with pytest.raises(ValueError, match="snippet_seconds must be positive and finite, got"):
            judge(FOUND, TRUTH, CLASSES, CASE, videos=VIDEOS, **options)
    with pytest.raises(DataError, match=r"ambiguous, row 0: .* must be finite"):
        judge(FOUND, TRUTH, CLASSES, CASE, videos=VIDEOS, ambiguous=SegmentTable([0], [0], [[0, np.nan]], [1]))
    with pytest.raises(ValueError, match=r"tIoU thresholds must lie in \(0, 1\], got \[nan\]"):
        evaluate_detections(FOUND, TRUTH, CLASSES, tious=[np.nan])
    for options, said in (({"num_resamples": 0}, "num_resamples must be a whole number from 1, got 0"),
                          ({"level": np.nan}, r"level must lie in \(0, 1\), got nan")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            bootstrap_detections(FOUND, TRUTH, CLASSES, videos=VIDEOS, **options)


def test_classification_metrics_of_lists_and_broken_numbers():
    scores, labels = [[0.75, 0.5], [0.25, 1]], [[1, 0], [0, 1]]
    want = classification_metrics(np.array(scores), np.array(labels) > 0, np.array(labels))
    assert classification_metrics(scores, labels, labels) == want == (1, 1)
    assert classification_metrics(jnp.asarray(scores, jnp.bfloat16), labels, labels) == want
    with pytest.raises(ValueError, match="selected must be boolean, got 2 in it"):
        classification_metrics(scores, [[2, 0], [0, 1]], labels)
    for wrong in ((scores, np.nan), (np.nan, labels)):
        given = [np.full((2, 2), np.nan) if x is np.nan else x for x in wrong]
        with pytest.raises(ValueError, match=r"(scores|labels) of video 0 hold NaN"):
            classification_metrics(given[0], labels, given[1])
