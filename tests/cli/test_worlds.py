"""`casejax train` on worlds that it composes itself."""

import json

import numpy as np
import pytest
from pose_tracks import write_track

from casejax.cli import train, worlds
from casejax.cli.main import UNTRIMMED_MOTION
from casejax.data import untrimmed_motion
from casejax.data.layouts import LAYOUTS
from casejax.data.synthetic import make_world
from casejax.run.config import Config

PAIRS = {"bowl": "strum_guitar", "squat": "bench_press"}


def call(*words):
    return train.main([str(word) for word in words])


@pytest.fixture
def labels(tmp_path):
    folder = tmp_path / "penn" / "labels"
    folder.mkdir(parents=True)
    names = iter(range(1000))
    for action in (*PAIRS, *PAIRS.values()):
        for part in (1, -1):
            for _ in range(2):
                write_track(folder, f"{next(names):04d}", frames=12, action=action, train=np.int32(part))
    return folder.parent


@pytest.fixture
def small(monkeypatch):
    """Worlds of few classes and videos."""
    motion = untrimmed_motion.make_untrimmed_motion
    sizes = {"look_alikes": PAIRS, "train_videos": 6, "test_videos": 4}
    monkeypatch.setattr(worlds, "make_untrimmed_motion", lambda data, seed: motion(data, seed=seed, **sizes))
    few = {"num_classes": 2, "dim": 4, "train_videos": 6, "test_videos": 6, "median": 30, "longest": 60}
    monkeypatch.setattr(worlds, "make_world", lambda seed: make_world(seed=seed, **few))


@pytest.fixture
def seen(monkeypatch):
    found = []
    monkeypatch.setattr(train, "run", lambda dataset, config, out, **rest: found.append((dataset, config, out)))
    return found


def test_a_run_on_untrimmed_motion(labels, small, tmp_path):
    out = tmp_path / "out"
    words = ["--epochs", "1", "--num-snippets", "8", "--batch-size", "3", "--hidden", "8", "--devices", "1"]
    assert call("--dataset", "penn-untrimmed", "--data", labels, "--world-seed", 2, "--out", out, *words) == 0
    assert json.loads((out / "config.json").read_text())["schedule"]["learning_rate"] == 1e-3
    written = LAYOUTS["published"].read(out / "penn-untrimmed-2")
    assert written.classes == ("bowl", "squat")
    assert (out / "results.json").exists()


def test_sizes_and_places_of_worlds(labels, small, seen, tmp_path):
    motion = ("--dataset", "penn-untrimmed", "--data", labels, "--out", tmp_path)
    assert call(*motion) == 0
    assert call(*motion, "--world-seed", 1, "--method", "co2net", "--epochs", 7) == 0
    assert call("--out", tmp_path) == 0
    assert call("--out", tmp_path, "--world-seed", 3) == 0
    assert [config for _, config, _ in seen[:2]] == [
        Config.of("case", "corrected", **UNTRIMMED_MOTION),
        Config.of("co2net", **UNTRIMMED_MOTION).changed(epochs=7),
    ]
    places = ["penn-untrimmed-0", "penn-untrimmed-1", "world", "synthetic-3"]
    assert [dataset.source for dataset, _, _ in seen] == [str(tmp_path / place) for place in places]
    lengths = [int(dataset.train.features.lengths.sum()) for dataset, _, _ in seen]
    assert len(set(lengths)) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--dataset penn-untrimmed", "give their folder by --data LABELS"),
        ("--dataset penn-untrimmed --features x --labels y", "no --features"),
        ("--data x --world-seed 3", "--world-seed 3 is for worlds"),
        ("--dataset penn-untrimmed --data {empty}", "holds no .mat file; pass Penn Action's root"),
        ("--dataset penn-untrimmed --data {empty}/none", "no such folder"),
        ("--dataset penn-untrimmed --data {labels}", "train split: holds no video of baseball_pitch, "),
        ("--dataset penn-untrimmed --data {labels} --layout wtalc", "the penn-untrimmed world is written as published"),
    ],
)
def test_what_no_world_can_be_made_of(labels, tmp_path, capsys, words, says):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    words = words.format(empty=tmp_path / "empty", labels=labels).split()
    assert call(*words, "--out", out) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) == 1
    assert not out.exists()
