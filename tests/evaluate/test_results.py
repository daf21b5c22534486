"""The ActivityNet results format: round trips, counters, and errors that name the entry."""

import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from casejax.errors import DataError
from casejax.evaluate.results import parse_results, results_dict
from casejax.records import SegmentTable, match_names

VIDEOS = ("v_one", "v_two", "v_three")
CLASSES = ("Diving", "Shotput")


def entry(label="Diving", score=0.5, segment=(1.0, 2.0)):
    return {"label": label, "score": score, "segment": list(segment)}


def test_detections_survive_a_file(rng):
    start = rng.uniform(0, 50, 20)
    video = np.sort(rng.choice([0, 2], 20))  # the second video has none
    segment = np.stack([start, start + rng.uniform(0.1, 5, 20)], axis=1)
    detections = SegmentTable(video, rng.integers(0, 2, 20), segment, rng.normal(size=20))
    written = results_dict(detections, VIDEOS, CLASSES)
    assert list(written) == ["version", "results", "external_data"]
    assert list(written["results"]) == list(VIDEOS)
    assert written["results"]["v_two"] == []
    read, unknown_labels, unknown_videos, absent = parse_results(json.loads(json.dumps(written)), VIDEOS, CLASSES)
    for got, want in zip(read, detections, strict=True):
        assert_array_equal(got, want)
    assert not unknown_labels
    assert not unknown_videos
    assert absent == ()


def test_an_entry_as_the_evaluators_expect_it():
    detections = SegmentTable.from_rows([1], [1], [[0.5, 2.5]], [0.75])
    assert results_dict(detections, VIDEOS, CLASSES)["results"] == {
        "v_one": [],
        "v_two": [{"label": "Shotput", "score": 0.75, "segment": [0.5, 2.5]}],
        "v_three": [],
    }


def test_entries_keep_the_order_of_the_file():
    file = {"results": {"v_two": [entry(score=0.1), entry(score=0.9)], "v_one": [entry(score=0.5)]}}
    read, *_ = parse_results(file, VIDEOS, CLASSES)
    assert_array_equal(read.video, [1, 1, 0])
    assert_array_equal(read.score, [0.1, 0.9, 0.5])


def test_what_is_unknown_is_counted_and_left_out():
    file = {
        "results": {
            "v_one": [entry("Ambiguous"), entry(), entry("Ambiguous"), entry("Golf")],
            "elsewhere": [entry(), entry("Ambiguous")],
        }
    }
    read, unknown_labels, unknown_videos, absent = parse_results(file, VIDEOS, CLASSES)
    assert len(read.score) == 1
    assert unknown_labels == {"Ambiguous": 2, "Golf": 1}
    assert unknown_videos == {"elsewhere": 2}
    assert absent == ("v_two", "v_three")


@pytest.mark.parametrize("file", [{"results": {}}, {"results": {"v_one": []}}])
def test_no_entry_is_an_empty_table(file):
    read, *_ = parse_results(file, VIDEOS, CLASSES)
    assert [column.shape for column in read] == [(0,), (0,), (0, 2), (0,)]


def test_a_segment_of_zero_length_is_read():
    read, *_ = parse_results({"results": {"v_one": [entry(segment=(3, 3))]}}, VIDEOS, CLASSES)
    assert_array_equal(read.segment, [[3, 3]])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (entry(segment=(5, 2)), r"segment \[5\.0, 2\.0\] ends before it starts; drop the entry"),
        (entry(segment=(float("nan"), 2)), r"segment \[nan, 2\.0\] .* must be finite; drop"),
        (entry(segment=(0, float("inf"))), r"segment \[0\.0, inf\] .* must be finite"),
        (entry(score=float("nan")), "score nan must be finite"),
        (entry(segment=(1, 2, 3)), r"\[1, 2, 3\].* is not .*fix what wrote it"),
        (entry(score="high"), "'high'.* is not "),
        (entry(score=None), "None.* is not "),
        ({"score": 0.5, "segment": [0, 1]}, "is not .*label"),
        ("Diving", "'Diving' is not "),
        (None, "None is not "),
        (3.0, "3.0 is not "),
        ([], r"\[\] is not "),
        (entry(["Diving"]), r"\['Diving'\].* is not "),
        (entry(None), "'label': None.* is not "),
        (entry(0), "'label': 0.* is not "),
        (entry(score=True), "True.* is not "),
        (entry(score=10**400), "is not "),
        (entry(score=[0.5]), "is not "),
        (entry(segment=(False, True)), "False, True.* is not "),
        (entry() | {"segment": None}, "'segment': None.* is not "),
        (entry() | {"segment": "12"}, "'segment': '12'.* is not "),
        (entry() | {"segment": {"0": 1, "1": 2}}, "is not "),
    ],
)
def test_a_broken_entry_is_named(broken, message):
    file = {"results": {"v_one": [entry()], "v_two": [entry(), entry(), broken]}}
    with pytest.raises(DataError, match=f"video 'v_two', entry 2: .*{message}"):
        parse_results(file, VIDEOS, CLASSES)


@pytest.mark.parametrize(
    "file", [{}, {"results": [entry()]}, {"v_one": [entry()]}, [entry()], None, 3.0, {"results": None}]
)
def test_another_layout_is_refused(file):
    with pytest.raises(DataError, match='"results"'):
        parse_results(file, VIDEOS, CLASSES)


def test_null_is_no_detection_and_strings_spell_numbers():
    file = {"results": {"v_one": None, "v_two": [entry(score="0.25") | {"segment": ["1.5", "2"]}], "elsewhere": None}}
    read, unknown_labels, unknown_videos, absent = parse_results(file, VIDEOS, CLASSES)
    assert_array_equal(read.segment, [[1.5, 2]])
    assert_array_equal(read.score, [0.25])
    assert_array_equal(read.video, [1])
    assert (unknown_labels, unknown_videos, absent) == ({}, {"elsewhere": 0}, ("v_three",))


@pytest.mark.parametrize("entries", [3.0, True, "one", {"label": "Diving"}])
@pytest.mark.parametrize("video", ["v_one", "elsewhere"])
def test_a_video_whose_entries_are_no_list_is_named(entries, video):
    with pytest.raises(DataError, match=f"results of video '{video}': .*is no list; write"):
        parse_results({"results": {video: entries}}, VIDEOS, CLASSES)


def test_entries_of_other_videos_are_not_read():
    file = {"results": {"elsewhere": [None, 3.0, {"label": []}]}}
    assert parse_results(file, VIDEOS, CLASSES).unknown_videos == {"elsewhere": 3}


def test_names_are_matched_without_prefix_and_extension():
    file = {"results": {"one": [entry()], "v_two.MP4": [entry()], "v_three.npy": [entry()], "three": [entry()]}}
    read, _, unknown_videos, absent = parse_results(file, VIDEOS, CLASSES)
    assert_array_equal(read.video, [0, 1])
    assert unknown_videos == {"v_three.npy": 1, "three": 1}  # which of the two is meant, nobody knows
    assert absent == ("v_three",)


@pytest.mark.parametrize(
    ("names", "videos", "want"),
    [
        (
            ["a", "v_b", "c.mkv", "v_d.webm"],
            ["v_a", "b", "v_c", "d.npy"],
            {"a": 0, "v_b": 1, "c.mkv": 2, "v_d.webm": 3},
        ),
        (["x", "v_x"], ["v_x"], {"v_x": 0}),  # the same name goes first
        (["x", "x.mp4"], ["v_x"], {}),
        (["x.mp4"], ["x", "v_x"], {}),
        (["x.mp4", "x"], ["x", "v_x"], {"x": 0}),
        (["x.avi", "x.avi"], ["x"], {"x.avi": 0}),
        (["x.txt", "vx", "V_x", ""], ["x"], {}),
    ],
)
def test_names_are_matched_where_that_is_unique(names, videos, want):
    assert match_names(names, videos) == want


@pytest.mark.parametrize(
    ("segment", "score", "message"),
    [([0, np.nan], 1.0, "finite"), ([0, 1], np.inf, "score inf"), ([2, 1], 1.0, "ends before")],
)
def test_nothing_broken_is_written(segment, score, message):
    detections = SegmentTable.from_rows([0, 1], [0, 0], [[0, 1], segment], [0.5, score])
    with pytest.raises(DataError, match=f"detections, row 1: .*{message}"):
        results_dict(detections, VIDEOS, CLASSES)
