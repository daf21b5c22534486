"""Choosing the step to evaluate: what is set aside, what is kept, and what a kill leaves."""

import json
from dataclasses import replace

import chex
import numpy as np
import pytest
from rich.console import Console

from casejax.data.synthetic import make_world
from casejax.errors import CheckpointError, DataError
from casejax.report import pictures
from casejax.run.config import Config
from casejax.run.folder import restore_run
from casejax.runtime.checkpoint import Checkpoints
from casejax.train import loop
from casejax.train.experiment import run
from casejax.train.selection import Selection, hold_out

CONFIG = (
    Config.of("case")
    .changed(
        num_clusters=4,
        hidden=16,
        num_snippets=32,
        batch_size=8,
        learning_rate=1e-3,
        epochs=4,
        log_every=3,
        select_every=2,
    )
    .changed(rank="true", prior_std=0.3)
)
pytestmark = pytest.mark.usefixtures("kept_steps")


def one_stream(world):
    """A step with one stream compiles in half the time of one with two."""
    first = {
        name: replace(split, features=replace(split.features, streams=split.features.streams[:1]))
        for name, split in (("train", world.train), ("test", world.test))
    }
    return replace(world, streams=world.streams[:1], **first)


@pytest.fixture(scope="module")
def world():
    return one_stream(make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400))


def table(world):
    return {video.id: video.labels for video in world.train.videos}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_hold_out_parts_the_training_videos(world, share):
    rest, held = hold_out(world, share, seed=0)
    kept, aside = {v.id for v in rest.train.videos}, {v.id for v in held.test.videos}
    assert not kept & aside
    assert kept | aside == set(table(world))
    assert 0 < len(aside) <= round(share * len(world.train.videos))
    assert set().union(*(table(world)[v] for v in kept)) == set(world.classes)  # no class is lost
    assert [v.id for v in rest.test.videos] == [v.id for v in world.test.videos]
    for part, whole in ((rest.train, world.train), (held.test, world.train)):
        for i, video in enumerate(part.videos):
            j = [v.id for v in whole.videos].index(video.id)
            for mine, theirs in zip(part.features.streams, whole.features.streams, strict=True):
                np.testing.assert_array_equal(mine[part.features.rows(i)], theirs[whole.features.rows(j)])


def test_hold_out_depends_on_its_seed_alone(world):
    videos = [tuple(v.id for v in hold_out(world, 0.3, seed)[1].test.videos) for seed in (0, 0, 1)]
    assert videos[0] == videos[1] != videos[2]


def test_nothing_to_hold_out_is_refused(world):
    with pytest.raises(DataError, match=r"--holdout 0\.01 of 16; use --select last"):
        hold_out(world, 0.01, seed=0)


class Judge:
    """Scores from a list, one a call; remembers which steps it saw."""

    def __init__(self, scores):
        self.scores, self.steps = list(scores), []

    def __call__(self, state):
        self.steps.append(int(state.step))
        return self.scores.pop(0)


def test_the_best_candidate_is_returned_the_earlier_of_equals(world, tmp_path):
    judge = Judge([0.1, 0.4, 0.4, 0.2])
    trained = loop.train(world, CONFIG, tmp_path / "a", devices=1, selection=Selection(judge, 2))
    assert judge.steps == [2, 4, 6, 8]
    assert int(trained.state.step) == 4
    assert trained.score == 0.4
    plain = loop.train(world, CONFIG.changed(epochs=2), tmp_path / "b", devices=1)
    chex.assert_trees_all_equal(trained.state.params, plain.state.params)  # judging changes no bit
    chex.assert_trees_all_equal(trained.state.cluster_labels, plain.state.cluster_labels)


def test_a_resumed_run_remembers_its_best(world, tmp_path):
    first = loop.train(world, CONFIG.changed(epochs=2), tmp_path, devices=1, selection=Selection(Judge([0.9, 0.1]), 2))
    judge = Judge([0.5, 0.8])
    again = loop.train(world, CONFIG, tmp_path, devices=1, resume=True, selection=Selection(judge, 2))
    assert judge.steps == [6, 8]
    assert int(again.state.step) == 2
    chex.assert_trees_all_equal(again.state.params, first.state.params)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest == 8  # training itself goes on from the last step


class Killed(BaseException):
    """Stands for a kill: nothing of casejax catches it."""


class DyingJudge(Judge):
    """A judge during whose last call the run is killed."""

    def __call__(self, state):
        if not self.scores:
            raise Killed
        return super().__call__(state)


def test_e_what_a_run_selected_before_its_first_checkpoint_is_not_taken_for_the_next_ones(world, tmp_path):
    with pytest.raises(Killed):
        loop.train(world, CONFIG, tmp_path, devices=1, selection=Selection(DyingJudge([0.9]), 2))
    assert (tmp_path / "selected" / "2").is_dir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore_run(tmp_path)
    trained = loop.train(world, CONFIG, tmp_path, devices=1, selection=Selection(Judge([0.1, 0.4, 0.4, 0.2]), 2))
    assert (int(trained.state.step), trained.score) == (4, 0.4)
    assert sorted(p.name for p in (tmp_path / "selected").iterdir()) == ["4"]
    assert int(restore_run(tmp_path).state.step) == 4


def test_e_candidates_after_the_newest_checkpoint_are_judged_again(world, tmp_path):
    config = CONFIG.changed(checkpoint_every=4, log_every=2)
    with pytest.raises(Killed):  # at step 8, after 6 was selected
        loop.train(world, config, tmp_path, devices=1, selection=Selection(DyingJudge([0.5, 0.1, 0.9]), 2))
    assert int(restore_run(tmp_path).state.step) == 2  # what the checkpoint at step 4 names
    judge = Judge([0.3, 0.2])
    again = loop.train(world, config, tmp_path, devices=1, resume=True, selection=Selection(judge, 2))
    assert judge.steps == [6, 8]
    assert (int(again.state.step), again.score) == (2, 0.5)
    assert int(restore_run(tmp_path).state.step) == 2


@pytest.mark.parametrize("select", ["train-holdout", "test-oracle"])  # the last step is that of test_experiment.py
def test_every_selection_is_named_with_its_result(world, tmp_path, monkeypatch, select):
    monkeypatch.setattr(pictures, "draw_pictures", lambda *_, **__: None)
    printed = tmp_path / "printed"
    with printed.open("w") as file:
        run(world, CONFIG.changed(select=select), tmp_path / "out", devices=1, console=Console(file=file, width=100))
    text, stored = printed.read_text(), json.loads((tmp_path / "out" / "results.json").read_text())
    assert text.startswith("method case, official with ")
    assert f"model selection: {select}, step" in text
    assert ("warning: this model was selected on the test set" in text) == (select == "test-oracle")
    assert ("warning" in stored) == (select == "test-oracle")
    assert stored["step"] == int(restore_run(tmp_path / "out").state.step)
    assert "95% low" in text
    low, high = stored["trained"]["interval"]["average_mAP"]["0.1:0.7"]
    assert 0 <= low <= high <= 1
