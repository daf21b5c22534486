"""Video-level metrics against loops and the published accuracy."""

import numpy as np
import pytest

from casejax.evaluate.classification import area_under_roc, classification_metrics
from casejax.localize import select_classes


def loop_metrics(scores, selected, labels):
    videos, classes = scores.shape
    exact = [set(np.flatnonzero(selected[v])) == set(np.flatnonzero(labels[v])) for v in range(videos)]
    aps = []
    for c in range(classes):
        having = [v for v in range(videos) if labels[v, c]]
        if not having:
            continue
        # The step-wise area: recall gained at each distinct score, times the precision there.
        area, recall = 0.0, 0.0
        for score in sorted(set(scores[:, c]), reverse=True):
            found = [v for v in range(videos) if scores[v, c] >= score]
            hits = sum(v in having for v in found)
            area += (hits / len(having) - recall) * hits / len(found)
            recall = hits / len(having)
        aps.append(area)
    return np.mean(exact), np.mean(aps)


@pytest.mark.parametrize("digits", [1, 12])
@pytest.mark.parametrize("num_videos", [1, 3, 40])
def test_metrics_equal_a_loop(rng, num_videos, digits):
    scores = np.round(rng.dirichlet(np.ones(6), num_videos), digits)
    labels = (scores + rng.uniform(-0.2, 0.2, scores.shape) > 0.25).astype(np.float32)
    labels[0, 0], labels[:, 5] = 1, 0  # at least one label, and a class that no video has
    selected = select_classes(scores)
    got = classification_metrics(scores, selected, labels)
    assert got == pytest.approx(loop_metrics(scores, selected, labels), abs=1e-12)


def test_a_perfect_ranking_and_its_reverse():
    labels = np.array([[1, 0], [1, 0], [0, 1]], bool)
    assert classification_metrics(labels * 1.0, labels, labels) == (1.0, 1.0)
    worst = classification_metrics(np.array([[0.1, 0.8], [0.2, 0.9], [0.3, 0.1]]), ~labels, labels)
    assert worst == pytest.approx((0.0, ((1 / 2 + 2 / 3) / 2 + 1 / 3) / 2))


def test_accuracy_wants_the_exact_set():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    selected = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    assert classification_metrics(np.zeros((3, 3)), selected, labels).accuracy == pytest.approx(1 / 3)


def test_nothing_to_measure_is_nan():
    none = np.zeros((0, 2))
    assert np.isnan(classification_metrics(none, none > 0, none)).all()
    unlabelled = classification_metrics(np.zeros((2, 2)), np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert unlabelled.accuracy == 1
    assert np.isnan(unlabelled.mean_average_precision)


def test_nan_scores_name_the_video():
    scores = np.zeros((3, 2))
    scores[1, 1] = np.nan
    with pytest.raises(ValueError, match="video 1 "):
        classification_metrics(scores, scores > 0, scores > 0)


def test_golden_accuracy(golden):
    arrays, notes = golden.arrays("localize"), golden.notes("localize")
    scores = np.stack([arrays[f"v{v}/final_score"] for v in range(len(notes["videos"]))])
    labels = np.zeros(scores.shape, bool)
    for v, video in enumerate(notes["videos"]):
        labels[v, video["label"]] = True
    selected = select_classes(scores, threshold=notes["config"]["class_thresh"])
    got = classification_metrics(scores, selected, labels).accuracy
    assert got == pytest.approx(notes["class_acc"], rel=1e-6)  # stored in float32


def test_the_area_under_the_roc_curve_is_the_share_of_pairs_in_order(rng):
    scores, positive = rng.integers(0, 6, (5, 8)) / 4, rng.random((5, 8)) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert area_under_roc(scores, positive) == pytest.approx(np.mean(pairs))
    assert area_under_roc(-scores, positive) == pytest.approx(1 - np.mean(pairs))
    assert np.isnan(area_under_roc(scores, np.ones_like(positive)))
    assert np.isnan(area_under_roc(scores, np.zeros_like(positive)))
    with pytest.raises(ValueError, match=r"got \(5, 8\) and \(5,\)"):
        area_under_roc(scores, positive[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        area_under_roc(scores * np.nan, positive)
