import re

import numpy as np
import pytest
from pose_tracks import stored_fields, write_track

from casejax.data.penn_action import read_penn_action, read_pose_track
from casejax.errors import DataError

FRAMES = 4


def test_reads_every_field(tmp_path):
    track, stored = read_pose_track(write_track(tmp_path, train=np.int32(1))), stored_fields()
    assert (track.name, track.action, track.viewpoint, track.train) == ("0001", "squat", "front", True)
    assert track.image_size == (480, 270)
    assert len(track) == FRAMES
    np.testing.assert_array_equal(track.positions[..., 0], stored["x"].astype(np.float32))
    np.testing.assert_array_equal(track.positions[..., 1], stored["y"].astype(np.float32))
    np.testing.assert_array_equal(track.visible, stored["visibility"] == 1)
    np.testing.assert_array_equal(track.bbox, stored["bbox"])
    assert (track.positions.dtype, track.visible.dtype, track.bbox.dtype) == (np.float32, np.bool_, np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unsigned_coordinates_do_not_wrap_around(tmp_path, dtype):
    x = np.tile(np.arange(200, 70, -10), (FRAMES, 1)).astype(dtype)
    track = read_pose_track(write_track(tmp_path, x=x, y=x, bbox=np.tile([5, 6, 3, 2], (FRAMES, 1)).astype(dtype)))
    assert (np.diff(track.positions[..., 0], axis=1) == -10).all()
    assert (track.bbox[:, 2:] - track.bbox[:, :2] == [-2, -4]).all()


def test_a_box_missing_at_the_end_repeats_the_last(tmp_path):
    bbox = np.arange(4 * (FRAMES - 1), dtype=np.float64).reshape(-1, 4)
    track = read_pose_track(write_track(tmp_path, bbox=bbox))
    np.testing.assert_array_equal(track.bbox, np.concatenate([bbox, bbox[-1:]]))


def test_root_and_labels_folder_are_the_same(tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("0010", "0002", "0007"):
        write_track(labels, name)
    (labels / "readme.txt").write_text("not a video")
    for folder in (tmp_path, labels, str(labels)):
        assert [track.name for track in read_penn_action(folder)] == ["0002", "0007", "0010"]


BAD = {
    "no field 'visibility'": {"visibility": None},
    "x has shape (4, 12), not (frames, 13)": {"x": np.ones((FRAMES, 12))},
    "y has shape (5, 13)": {"y": np.ones((FRAMES + 1, 13))},
    "nframes states 9 frames but x has 4": {"nframes": np.uint8(9)},
    "dimensions states 5 frames": {"dimensions": np.array([270, 480, 5], np.uint16)},
    "dimensions is [[270.0, 480.0]]": {"dimensions": np.array([[270, 480]], np.uint16)},
    "states 0 x 270 pixels": {"dimensions": np.array([270, 0, FRAMES], np.uint16)},
    "train is 0, neither 1 nor -1": {"train": np.int32(0)},
    "train has shape (1, 2)": {"train": np.array([[1, 1]])},
    "visibility holds 2": {"visibility": np.full((FRAMES, 13), 2, np.uint8)},
    "bbox has shape (2, 4), not (4, 4)": {"bbox": np.ones((FRAMES - 2, 4))},
    "x holds nan in row 2, column 5": {
        "x": np.where(np.arange(13) == 5, np.where(np.eye(FRAMES, 13, 3), np.nan, 1), 1)
    },
    "action is not a text": {"action": np.ones((1, 1))},
    "x is not a matrix of numbers": {"x": np.array([["a"]], object)},
}


@pytest.mark.parametrize("says", BAD)
def test_a_bad_file_is_refused_by_name(tmp_path, says):
    path = write_track(tmp_path, **BAD[says])
    with pytest.raises(DataError, match=re.escape(says)) as caught:
        read_penn_action(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:200], lambda data: b""])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = write_track(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_pose_track(path)


def test_missing_folder_files_and_file_are_said(tmp_path):
    for folder, says in ((tmp_path / "none", "no such folder"), (tmp_path, "holds no .mat file")):
        with pytest.raises(DataError, match=says):
            read_penn_action(folder)
    with pytest.raises(DataError, match=r"0009\.mat: no such file"):
        read_pose_track(tmp_path / "0009.mat")
