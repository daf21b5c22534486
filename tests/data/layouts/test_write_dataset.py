"""What is written in the published layout is read back the same, or nothing is written at all."""

import json
import re

import numpy as np
import pytest

from casejax.data.layouts import published
from casejax.errors import DataError
from casejax.records import Dataset, Features, Split, Video


def small_dataset(classes=("Jump", "Run")):
    def split(name):
        videos = tuple(
            Video(
                f"{name}_{v}",
                name,
                np.array([[0.1, 0.7 + v], [1 / 3, 2.0]]),
                ("Run", "Jump"),
                9.5 if v else None,
            )
            for v in range(2)
        )
        rng = np.random.default_rng(len(name))
        streams = tuple(rng.standard_normal((23, dim)).astype(np.float32) for dim in (4, 3))
        return Split(name, videos, Features.end_to_end(streams, [8, 15]))

    return Dataset("here", classes, ("rgb", "flow"), split("train"), split("test"))


def assert_same(got, want):
    assert got.classes == want.classes
    assert got.streams == want.streams
    for one, other in ((got.train, want.train), (got.test, want.test)):
        assert one.name == other.name
        np.testing.assert_array_equal(one.features.lengths, other.features.lengths)
        for mine, theirs in zip(one.features.streams, other.features.streams, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for mine, theirs in zip(one.videos, other.videos, strict=True):
            assert (mine.id, mine.subset, mine.duration) == (theirs.id, theirs.subset, theirs.duration)
            assert mine.segment_labels == theirs.segment_labels
            np.testing.assert_array_equal(mine.segments, theirs.segments)


@pytest.mark.parametrize("classes", [("Jump", "Run"), ("Run", "Jump"), ("Jump", "Run", "Swim")])
def test_what_is_written_is_read_back(tmp_path, classes):
    data = small_dataset(classes)
    published.write_dataset(data, tmp_path / "new" / "set")
    assert_same(published.read_dataset(tmp_path / "new" / "set"), data)
    assert (tmp_path / "new" / "set" / "classes.txt").exists() == (classes != ("Jump", "Run"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["set"]


def test_times_are_written_as_strings(tmp_path):
    published.write_dataset(small_dataset(), tmp_path / "set")
    database = json.loads((tmp_path / "set" / "gt.json").read_text())["database"]
    assert database["train_0"]["annotations"][0] == {"label": "Run", "segment": ["0.1", "0.7"]}
    assert "duration" not in database["train_0"]
    assert database["train_1"]["duration"] == 9.5


def test_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(DataError) as caught:
        published.write_dataset(small_dataset(), tmp_path / "set")
    for part in (str(tmp_path / "set"), "exists already", "choose another folder"):
        assert part in str(caught.value)
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["notes.txt"]


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    saved = []

    def save_two(path, *args, **kwargs):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)

    monkeypatch.setattr(np, "save", save_two)
    with pytest.raises(KeyboardInterrupt):
        published.write_dataset(small_dataset(), tmp_path / "set")
    assert len(saved) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("video", "part"), [("../x", "no plain file name"), ("train_1", "2 videos named 'train_1'")])
def test_ids_that_cannot_be_files_are_not_written(tmp_path, video, part):
    data = small_dataset()
    first = data.train.videos[0]
    renamed = Video(video, first.subset, first.segments, first.segment_labels)
    train = Split("train", (renamed, data.train.videos[1]), data.train.features)
    with pytest.raises(DataError, match=re.escape(part)):
        published.write_dataset(Dataset("here", data.classes, data.streams, train, data.test), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
