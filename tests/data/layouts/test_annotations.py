"""Defects of annotation and split files are refused in words that name the file, the value and the remedy."""

import json
import warnings

import numpy as np
import pytest

from casejax.data.layouts.annotations import read_annotations, read_split
from casejax.errors import DataError, DataWarning


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
    "no label": (lambda v: v["annotations"][0].pop("label"), ("None", "no class name", "write one")),
    "number label": (label(3), ("label 3", "no class name", "write one as a string")),
    "blank label": (label(" "), ("' '", "no class name", "write one as a string")),
    "no object": (lambda v: v["annotations"].insert(0, "Run"), ("'Run'", "no object", "write {")),
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
    video["annotations"][1]["segment"] = [3]
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
    assert_says(refusal(read_split, split), split, "is a folder, not a file", "name a file")


# What is odd and used all the same


def read_with_remarks(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        videos = read_annotations(path)
    assert all(issubclass(each.category, DataWarning) for each in caught)
    return videos, {each.message.kind: each.message for each in caught}


def instance(label, *times):
    return {"label": label, "segment": list(times)}


@pytest.mark.parametrize(
    ("duration", "end"), [(86.05, 86.05315), (86.0, 86.4), (120, 120.49), ("7.5", 7.549), (9.123456, 9.1239)]
)
def test_a_duration_may_be_exceeded_by_what_its_rounding_hides(path, duration, end):
    write(path, a={"duration": duration, "annotations": [instance("X", 0.01, end)]})
    videos, said = read_with_remarks(path)
    np.testing.assert_array_equal(videos["a"].segments, [[0.01, end]])
    assert not said


def test_instances_past_the_end_are_kept_and_counted(path):
    write(
        path,
        a={"duration": 117.235, "annotations": [instance("X", 3, 5), instance("X", 118.0, 130.1)]},
        b={"duration": 20.0, "annotations": [instance("X", 15, 21), instance("X", "-0.5", 2)]},
    )
    videos, said = read_with_remarks(path)
    assert [len(video.segments) for video in videos.values()] == [2, 2]
    assert said.keys() == {"past the end", "before the start"}
    assert_says(str(said["past the end"]), path, "2 instances", "a [118.0, 130.1]", "b [15.0, 21.0]", "kept")
    assert_says(str(said["before the start"]), "1 instances", "b [-0.5, 2.0]")


def test_empty_and_reversed_instances_are_set_aside_but_their_label_stays(path):
    write(
        path,
        a={"annotations": [instance("X", 0, 0), instance("X", 3, 9.5)]},
        b={"annotations": [instance("X", 1, 2), instance("Y", 7, "3")]},
    )
    videos, said = read_with_remarks(path)
    assert [video.segments.tolist() for video in videos.values()] == [[[3, 9.5]], [[1, 2]]]
    assert [video.labels for video in videos.values()] == [("X",), ("X", "Y")]
    assert all(video.timed for video in videos.values())
    assert_says(str(said["empty"]), path, "2 instances", "a [0.0, 0.0]", "b [7.0, 3.0]", "set aside")


@pytest.mark.parametrize("value", [0, -3, "long", float("nan")])
def test_a_duration_that_is_none_is_left_out(path, value):
    write(path, a={**good_video(), "duration": value})
    videos, said = read_with_remarks(path)
    assert videos["a"].duration is None
    assert_says(str(said["duration"]), path, "1 stated durations", "left out")


@pytest.mark.parametrize(
    "entry",
    [
        {"annotations": [{"label": "Run"}, {"label": "Jump"}]},
        {"annotations": [{"label": "Run", "segment": None}, {"label": "Jump", "segment": []}]},
        {"labels": ["Jump", "Run"]},
        {"annotations": [], "labels": ["Jump", "Run"]},
    ],
)
def test_labels_without_times(path, entry):
    write(path, a=entry, b={"label": "Run"}, c={"annotations": []})
    videos = read_annotations(path)
    assert videos["a"].labels == ("Jump", "Run")
    assert videos["b"].labels == ("Run",)
    assert [video.timed for video in videos.values()] == [False, False, True]
    assert all(len(video.segments) == 0 for video in videos.values())


def test_labels_beside_annotations_are_those_of_the_video(path):
    write(path, a={"annotations": [instance("X", 1, 2), instance("Y", 3, 4)], "labels": ["X"]})
    video = read_annotations(path)["a"]
    assert (video.labels, video.segment_labels, video.timed) == (("X",), ("X", "Y"), True)


def test_a_label_without_time_among_instances(path):
    write(path, a={"annotations": [instance("X", 1, 2), {"label": "Y"}]})
    videos, said = read_with_remarks(path)
    assert (videos["a"].labels, videos["a"].timed) == (("X", "Y"), False)
    assert_says(str(said["whole label"]), "1 labels without a time", "a")


def test_ambiguous_intervals_are_no_instances(path):
    write(path, a={"annotations": [instance("X", 1, 2), instance("Ambiguous", 3, 4)]})
    video = read_annotations(path)["a"]
    assert (video.labels, video.segment_labels) == (("X",), ("X",))
    np.testing.assert_array_equal(video.ambiguous, [[3, 4]])


def test_dialects_of_the_file(path):
    """Without "database", with other names for lengths, and with `v_` before ids or without."""
    path.write_text(json.dumps({"v_a": {**good_video(), "duration_second": 7.5, "duration_frame": 225}}))
    for only in (["a"], ["v_a"]):
        video = read_annotations(path, only=only)[only[0]]
        assert (video.duration, video.frames) == (7.5, 225)


def test_entries_that_nobody_asks_for_are_not_looked_at(path):
    write(path, a=good_video(), b={"annotations": [{"label": 3}]})
    assert list(read_annotations(path, only=["a", "z"])) == ["a"]
    with pytest.raises(DataError):
        read_annotations(path)


def test_predictions_in_the_place_of_annotations(path):
    path.write_text(json.dumps({"results": {"a": []}}))
    assert_says(refusal(read_annotations, path), path, "predictions", "name the annotations")
