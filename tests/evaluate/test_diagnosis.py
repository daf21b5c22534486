"""Kinds of errors, what they cost and what is hard, each against a plain enumeration."""

import numpy as np
import pytest

from casejax.evaluate import (
    KINDS,
    average_precision_of_groups,
    diagnose,
    evaluate_detections,
    gain_without,
    kinds_by_rank,
    quantile_groups,
)
from casejax.records import SegmentTable

CLASSES = ("a", "b", "c")


def overlap(a, b):
    both = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (a[1] - a[0] + b[1] - b[0] - both)


def invented(seed, found=60, annotated=14):
    rng = np.random.default_rng(seed)

    def rows(count):
        start = rng.uniform(0, 20, count)
        segments = np.stack([start, start + rng.uniform(1, 8, count)], axis=1)
        return rng.integers(0, 3, count), rng.integers(0, 3, count), segments

    return SegmentTable.from_rows(*rows(found), rng.permutation(found) / found), SegmentTable.from_rows(
        *rows(annotated)
    )


def enumerated(found, truth, tiou, least):
    """(row, kind, instance) of every detection, the best score first."""
    free, out = set(range(len(truth.score))), []
    for row in np.argsort(-found.score):
        pairs = [
            (overlap(found.segment[row], truth.segment[t]), truth.label[t] == found.label[row], t)
            for t in range(len(truth.score))
            if truth.video[t] == found.video[row]
        ]
        takes = max(((o, t) for o, same, t in pairs if same and o >= tiou and t in free), default=None)
        if takes:
            free.remove(takes[1])
            out.append((row, "true positive", takes[1]))
        elif any(same and o >= tiou for o, same, _ in pairs):
            out.append((row, "double detection", -1))
        elif any(o >= tiou for o, same, _ in pairs):
            out.append((row, "wrong label", -1))
        elif any(same and o >= least for o, same, _ in pairs):
            out.append((row, "localization", -1))
        elif any(o >= least for o, same, _ in pairs):
            out.append((row, "confusion", -1))
        else:
            out.append((row, "background", -1))
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tiou", "least"), [(0.5, 0.1), (0.3, 0.3)])
def test_kinds_are_those_that_counting_finds(seed, tiou, least):
    found, truth = invented(seed)
    diagnosis = diagnose(found, truth, CLASSES, tiou=tiou, least_tiou=least)
    wanted = enumerated(found, truth, tiou, least)
    assert [KINDS[k] for k in diagnosis.kind] == [kind for _, kind, _ in wanted]
    np.testing.assert_array_equal(diagnosis.truth, [t for *_, t in wanted])
    np.testing.assert_array_equal(diagnosis.matches.ranked.score, found.score[[row for row, *_ in wanted]])

    counts = np.bincount(truth.label, minlength=3)
    shares = kinds_by_rank(diagnosis.kind, diagnosis.matches.ranked.label, counts, multiples=3)
    for multiple in (1, 2, 3):
        left, best = dict(enumerate(multiple * counts)), []
        for row, kind, _ in wanted:
            if left[found.label[row]] > 0:
                left[found.label[row]] -= 1
                best.append(kind)
        np.testing.assert_allclose(shares[multiple - 1], [best.count(kind) / len(best) for kind in KINDS])


@pytest.mark.parametrize("seed", range(3))
def test_a_gain_is_the_map_of_the_table_without_these_errors(seed):
    found, truth = invented(seed)
    diagnosis = diagnose(found, truth, CLASSES, tiou=0.4)
    gains = gain_without(diagnosis, truth, CLASSES, multiple=100)
    whole = evaluate_detections(found, truth, CLASSES, tious=[0.4]).mean_ap[0]
    assert set(gains) == set(KINDS[1:])
    for kind, gain in gains.items():
        rows = [row for row, each, _ in enumerated(found, truth, 0.4, 0.1) if each != kind]
        without = evaluate_detections(found.take(np.array(rows)), truth, CLASSES, tious=[0.4]).mean_ap[0]
        assert gain == pytest.approx(without - whole)
        assert gain >= 0
    assert max(gains.values()) > 0
    assert gain_without(diagnosis, truth, CLASSES, multiple=1) != gains


@pytest.mark.parametrize("seed", range(3))
def test_precision_of_groups_is_the_area_under_the_curve_by_hand(seed):
    found, truth = invented(seed)
    group, edges = quantile_groups(truth.segment[:, 1] - truth.segment[:, 0], parts=2)
    diagnosis = diagnose(found, truth, CLASSES, tiou=0.3)
    got = average_precision_of_groups(diagnosis, truth, group, num_groups=2)
    ranked = enumerated(found, truth, 0.3, 0.1)
    usual = len(truth.score) / len(set(truth.label.tolist()))
    for g in range(2):
        values = []
        for c in sorted(set(truth.label[group == g].tolist())):
            total = int(((truth.label == c) & (group == g)).sum())
            hits, wrong, points = 0, 0, []
            for row, _, t in ranked:
                if found.label[row] != c or (t >= 0 and group[t] != g):
                    continue
                hits, wrong = hits + (t >= 0), wrong + (t < 0)
                recall = hits / total
                points.append((recall, recall * usual / (recall * usual + wrong) if hits else 0.0))
            steps = [i / total for i in range(1, total + 1)]
            values.append(sum(max((p for r, p in points if r >= s - 1e-9), default=0) for s in steps) / total)
        assert got.average_precision[g] == pytest.approx(np.mean(values))
        assert got.found[g] == pytest.approx(sum(t >= 0 and group[t] == g for *_, t in ranked) / got.size[g])
    assert got.size.sum() == len(truth.score)
    assert len(edges) == 2


def test_perfect_detections_have_no_errors_and_nothing_has_none():
    _, truth = invented(0)
    perfect = truth._replace(score=np.arange(len(truth.score), dtype=float))
    diagnosis = diagnose(perfect, truth, CLASSES)
    assert not diagnosis.kind.any()
    assert gain_without(diagnosis, truth, CLASSES) == dict.fromkeys(KINDS[1:], 0)
    group = np.zeros(len(truth.score), np.int64)
    found = average_precision_of_groups(diagnosis, truth, group, num_groups=2)
    np.testing.assert_array_equal(found.average_precision, [1, np.nan])
    np.testing.assert_array_equal(found.size, [len(group), 0])
    nothing = SegmentTable.from_rows([], [], [])
    empty = diagnose(nothing, truth, CLASSES)
    assert empty.kind.shape == (0,)
    assert np.isnan(kinds_by_rank(empty.kind, nothing.label, np.bincount(truth.label))).all()
    assert average_precision_of_groups(empty, truth, group, num_groups=1).found.tolist() == [0]
    assert len(diagnose(perfect, nothing, CLASSES).kind) == len(truth.score)


def test_groups_keep_equal_values_together():
    group, edges = quantile_groups(np.array([5.0, 1.0, 1.0, 1.0, 9.0, 2.0]), parts=3)
    assert group.tolist() == [2, 0, 0, 0, 2, 1]
    assert edges.tolist() == [1, 2, 9]
    assert quantile_groups(np.ones(7), parts=4)[1].tolist() == [1]
    assert quantile_groups(np.empty(0))[1].size == 0


def test_thresholds_that_make_no_sense_are_refused():
    found, truth = invented(0)
    with pytest.raises(ValueError, match=r"tiou must lie in \(0, 1\], got 0"):
        diagnose(found, truth, CLASSES, tiou=0.0)
    with pytest.raises(ValueError, match=r"least_tiou must lie in \(0, 0.5\], got 0.6"):
        diagnose(found, truth, CLASSES, least_tiou=0.6)
    with pytest.raises(ValueError, match="numbers from 0 to 0"):
        average_precision_of_groups(diagnose(found, truth, CLASSES), truth, truth.label, num_groups=1)
