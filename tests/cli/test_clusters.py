"""`benchmarks/clusters.py`: its statistics against enumeration, and its table."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from casejax.data.synthetic import make_world
from casejax.inference.scoring import make_test_scorer
from casejax.run.config import Config
from casejax.train.ensemble import train_ensemble

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import clusters
import evidence_runs

WORDS = ["--epochs", "1", "--num-snippets", "16", "--batch-size", "4", "--hidden", "8", "--num-clusters", "3"]


def small(folder, seed):
    world = make_world(
        seed=seed, num_classes=2, dim=4, train_videos=8, test_videos=6, shortest=9, median=20, longest=40, noise=0.3
    )
    splits = {
        split.name: replace(split, features=replace(split.features, streams=split.features.streams[1:]))
        for split in (world.train, world.test)
    }
    return replace(world, streams=("flow",), **splits)


def some(seed=0, count=40, k=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k), count), rng.integers(-1, 3, count), rng


def test_composition_by_enumeration():
    assignment, labels, _ = some()
    assignment = np.insert(assignment, 2, 0, axis=1)  # a cluster without a snippet
    found = clusters.compose(assignment, labels)
    for k in range(5):
        held = {
            label: sum(p for p, own in zip(assignment[:, k], labels, strict=True) if own == label)
            for label in range(-1, 3)
        }
        total = sum(held.values())
        assert found.mass[k] == pytest.approx(total / 40)
        assert found.purity[k] == pytest.approx(max(held.values()) / total if total else 0)
        assert found.annotated[k] == pytest.approx(1 - held[-1] / total if total else 0)


def test_weighted_statistics_by_repetition():
    _, _, rng = some()
    x, y, counts = rng.normal(size=6), rng.normal(size=6), rng.integers(0, 5, 6)
    each = np.repeat(x, counts), np.repeat(y, counts)
    assert clusters.weighted_deviation(x, counts) == pytest.approx(each[0].std())
    assert clusters.weighted_correlation(x, y, counts) == pytest.approx(np.corrcoef(*each)[0, 1])
    assert np.isnan(clusters.weighted_correlation(x, np.full(6, 0.3), counts))


def test_calibration_error_by_enumeration():
    _, labels, rng = some()
    probability, true = np.append(rng.random(38), [0.0, 1.0]), labels >= 0
    error = 0.0
    for b in range(10):
        own = [i for i, p in enumerate(probability) if b / 10 <= p < (b + 1) / 10 or (b == 9 and p == 1)]
        if own:
            error += len(own) / 40 * abs(np.mean(probability[own]) - np.mean(true[own]))
    assert clusters.calibration_error(probability, true) == pytest.approx(error)
    assert clusters.calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([1, 0, 0, 0]) > 0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_assignments_are_those_of_inference(shared):
    """P^T is P^S times Q^C, and Q^A has as many snippets of each class of a video as training selects."""
    sizes = {"num_classes": 2, "dim": 4, "train_videos": 6, "test_videos": 6}
    world = make_world(seed=0, shortest=9, median=20, longest=40, **sizes)
    options = {"epochs": 1, "num_snippets": 16, "batch_size": 4, "hidden": 8, "num_clusters": 3}
    config = Config.of("case", "corrected", **options, co_label_clusters=shared)
    ((_, member),) = train_ensemble(world, [config])
    scored = make_test_scorer(member.graphdef, world, config)(member.state.params, member.state.cluster_labels)
    look = clusters.make_look(member, config)
    found = look(world.test, 16)
    assert found.assignment.shape == (6, 16, 3 if shared else 6)
    judged = clusters.judgement(scored.cluster_labels, config)
    np.testing.assert_allclose(found.assignment.sum(axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(found.assignment @ judged, scored.scores.transformed, rtol=1e-5)
    labels = world.train.multi_hot(world.classes)
    foreground = clusters.foreground_of(look(world.train, 16), labels, config).sum(axis=1)
    assert ((foreground >= 16 // 8) & (foreground <= 16 // 8 * labels.sum(axis=1))).all()


def test_the_table(monkeypatch, capsys):
    monkeypatch.setitem(evidence_runs.FAMILIES, "world", replace(evidence_runs.FAMILIES["world"], make=small))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["clusters.py", "world", *words, *WORDS])
        return clusters.main()

    assert call("--rows", "paper-head") == 0
    heads, _, row = (line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert (len(row), row[0]) == (len(heads), "| paper-head")
    world = small(None, 0)
    covered = [
        any(start <= (t * length // 16 + 0.5) * 0.64 < end for start, end in video.segments)
        for video, length in zip(world.test.videos, world.test.features.lengths, strict=True)
        for t in range(16)
    ]
    assert row[1] == f"{100 * np.mean(covered):.1f}"
    for words, says in (
        (["--rows", "no-clustering"], "row no-clustering: snippet_weight 0 trains no clusters"),
        (["--row", "x=--test-sampling whole", "--rows"], "row x: test_sampling whole"),
        (["--row", "x=--method baseline", "--rows"], "row x: method baseline"),
    ):
        assert call(*words) == 2
        assert says in capsys.readouterr().err


def test_the_head_of_the_paper():
    row = next(row for row in evidence_runs.ROWS if row.name == "paper-head")
    own, corrected = (each.flat() for each in (row.config("corrected"), Config.of("case", "corrected")))
    head = {
        "num_clusters": 16,
        "cluster_context": 1,
        "head_temperature": 10.0,
        "epsilon": 0.05,
        "cluster_judge": "prototypes",
        "cluster_marginal": "foreground",
        "cluster_momentum": 0.0,
        "cluster_gradient": True,
        "cluster_weight": 0.3,
        "transformed_streams": "mean",
    }
    assert {name: own[name] for name in head} == head
    others = own.keys() - head.keys() - {"judge_epsilon"}
    assert {name: own[name] for name in others} == {name: corrected[name] for name in others}
