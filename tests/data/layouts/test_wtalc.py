"""What is special in the NumPy files of W-TALC, and their defects."""

import pickle
import shutil

import numpy as np
import pytest
from layout_folders import CLASSES, CLIPS, assert_is_world, features, objects, write_wtalc
from numpy.lib import format as npy

from casejax.data.layouts import Arrangement
from casejax.data.layouts.wtalc import read_wtalc
from casejax.errors import DataError, DataWarning, OptionError

TEST = [clip for clip in CLIPS if clip.part == "test"]


def refusal(root, **options):
    with pytest.raises(DataError) as caught:
        read_wtalc(root, **options)
    return str(caught.value)


def change(folder, name, video, value):
    column = np.load(folder / f"{name}.npy", allow_pickle=True)
    column[video] = value
    np.save(folder / f"{name}.npy", column)


def test_features_in_one_file(tmp_path):
    write_wtalc(tmp_path, joint=True)
    data = read_wtalc(tmp_path)
    assert_is_world(data, words=("validation", "test"))
    assert (data.streams, data.dims) == (("rgb", "flow"), (2, 2))
    np.testing.assert_array_equal(data.test.features.streams[1][:9], features(TEST[0])[:, 2:])
    assert read_wtalc(tmp_path, streams=("i3d",)).dims == (4,)


def test_ambiguous_intervals_follow_an_id_and_whatever_stands_between(tmp_path):
    folder = write_wtalc(tmp_path)
    assert [video.ambiguous.tolist() for video in read_wtalc(tmp_path).test.videos] == [[], [[0.5, 1.0]]]
    (folder / "Ambiguous_test.txt").write_text("video_test_0000001  Run x 1 2\nvideo_test_0000001 3 4\n")
    assert read_wtalc(tmp_path).test.videos[0].ambiguous.tolist() == [[1, 2], [3, 4]]
    (folder / "Ambiguous_test.txt").unlink()
    assert not read_wtalc(tmp_path).test.ambiguous.video.size


class Python2(pickle._Pickler):
    """Strings as Python 2 pickles them: bytes without a type."""

    def save_bytes_of_text(self, text):
        self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode())
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, str: save_bytes_of_text}  # noqa: RUF012


def save_as_python_2(path, array):
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
        Python2(file, protocol=2).dump(array)


def test_strings_as_bytes_and_files_beside_the_features(tmp_path):
    folder = write_wtalc(tmp_path)
    for name in ("labels", "labels_all"):
        column = np.load(folder / f"{name}.npy", allow_pickle=True)
        save_as_python_2(folder / f"{name}.npy", objects([list(map(str, row)) for row in column]))
    segments = np.load(folder / "segments.npy", allow_pickle=True)
    np.save(folder / "segments.npy", objects([np.asarray(row, float) for row in segments]))
    np.save(folder / "duration.npy", np.load(folder / "duration.npy")[:, 0])
    for path in list(folder.iterdir()):
        path.rename(tmp_path / path.name)
    assert_is_world(read_wtalc(tmp_path), words=("validation", "test"))


def test_lists_of_one_length_are_plain_arrays(tmp_path):
    """NumPy makes a table of lists that are equally long, without objects."""
    folder = write_wtalc(tmp_path)
    rows = {"labels": [["Run"]] * 6, "labels_all": [["Run"]] * 6, "segments": [[[1.0, 2.0]]] * 6}
    for name, row in rows.items():
        np.save(folder / f"{name}.npy", np.array(row, "S4" if name == "labels" else None))
        assert not np.load(folder / f"{name}.npy").dtype.hasobject
    data = read_wtalc(tmp_path)
    assert {(video.labels, video.segment_labels) for video in data.train.videos} == {(("Run",), ("Run",))}
    assert data.train.videos[3].segments.tolist() == [[1, 2]]


def test_the_words_of_activitynet(tmp_path):
    folder = write_wtalc(tmp_path)
    words = {"train": "training", "test": "validation"}
    np.save(folder / "subset.npy", np.array([words[clip.part] for clip in CLIPS], "S10"))
    assert_is_world(read_wtalc(tmp_path), words=("training", "validation"))


def test_labels_of_videos_are_those_of_labels_all(tmp_path):
    folder = write_wtalc(tmp_path)
    change(folder, "labels_all", 2, ["Jump"])  # its instances say Run
    change(folder, "labels_all", 0, [])
    change(folder, "segments", 4, [])  # a training video without times
    change(folder, "labels", 4, [])
    data = read_wtalc(tmp_path)
    first = data.train.videos[0]
    assert (first.labels, first.segment_labels) == (("Jump",), ("Run",))
    assert data.train.timed.tolist() == [True, True, False, True]
    assert data.train.videos[2].labels == ("Jump",)
    assert data.test.videos[0].labels == ()
    assert len(data.test.ground_truth(CLASSES).label) == 3
    (folder / "labels_all.npy").unlink()
    with pytest.warns(DataWarning, match="1 videos have no label and are left out: video_validation_0000005"):
        assert read_wtalc(tmp_path).train.videos[0].labels == ("Run",)


def test_what_the_published_program_does_not_use_is_left_out_with_a_count(tmp_path):
    folder = write_wtalc(tmp_path, joint=True)
    change(folder, "segments", 0, [])
    change(folder, "labels", 0, [])  # still labelled, as a video with ambiguous intervals alone
    change(folder, "labels_all", 3, ["Swim"])
    change(folder, "labels", 3, ["Swim"] * 3)
    with pytest.warns(DataWarning) as caught:
        data = read_wtalc(tmp_path)
    assert {w.message.kind: w.message.places for w in caught} == {
        "other classes": ("video_validation_0000004",),
        "no instance": ("video_test_0000001",),
    }
    assert [video.id[-1] for video in data.train.videos] == ["3", "5", "6"]
    np.testing.assert_array_equal(np.concatenate(data.test.features.streams, axis=1), features(TEST[1]))


def test_odd_instances_as_in_every_layout(tmp_path):
    folder = write_wtalc(tmp_path)
    change(folder, "segments", 0, [[1, 1], [3, 50]])
    with pytest.warns(DataWarning) as caught:
        data = read_wtalc(tmp_path)
    assert {w.message.kind for w in caught} >= {"empty", "past the end"}
    assert data.test.videos[0].segments.tolist() == [[3, 50]]


def save(folder, name, strings):
    np.save(folder / f"{name}.npy", np.array(strings, "S24"))


def ambiguous(folder, text):
    (folder / "Ambiguous_test.txt").write_text(text + "\n")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


DEFECTS = {
    "pickle": (lambda f: np.save(f / "labels.npy", objects([[Evil()]] * 6)), "labels.npy", "refused"),
    "no file": (lambda f: (f / "subset.npy").unlink(), "subset.npy: no such file", "put it there"),
    "no array": (lambda f: (f / "segments.npy").write_bytes(b""), "segments.npy", "not a .npy file"),
    "fewer": (lambda f: save(f, "subset", ["test"] * 5), "subset.npy: 5 videos", "has 6", "one data set"),
    "twice": (lambda f: save(f, "videoname", ["a"] * 6), "videoname.npy: has 'a' more than once", "keep"),
    "path": (lambda f: save(f, "videoname", ["../a", *"bcdef"]), "'../a'", "rename"),
    "labels": (lambda f: change(f, "labels", 1, ["Jump", "Run"]), "video_test_0000002", "1 segments, but 2 labels"),
    "label": (lambda f: change(f, "labels", 1, [3.5]), "labels.npy: '3.5' is no string"),
    "segment": (lambda f: change(f, "segments", 1, [[1]]), "video_test_0000002", "no pair", "write [start, end]"),
    "time": (lambda f: change(f, "segments", 1, [[1, "x"]]), "video_test_0000002", "'x'", "no finite number"),
    "unlisted": (lambda f: change(f, "labels_all", 3, ["Run", "Swim"]), "'Swim'", "add it to", "classlist.npy"),
    "subset": (lambda f: change(f, "subset", 3, b"vali"), "_0000004'", "'vali' is unknown", "write training"),
    "no training": (lambda f: save(f, "subset", ["test"] * 6), "no video to train on"),
    "ambiguous": (lambda f: ambiguous(f, "a 1"), "Ambiguous_test.txt: entry 1", "write an interval"),
    "ambiguous time": (lambda f: ambiguous(f, "a 1 x"), "entry 1", "'x'"),
    "ambiguous ids": (lambda f: ambiguous(f, "a 1 2"), "none of its videos", "'a'", "videoname.npy"),
    "two folders": (lambda f: shutil.copytree(f, f.parent / "a-Annotations"), "annotations twice", "keep"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFECTS)
def test_defects_are_refused_in_words(case, tmp_path):
    spoil, *parts = DEFECTS[case]
    spoil(write_wtalc(tmp_path))
    said = refusal(tmp_path)
    for part in parts:
        assert part in said
    assert len(said) < 600


def test_defects_of_features_in_one_file(tmp_path):
    write_wtalc(tmp_path, joint=True)
    path = tmp_path / "Thumos14reduced-I3D-JOINTFeatures.npy"
    arrays = [features(clip) for clip in CLIPS]
    np.save(path, objects(arrays[:5]))
    assert "5 videos, but" in refusal(tmp_path)
    np.save(path, objects([arrays[0][:, 0], *arrays[1:]]))
    assert "video 'video_test_0000001': shape (9,), not (snippets, dim)" in refusal(tmp_path)
    np.save(path, objects([np.full((9, 4), np.nan), *arrays[1:]]))
    assert "video 'video_test_0000001': 18 NaN" in refusal(tmp_path)
    np.save(path, objects(arrays))
    assert "does not divide among the streams" in refusal(tmp_path, streams=("a", "b", "c"))
    with pytest.raises(OptionError, match="leave out --order"):
        read_wtalc(tmp_path, arrangement=Arrangement("dim,snippets"))
    np.save(tmp_path / "x-UNT-JOINTFeatures.npy", objects(arrays))
    assert "features of the videos twice" in refusal(tmp_path)
