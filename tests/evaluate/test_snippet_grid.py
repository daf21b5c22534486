import jax.numpy as jnp
import numpy as np
import pytest

from casejax import losses
from casejax.errors import DataError
from casejax.evaluate.snippet_grid import A2CL_PT, TIOUS, evaluate_on_grid, on_grid, touches
from casejax.localize import confidences, localize_tcam
from casejax.records import SegmentTable

# Detections


def stretches(tcams, divisor, share, least):
    """(video, class, first snippet, one past the last, score), one snippet after the other."""
    rows = []
    for v, tcam in enumerate(tcams):
        confidence = [np.mean(sorted(column)[::-1][: -(-len(column) // divisor)]) for column in tcam.T]
        for c, sure in enumerate(confidence):
            if sure <= max(confidence) * share or sure <= 0:
                continue
            run = []
            for t, value in enumerate([*tcam[:, c], -1]):
                if value > 0:
                    run.append(value)
                    continue
                if len(run) >= least:
                    rows.append((v, c, t - len(run), t, max(run) + sure))
                run = []
    return rows


@pytest.mark.parametrize(("divisor", "share", "least"), [(8, 0.5, 2), (3, 0.0, 1), (1, 0.9, 3)])
def test_detections_are_the_stretches_above_zero(rng, divisor, share, least):
    tcams = [rng.normal(0.3, 1, size=(t, 4)) for t in (30, 1, 2, 17)]
    tcams[3][:, 1] = 2  # one stretch from the first snippet to the last
    tcams[2][:] = [[-1, 0, -2, -3]] * 2  # nothing above zero
    got = localize_tcam(tcams, divisor=divisor, class_threshold=share, min_snippets=least, snippet_seconds=0.5)
    video, label, first, stop, score = map(np.array, zip(*stretches(tcams, divisor, share, least), strict=True))
    np.testing.assert_array_equal(got.video, video)
    np.testing.assert_array_equal(got.label, label)
    np.testing.assert_allclose(got.segment, np.stack([first, stop], axis=1) * 0.5, rtol=1e-15)
    np.testing.assert_allclose(got.score, score, rtol=1e-12)


def test_confidence_is_that_of_training(rng):
    tcam = rng.normal(size=(21, 5)).astype(np.float32)
    got = losses.top_k_mean(jnp.asarray(tcam[None]), divisor=8, rounding="up")[0]
    np.testing.assert_allclose(confidences(tcam, divisor=8), got, rtol=1e-5, atol=1e-6)


def test_no_video_and_no_detection():
    assert len(localize_tcam([]).score) == 0
    assert localize_tcam([-np.ones((3, 2))]).segment.shape == (0, 2)


def test_unusable_scores_are_refused():
    good = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"video 1: scores must be \(T, 2\) .* got \(3, 4\)"):
        localize_tcam([good, np.ones((3, 4))])
    with pytest.raises(ValueError, match=r"video 1: scores must be .* got \(0, 2\)"):
        localize_tcam([good, good[:0]])
    with pytest.raises(ValueError, match="video 0: scores hold NaN or infinity"):
        localize_tcam([np.where(np.eye(3, 2), np.nan, good)])
    for options in ({"divisor": 0}, {"min_snippets": 0}, {"class_threshold": 1.5}, {"snippet_seconds": 0.0}):
        with pytest.raises(ValueError, match=f"got .*{next(iter(options.values()))}"):
            localize_tcam([good], **options)


# Evaluation


def table(rng, n, num_videos=4, num_classes=3, length=40.0):
    start = np.round(rng.uniform(0, length, n), 1)
    segment = np.stack([start, start + np.round(rng.uniform(0.3, 12, n), 1)], axis=1)
    score = np.round(rng.uniform(0, 2, n), 1)  # with ties
    return SegmentTable.from_rows(rng.integers(num_videos, size=n), rng.integers(num_classes, size=n), segment, score)


def grid(time):
    return round(time * (25 / 16))


def by_sets(predictions, truth, ambiguous, num_classes, tiou):
    """mAP of the published protocol with sets of snippets; None where no class counts."""

    def snippets(rows, i):
        return set(range(grid(rows.segment[i, 0]), grid(rows.segment[i, 1])))

    aps = []
    for c in range(num_classes):
        mine = [i for i in range(len(predictions.score)) if predictions.label[i] == c]
        free = [j for j in range(len(truth.score)) if truth.label[j] == c]
        if not mine or not free:
            continue
        mine = [
            i
            for i in sorted(mine, key=lambda i: -predictions.score[i])
            if not any(
                ambiguous.video[k] == predictions.video[i] and snippets(ambiguous, k) & snippets(predictions, i)
                for k in range(len(ambiguous.score))
            )
        ]
        count, hits = len(free), []
        for i in mine:
            best, best_tiou = None, 0
            for j in free:
                if truth.video[j] != predictions.video[i]:
                    continue
                a, b = snippets(truth, j), snippets(predictions, i)
                overlap = len(a & b) / len(a | b) if a | b else 0
                if overlap >= tiou and overlap > best_tiou:
                    best, best_tiou = j, overlap
            hits.append(best is not None)
            if best is not None:
                free.remove(best)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        aps.append(sum(max(precision[k:]) for k in np.flatnonzero(hits)) / count)
    return np.mean(aps) if aps else None


def test_the_published_protocol(rng):
    truth, ambiguous = table(rng, 30), table(rng, 3)
    noisy = truth.segment + np.round(rng.normal(0, 0.6, truth.segment.shape), 1)
    predictions = SegmentTable(*(np.concatenate(pair) for pair in zip(truth, table(rng, 40), strict=True)))
    predictions.segment[:30] = np.sort(np.maximum(noisy, 0), axis=1)
    predictions.score[:30] = np.round(rng.uniform(0, 2, 30), 1)
    classes = ["a", "b", "c", "never predicted", "never there"]
    predictions.label[:2], truth.label[2:4] = 4, 3
    for intervals in (ambiguous, None):
        got = evaluate_on_grid(predictions, truth, classes, ambiguous=intervals)
        assert got.classes == ("a", "b", "c")
        none = ambiguous.take(np.zeros(0, np.int64))
        want = [by_sets(predictions, truth, none if intervals is None else intervals, 5, tiou) for tiou in TIOUS]
        np.testing.assert_allclose(got.mean_ap, want, rtol=1e-12)
        assert 0.1 < want[4] < want[0]
    assert (touches(on_grid(predictions), on_grid(ambiguous))).any()


def test_a_class_whose_predictions_are_all_ambiguous_counts_as_zero():
    truth = SegmentTable.from_rows([0, 0], [0, 1], [[0, 8], [20, 28]])
    predictions = truth._replace(score=np.array([1.0, 2.0]))
    got = evaluate_on_grid(predictions, truth, ["a", "b"], ambiguous=truth.take(np.array([1])))
    np.testing.assert_array_equal(got.ap, [[1] * 9, [0] * 9])


def test_nothing_to_evaluate():
    empty = SegmentTable.from_rows([], [], np.zeros((0, 2)))
    got = evaluate_on_grid(empty, table(np.random.default_rng(0), 3), ["a", "b", "c"])
    assert got.classes == ()
    assert np.isnan(got.mean_ap).all()


def test_times_are_rounded_as_published():
    times = np.arange(0, 4000) / 10
    rows = SegmentTable.from_rows(np.zeros(4000), np.zeros(4000), np.stack([times, times], axis=1))
    np.testing.assert_array_equal(on_grid(rows).segment[:, 0], [grid(float(t)) for t in times])
    index = np.arange(3000)
    back = on_grid(rows._replace(segment=np.stack([index, index], axis=1) * 0.64)).segment
    np.testing.assert_array_equal(back[:, 0], index)


def test_bad_tables_are_refused(rng):
    rows = table(rng, 3)
    with pytest.raises(DataError, match="no index into the 1 classes"):
        evaluate_on_grid(rows._replace(label=np.array([0, 0, 7])), rows._replace(label=np.zeros(3, int)), ["a"])
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], got \[0\.0\]"):
        evaluate_on_grid(rows, rows, ["a", "b", "c"], tious=[0.0])


def test_the_protocol_says_what_it_is():
    line = A2CL_PT.describe(210, 3234, selection="last step")
    assert "ambiguous filter on, whole snippets, tIoU 0.1, 0.2," in line
    assert "mean over classes with both ground truth and predictions" in line
