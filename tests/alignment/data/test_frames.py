"""Folders of pictures: the order of frames, what cannot be read, and FineGym's sets in one order."""

import re

import numpy as np
import pytest
from PIL import Image

from casejax.alignment.data.blobs import write_blob_videos
from casejax.alignment.data.finegym import Clip, EventVideo, read_finegym_folder
from casejax.alignment.data.frames import load_frames, read_frame_videos, reorganise_videos
from casejax.errors import DataError, OptionError


def write(folder, names, phases=None, size=(6, 4)):
    """Pictures of one colour, the place in `names` for its red."""
    folder.mkdir(parents=True)
    for place, name in enumerate(names):
        Image.new("RGB", size, (place, 0, 0)).save(folder / name, quality=100)
    if phases is not None:
        (folder / "phases.txt").write_text(phases)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train" / "wave" / "a", ["f2.png", "f10.png", "f1.PNG", "f3.jpeg"], "0\n0\n1\n2\n")
    write(tmp_path / "test" / "wave" / "b", ["1.png"])
    return tmp_path


def test_frames_come_in_the_order_of_their_numbers(folder):
    first, second = read_frame_videos(folder)
    assert (first.name, first.action, first.train, len(first)) == ("a", "wave", True, 4)
    assert (second.name, second.train, second.phases) == ("b", False, None)
    assert [path.name for path in first.paths] == ["f1.PNG", "f2.png", "f3.jpeg", "f10.png"]
    np.testing.assert_array_equal(first.phases, [0, 0, 1, 2])


def test_frames_are_loaded_in_any_shape(folder):
    video = read_frame_videos(folder)[0]
    index = np.array([[0, 3], [3, 1]])
    pictures = load_frames(video, index, size=5)
    assert pictures.shape == (2, 2, 5, 5, 3)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures[..., 0, 0, 0], [[2, 1], [1, 0]])


def spoil_picture(folder):
    (folder / "train" / "wave" / "a" / "f2.png").write_bytes(b"\x80\x04K\x01.")


def cut_picture(folder):
    path = folder / "train" / "wave" / "a" / "f2.png"
    path.write_bytes(path.read_bytes()[:45])


@pytest.mark.parametrize("spoil", [spoil_picture, cut_picture])
def test_a_picture_that_cannot_be_read_is_named(folder, spoil):
    spoil(folder)
    video = read_frame_videos(folder)[0]
    with pytest.raises(DataError, match=r"f2\.png: not a readable PNG or JPEG"):
        load_frames(video, np.arange(4), size=5)


def test_what_does_not_fit_is_said(folder):
    phases = folder / "train" / "wave" / "a" / "phases.txt"
    for text, says in (("0\n1\n", "has 2 phases for 4 pictures"), ("0\n-1\n0\n0\n", "line 2: '-1' is not a phase")):
        phases.write_text(text)
        with pytest.raises(DataError, match=f"{re.escape(str(phases))}.*{says}"):
            read_frame_videos(folder)
    phases.unlink()
    (folder / "train" / "wave" / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no picture"):
        read_frame_videos(folder)
    with pytest.raises(DataError, match="train: no such folder; the layout is"):
        read_frame_videos(folder / "none")


def test_invented_videos_are_the_same_for_the_same_seed(tmp_path):
    for name in ("one", "two"):
        write_blob_videos(tmp_path / name, train_videos=1, test_videos=1, shortest=6, longest=9, size=16)
    videos = [read_frame_videos(tmp_path / name) for name in ("one", "two")]
    assert [(v.action, v.train) for v in videos[0]] == [
        ("circle", True),
        ("zigzag", True),
        ("circle", False),
        ("zigzag", False),
    ]
    for one, two in zip(*videos, strict=True):
        np.testing.assert_array_equal(one.phases, two.phases)
        assert one.phases[0] == 0
        assert one.phases[-1] == 2
        index = np.arange(len(one))
        np.testing.assert_array_equal(load_frames(one, index, size=16), load_frames(two, index, size=16))


def test_the_sets_of_an_event_are_put_in_one_order(tmp_path):
    names = [f"{frame}.png" for frame in range(10)]
    for part in ("train", "test"):
        write(tmp_path / part / "any" / part, names)
    videos = read_frame_videos(tmp_path)
    events = [
        EventVideo("train", 1, 10.0, (Clip(7, 1, 0.0, 2.0), Clip(8, 2, 4.0, 6.0))),
        EventVideo("test", 1, 10.0, (Clip(8, 2, 1.0, 3.0), Clip(7, 1, 5.0, 8.0))),
    ]
    train, test = reorganise_videos(videos, events, frames_per_second=1.0)
    assert (train.action, test.action) == ("vault", "vault")
    assert [path.stem for path in test.paths] == ["5", "6", "7", "1", "2"]
    np.testing.assert_array_equal(test.phases, [7, 7, 7, 8, 8])
    np.testing.assert_array_equal(train.phases, [7, 7, 8, 8])

    with pytest.raises(DataError, match="no test; leave the folder out"):
        reorganise_videos(videos, events[:1], frames_per_second=1.0)
    with pytest.raises(DataError, match="no training video of vault"):
        reorganise_videos(videos[1:], events, frames_per_second=1.0)
    late = [EventVideo(e.id, 1, 100.0, (Clip(7, 1, 50.0, 60.0),)) for e in events]
    with pytest.raises(DataError, match="none of its 10 frames is annotated"):
        reorganise_videos(videos, late, frames_per_second=1.0)
    with pytest.raises(OptionError, match="--fps must be above 0, got 0"):
        reorganise_videos(videos, events, frames_per_second=0.0)


def test_the_folder_of_finegym_must_hold_one_file_of_each_kind(tmp_path):
    with pytest.raises(DataError, match=r"holds 0 files named finegym_annotation_info\*\.json"):
        read_finegym_folder(tmp_path)
