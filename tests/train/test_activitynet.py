"""ActivityNet from start to end on its surrogate: named settings, training, smoothed localisation, its thresholds."""

from dataclasses import replace

import numpy as np
import pytest

from casejax import localize
from casejax.data.synthetic import make_activitynet_world
from casejax.evaluate.detection import evaluate_detections
from casejax.inference.evaluate import evaluate_scores
from casejax.inference.scoring import make_test_scorer
from casejax.run.config import Config
from casejax.run.folder import restore_run
from casejax.train import loop

TIOUS = tuple(np.arange(0.5, 1, 0.05).tolist())

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world():
    return make_activitynet_world(num_classes=4, dim=12, train_videos=64, test_videos=24, noise=0.3)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    config = Config.of("case", "corrected", "activitynet13").changed(hidden=16, epochs=30, learning_rate=3e-3)
    out = tmp_path_factory.mktemp("activitynet") / "run"
    return loop.train(world, config, out, devices=1), config, out


@pytest.fixture(scope="module")
def scored(world, trained):
    run, config, _ = trained
    return make_test_scorer(run.graphdef, world, config)(run.state.params, run.state.cluster_labels)


def average(world, scores, config):
    """Mean over the thresholds of ActivityNet."""
    detections, *_ = evaluate_scores(scores, world, config.localization)
    truth = world.test.ground_truth(world.classes)
    return detections, evaluate_detections(detections, truth, world.classes, tious=TIOUS).mean_ap.mean()


def test_fifty_snippets_and_sixty_four_clusters(world, trained, scored):
    run, _, _ = trained
    assert scored.scores.fused.shape == (24, 50, 4)
    assert run.state.cluster_labels.shape == (2, 64, 2)
    assert scored.cluster_labels.shape == (2, 64, 2)
    np.testing.assert_allclose(scored.cluster_labels.sum(axis=2), 1, rtol=1e-4)


def test_it_learns_and_localises(world, trained, scored):
    _, config, _ = trained
    detections, found = average(world, scored.scores, config)
    ends = world.test.features.lengths * world.snippet_seconds
    assert (detections.segment[:, 1] <= ends[detections.video] + 1e-6).all()
    flat = scored.scores._replace(fused=np.full_like(scored.scores.fused, 0.5))  # every video one proposal
    _, whole = average(world, flat, config)
    _, chance = average(world, flat._replace(video=np.full_like(scored.scores.video, 0.25)), config)
    assert found > whole  # where in a video
    assert whole > 2 * chance  # and which class


def test_smoothed_detections_are_those_of_smoothed_scores(world, trained, scored):
    _, config, _ = trained
    detections, found = average(world, scored.scores, config.changed(smooth_width=7))
    by_hand = np.swapaxes(localize.smooth(np.swapaxes(scored.scores.fused, 1, 2), width=7), 1, 2)
    want, same = average(world, scored.scores._replace(fused=by_hand), config)
    for got, expected in zip(detections, want, strict=True):
        np.testing.assert_array_equal(got, expected)
    plain, _ = average(world, scored.scores, config)
    assert found == same
    assert len(detections.score) < len(plain.score)  # fewer pieces


def test_whole_videos_are_smoothed_too(world, trained):
    run, config, _ = trained
    config = config.changed(test_sampling="whole", smooth_width=13, smooth_degree=1)
    scores = make_test_scorer(run.graphdef, world, config)(run.state.params, run.state.cluster_labels).scores
    assert scores.fused.shape[1] == world.test.features.lengths.max()
    _, found = average(world, scores, config)
    assert 0 < found <= 1


def test_the_folder_of_a_run_knows_its_data_set(trained):
    _, config, out = trained
    restored = restore_run(out)
    assert restored.config == config
    assert restored.config.describe() == "case, corrected, activitynet13"
    assert replace(restored.config, dataset="thumos14").describe().startswith("case, corrected with top_k_divisor=2")
