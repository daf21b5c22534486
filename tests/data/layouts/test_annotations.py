"""Defects of annotation and split files are refused in words that name the file, the value and the remedy."""

import json

import numpy as np
import pytest

from casejax.data.layouts.annotations import read_annotations, read_split
from casejax.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gt.json"


def write(path, **videos):
    path.write_text(json.dumps({"database": videos}))


def good_video():
    annotations = [{"label": "Run", "segment": ["0.5", "1.25"]}, {"label": "Jump", "segment": [2, "2.5e0"]}]
    return {"subset": "train", "annotations": annotations}


def refusal(read, path):
    with pytest.raises(DataError) as caught:
        read(path)
    return str(caught.value)


def assert_says(message, *parts):
    for part in parts:
        assert str(part) in message, f"{part!r} is not in {message!r}"
    assert len(message) < 600


def test_times_are_numbers_or_strings(path):
    write(path, a=good_video(), b={"annotations": [], "duration": "7.5"})
    videos = read_annotations(path)
    assert list(videos) == ["a", "b"]
    assert (videos["a"].id, videos["a"].subset, videos["a"].duration) == ("a", "train", None)
    assert videos["a"].segment_labels == ("Run", "Jump")
    assert videos["a"].segments.dtype == np.float64
    np.testing.assert_array_equal(videos["a"].segments, [[0.5, 1.25], [2, 2.5]])
    assert videos["b"].segments.shape == (0, 2)
    assert videos["b"].duration == 7.5


def test_duration_may_be_exceeded_by_rounding(path):
    write(path, a={**good_video(), "duration": 2.4995})
    assert read_annotations(path)["a"].duration == 2.4995


# The file as a whole


def test_missing_annotations(path):
    assert_says(refusal(read_annotations, path), path, "no such file", "put it there")


def test_annotations_that_are_not_json(path):
    path.write_text('{"database":\n {"a" 1}}')
    assert_says(refusal(read_annotations, path), path, "line 2, column 7", "repair or download")


@pytest.mark.parametrize("text", ["[]", "{}", '{"database": []}', "3"])
def test_annotations_without_a_database(path, text):
    path.write_text(text)
    assert_says(refusal(read_annotations, path), path, 'no "database"', 'put the videos into {"database"')


def test_annotations_nested_without_end(path):
    path.write_text("[" * 100_000)
    assert_says(refusal(read_annotations, path), path, "nested too deep", "download it again")


def test_video_twice_in_the_annotations(path):
    path.write_text('{"database": {"a": {"annotations": []}, "a": {"annotations": []}}}')
    assert_says(refusal(read_annotations, path), path, "'a' twice", "keep one")


# One video


def segment(*times):
    return lambda video: video["annotations"][0].update(segment=list(times))


def label(value):
    return lambda video: video["annotations"][0].update(label=value)


BAD_ENTRIES = {
    "end before start": (segment(2, "1.5"), ("ends at 1.5 s", "start at 2.0 s", "fix it or remove")),
    "end at start": (segment(2, 2), ("ends at 2.0 s", "start at 2.0 s", "fix it or remove")),
    "negative start": (segment("-0.5", 2), ("-0.5 s", "before the video", "fix it or remove")),
    "word": (segment(0, "late"), ("'late'", "no finite number", "write seconds")),
    "empty string": (segment("", 1), ("''", "no finite number", "write seconds")),
    "NaN string": (segment("nan", 1), ("'nan'", "no finite number", "write seconds")),
    "NaN": (segment(0, float("nan")), ("nan", "no finite number", "write seconds")),
    "infinite": (segment(0, float("inf")), ("inf", "no finite number", "write seconds")),
    "huge": (segment(0, 10**400), ("inf", "no finite number", "write seconds")),
    "boolean": (segment(0, True), ("True", "no finite number", "write seconds")),
    "null": (segment(None, 1), ("None", "no finite number", "write seconds")),
    "list": (segment([0], 1), ("[0", "no finite number", "write seconds")),
    "one time": (segment(1), ("[1.0]", "no pair", "write [start, end]")),
    "three times": (segment(1, 2, 3), ("[1.0, 2.0, 3.0]", "no pair", "write [start, end]")),
    "segment a string": (
        lambda v: v["annotations"][0].update(segment="1-2"),
        ("'1-2'", "no pair", "write [start"),
    ),
    "no segment": (lambda v: v["annotations"][0].pop("segment"), ("None", "no pair", "write [start, end]")),
    "no label": (lambda v: v["annotations"][0].pop("label"), ("None", "no class name", "write one")),
    "number label": (label(3), ("label 3", "no class name", "write one as a string")),
    "blank label": (label(" "), ("' '", "no class name", "write one as a string")),
    "no object": (lambda v: v["annotations"].insert(0, "Run"), ("'Run'", "no object", "write {")),
    "past the duration": (
        lambda v: v.update(duration=1.2),
        ("1.25 s", "duration is 1.2 s", "drop the duration"),
    ),
    "duration zero": (
        lambda v: v.update(duration=0),
        ("duration 0.0 s", "not positive", "drop the duration"),
    ),
    "duration a word": (lambda v: v.update(duration="long"), ("duration", "'long'", "write seconds")),
    "annotations missing": (lambda v: v.pop("annotations"), ('no "annotations" list', "add one")),
    "annotations an object": (lambda v: v.update(annotations={}), ('no "annotations" list', "add one")),
}


@pytest.mark.parametrize("defect", BAD_ENTRIES)
def test_bad_annotation_is_refused(path, defect):
    change, parts = BAD_ENTRIES[defect]
    video = good_video()
    change(video)
    write(path, fine=good_video(), a=video)
    assert_says(refusal(read_annotations, path), path, "video 'a'", *parts)


def test_entry_that_is_no_object(path):
    write(path, a=["Run", 0, 1])
    assert_says(refusal(read_annotations, path), path, "video 'a'", 'no "annotations" list', "add one")


def test_the_annotation_at_fault_is_named_and_the_videos_counted(path):
    video = good_video()
    video["annotations"][1]["segment"] = [3, 1]
    write(path, a=video, b=good_video(), c=video)
    assert_says(refusal(read_annotations, path), "video 'a', annotation 1", "(and 1 more)")


# Split files


@pytest.fixture
def split(tmp_path):
    return tmp_path / "split_train.txt"


def test_split_file_from_another_system_is_read(split):
    split.write_bytes(b"\xef\xbb\xbfb  \r\n\r\n\t a\r\n\r\n")
    assert read_split(split) == ("b", "a")


def test_missing_split_file(split):
    split.with_name("split_test.txt").write_text("c\n")
    assert_says(refusal(read_split, split), split, "found: split_test.txt", "write one video id a line")


def test_empty_split_file(split):
    split.write_text(" \n\n")
    assert_says(refusal(read_split, split), split, "0 videos", "write one video id a line")


def test_duplicate_id_in_a_split(split):
    split.write_text("c\nd\nc\n")
    assert_says(refusal(read_split, split), split, "'c' more than once", "keep one of the lines")


@pytest.mark.parametrize("video", ["../a", "a/b", "a\\b", "..", "/etc/passwd"])
def test_id_that_leaves_the_folder(split, video):
    split.write_text(f"a\n{video}\n")
    assert_says(refusal(read_split, split), split, repr(video), "rename the video")


def test_binary_split_file(split):
    split.write_bytes(b"\xff\xfe\x00a")
    assert_says(refusal(read_split, split), split, "cannot be read as text", "UTF-8")


def test_split_file_that_is_a_folder(split):
    split.mkdir()
    assert_says(refusal(read_split, split), split, "cannot be read as text", "save it as")
