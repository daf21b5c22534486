"""Surrogate features keep the annotations, show an action where it is annotated, and are the same for the same seed."""

import json
import shutil

import numpy as np
import pytest

from casejax.data import surrogate
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.synthetic import make_world
from casejax.errors import DataError
from casejax.records import SNIPPET_SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Annotations alone, in the published layout."""
    root = tmp_path_factory.mktemp("annotations") / "data"
    write_dataset(make_world(num_classes=3, dim=1, train_videos=10, test_videos=9, median=60, longest=120), root)
    shutil.rmtree(root / "features")
    return root


@pytest.fixture(scope="module")
def world(folder):
    return surrogate.make_surrogate_features(folder, dim=8)


def test_annotations_are_kept_and_lengths_reach_beyond_them(folder, world, tmp_path):
    truth = json.loads((folder / "gt.json").read_text())["database"]
    assert (world.streams, world.dims, world.classes) == (("rgb", "flow"), (8, 8), ("BowShot", "CliffDive", "Dive"))
    for split in (world.train, world.test):
        assert [video.id for video in split.videos] == (folder / f"split_{split.name}.txt").read_text().split()
        for video, length in zip(split.videos, split.features.lengths, strict=True):
            notes = truth[video.id]["annotations"]
            assert [note["label"] for note in notes] == list(video.segment_labels)
            np.testing.assert_array_equal([[float(t) for t in note["segment"]] for note in notes], video.segments)
            assert 2 < length * SNIPPET_SECONDS - video.segments.max() < 20 + SNIPPET_SECONDS
        assert all((stream >= 0).all() and stream.dtype == np.float32 for stream in split.features.streams)
    write_dataset(world, tmp_path / "written")
    again = read_dataset(tmp_path / "written")
    np.testing.assert_array_equal(again.test.features.streams[1], world.test.features.streams[1])


def test_the_seed_decides(folder, world):
    same, other = (surrogate.make_surrogate_features(folder, dim=8, seed=seed) for seed in (0, 1))
    for mine, theirs in zip(world.train.features.streams, same.train.features.streams, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(world.train.features.lengths, other.train.features.lengths)


def test_an_instance_shows_its_class_and_nothing_else_does(folder, monkeypatch):
    """Without noise, every snippet in the middle of an instance looks like its class alone, up to a gain."""
    monkeypatch.setattr(surrogate, "NEIGHBOURS", np.array([0, 1, 0], np.float32))
    drawn = []
    draw = surrogate._Looks.draw.__func__
    monkeypatch.setattr(surrogate._Looks, "draw", classmethod(lambda *words: drawn.append(draw(*words)) or drawn[-1]))
    world = surrogate.make_surrogate_features(folder, dim=8, noise=0.0, video_look=0.0)
    rows = drawn[0].by_stream[1] / np.linalg.norm(drawn[0].by_stream[1], axis=1, keepdims=True)
    count = len(world.classes)
    for v, video in enumerate(world.train.videos):
        flow = world.train.features.streams[1][world.train.features.rows(v)]
        shown = np.argmax(flow @ rows.T, axis=1)
        covered = np.zeros(len(flow), bool)
        for start, end in video.segments / SNIPPET_SECONDS:
            covered[int(start) : int(np.ceil(end))] = True
        assert (shown[~covered] >= 3 * count).all()
        assert (shown[covered] < 3 * count).all()
        own = {world.classes.index(label) for label in video.labels}
        assert {row % count for row in shown[covered]} <= own
        assert {row - 3 * count for row in shown[(shown >= 3 * count) & (shown < 4 * count)]} <= own


def test_what_cannot_be_used_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="none: no such folder"):
        surrogate.make_surrogate_features(tmp_path / "none")
    with pytest.raises(DataError, match=r"split_train\.txt"):
        surrogate.make_surrogate_features(tmp_path)
    with pytest.raises(ValueError, match="dim must be 1 or more, got 0"):
        surrogate.make_surrogate_features(folder, dim=0)
