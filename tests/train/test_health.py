"""What is said of a run that goes wrong without a NaN."""

import numpy as np
import pytest

from casejax.records import SnippetScores
from casejax.train import health


def log(losses):
    return [
        {"step": 3 * n, "loss": loss, "loss_video": loss / 4, "loss_cluster": loss / 2} for n, loss in enumerate(losses)
    ]


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([1.0] * 10 + [2.0] * 20, "since step 60 (1 at step 0, 2 at step 87), loss_cluster the most"),
        ([1.0] * 40, ""),
        ([1.0] * 10 + [2.0] * 19 + [1.2], ""),  # it came back
        ([1.0] + [9.0] * 8, ""),  # too early to tell
    ],
)
def test_a_loss_that_stays_above_its_start(losses, says):
    said = health.rise(log(losses))
    assert says in said
    assert bool(says) == bool(said)


def test_parameters_that_have_grown():
    assert health.growth(2e3, 0.5, 7) == ""
    assert "the largest parameter is 2e+04 by step 7, 0.5 at the start" in health.growth(2e4, 0.5, 7)


def test_means_are_over_the_steps_that_counted():
    assert health.without_skipped({"loss": 0.5, "skipped": 0.75}) == {"loss": 2.0, "skipped": 0.75}
    assert np.isnan(health.without_skipped({"loss": 0.0, "skipped": 1.0})["loss"])
    assert health.without_skipped({"loss": 0.5}) == {"loss": 0.5}
    assert health.not_finite({"loss": float("nan"), "a": 1.0, "b": float("inf")}) == "loss nan, b inf"


def scores(attention):
    values = {name: None for name in SnippetScores._fields}
    return SnippetScores(**values | {"attention": attention})


def test_scores_that_tell_nothing_apart():
    varied, same = np.linspace(0, 1, 8).reshape(2, 4), np.full((2, 4), 0.5)
    labels = np.stack([np.linspace(0, 1, 3), 1 - np.linspace(0, 1, 3)], axis=1)[None]
    assert health.collapses(scores(varied), labels, ["a", "b"], ["a", "b"]) == []
    assert health.collapses(scores(varied), None, ["a"], ["a", "b"]) == ["1 of 2 classes are never detected: b"]
    attention, clusters = health.collapses(scores(same), np.full((1, 3, 2), 0.5), ["a"], ["a"])
    assert attention.startswith("attention is one and the same everywhere")
    assert clusters.startswith("all clusters are foreground to the same degree")


def test_a_method_without_attention_has_none_to_collapse():
    scores = SnippetScores(np.zeros((1, 3, 2)), np.zeros((1, 2)))
    assert health.collapses(scores, None, ["a", "b"], ["a", "b"]) == []
