"""A results file against an annotation file: which videos, which classes, which names, what is said of the rest."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from casejax.errors import DataError
from casejax.evaluate.protocols import PROTOCOLS, judge
from casejax.inference.judging import judge_file, judged_summary, notes, print_judged, read_truth
from casejax.records import SegmentTable


def entry(label, start, end, score=None):
    return {"label": label, "segment": [start, end]} | ({} if score is None else {"score": score})


DATABASE = {
    "train_1": {"subset": "validation", "annotations": [entry("Golf", 0, 5)]},
    "video_test_0000270": {"subset": "test", "annotations": [entry("Dive", 0, 9)]},
    "one": {"subset": "test", "annotations": [entry("Dive", 2, 8), entry("Shot", 10, 16), entry("Ambiguous", 20, 30)]},
    "two": {"subset": "test", "annotations": [entry("Dive", 0, 6.4)]},
    "three": {"subset": "test", "annotations": []},
}
RESULTS = {
    "v_one.mp4": [entry("Dive", 2, 8, 0.9), entry("Shot", 22, 24, 0.8), entry("Shot", 10, 16, 0.7)],
    "two": [entry("Dive", 0, 5.9, 0.5), entry("Swim", 0, 1, 0.5)],
    "video_test_0000270": [entry("Dive", 50, 60, 1.0)],
    "elsewhere": [entry("Dive", 0, 1, 0.5), entry("Dive", 3, 4, 0.5)],
}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def files(tmp_path):
    return write(tmp_path / "found.json", {"results": RESULTS}), write(tmp_path / "gt.json", {"database": DATABASE})


def printed(judged):
    console = Console(file=io.StringIO(), width=120)
    print_judged(console, judged)
    return console.file.getvalue()


def test_the_test_subset_is_judged_by_name(files):
    found, gt = files
    truth = read_truth(gt)
    assert truth.videos == ("video_test_0000270", "one", "two", "three")
    assert truth.classes == ("Dive", "Golf", "Shot")  # the word for ambiguous intervals is no class
    np.testing.assert_array_equal(truth.ambiguous.segment, [[20, 30]])
    judged = judge_file(found, truth, PROTOCOLS["case"], num_resamples=10)
    want = judge(
        SegmentTable.from_rows(
            [1, 1, 1, 2], [0, 2, 2, 0], [[2, 8], [22, 24], [10, 16], [0, 5.9]], [0.9, 0.8, 0.7, 0.5]
        ),
        SegmentTable.from_rows([1, 1, 2], [0, 2, 0], [[2, 8], [10, 16], [0, 6.4]]),
        truth.classes,
        PROTOCOLS["case"],
        videos=["a", "b", "c"],
    )
    np.testing.assert_array_equal(judged.detection.ap, want.ap)
    assert judged.detection.mean_ap[0] == 0.75  # Dive 1, Shot 1/2
    assert judged.interval.num_videos == 3
    filtered = judge_file(found, truth, PROTOCOLS["co2"], num_resamples=10)
    assert filtered.detection.ap[2, 0] == 1  # the false one touches the ambiguous interval
    assert filtered.detection.ap[0, 0] == pytest.approx(4 / 9)  # of three, two at precision 2/3


def test_what_is_left_out_is_said(files):
    found, gt = files
    judged = judge_file(found, read_truth(gt), PROTOCOLS["case"], num_resamples=10)
    text = "\n".join(notes(judged))
    for part in (
        f"judged against subset 'test' of {gt}, 4 videos",
        "left out by the protocol: video_test_0000270",
        "has 210 videos, this one 3: do not compare",
        "1 videos of the predictions are not annotated here and not judged (2 entries) (first: 'elsewhere')",
        "1 annotated videos are not in the predictions (first: 'three')",
        "left out of the predictions: 1 entries of 1 labels that are no class (first: 'Swim')",
    ):
        assert part in text
    assert "ambiguous" not in text
    shown = printed(judged)
    assert shown.startswith("protocol case: ")
    assert " 3 videos, 3 instances" in shown
    assert all(note in shown for note in notes(judged))
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith(("Dive", "Shot", "Golf"))}
    assert rows == {
        "Dive": ["Dive", "2", "2", *["100.0"] * 8],
        "Shot": ["Shot", "1", "2", *["50.0"] * 8],
    }


def test_the_summary_is_json_with_all_of_it(files):
    found, gt = files
    judged = judge_file(found, read_truth(gt), PROTOCOLS["case"], num_resamples=10)
    text = json.dumps(judged_summary(judged), allow_nan=False)
    summary = json.loads(text)
    assert summary["protocol"]["name"] == "case"
    assert summary["mAP"]["0.50"] == 0.75
    assert summary["average_mAP"]["0.1:0.7"] == pytest.approx(0.75)
    assert summary["classes"]["Shot"] == {
        "AP": dict.fromkeys([f"0.{i}0" for i in range(1, 8)], 0.5),
        "ground_truth": 1,
        "predictions": 2,
        "in_mean": True,
    }
    assert summary["classes"]["Golf"]["AP"]["0.50"] is None
    assert summary["interval"]["resamples"] == 10
    assert (summary["num_videos"], summary["num_instances"], summary["num_predictions"]) == (3, 3, 4)
    assert summary["unmatched"] == {
        "prediction_videos": {"elsewhere": 2},
        "annotated_videos": ["three"],
        "prediction_labels": {"Swim": 1},
        "annotated_labels": {},
    }


def test_videos_of_a_split_and_classes_of_a_file(files, tmp_path):
    found, gt = files
    split = write(tmp_path / "split.txt", "v_two\none\n")
    truth = read_truth(gt, split=split, classes=write(tmp_path / "classes.txt", "Shot\nDive\n"))
    assert (truth.videos, truth.classes) == (("two", "one"), ("Shot", "Dive"))
    assert judge_file(found, truth, PROTOCOLS["case"], num_resamples=3).detection.ap[:, 0].tolist() == [0.5, 1]
    some = read_truth(gt, classes=write(tmp_path / "classes.txt", "Shot\n"))
    assert some.other_labels == {"Dive": 3}
    said = notes(judge_file(found, some, PROTOCOLS["case"], num_resamples=3))
    assert any(
        "left out of the ground truth: 3 entries of 1 labels that are no class (first: 'Dive')" in s for s in said
    )
    assert read_truth(gt, subset="validation").videos == ("train_1",)


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ({"train": 1, "val": 1}, "val"),
        ({"training": 1, "validation": 1, "testing": 0}, "validation"),  # the test labels are withheld
        ({"validation": 1, "test": 1}, "test"),
        ({"anything": 1}, "anything"),
    ],
)
def test_the_videos_to_evaluate_on_are_found(tmp_path, words, want):
    database = {word: {"subset": word, "annotations": [entry("Dive", 0, 1)] * count} for word, count in words.items()}
    assert read_truth(write(tmp_path / "gt.json", {"database": database})).videos == (want,)


def test_ambiguous_intervals_of_a_file(files, tmp_path):
    _, gt = files
    listed = write(tmp_path / "ambiguous.txt", "one  3.0 3.5\r\none 14  15\n\nnobody 0 1\n")
    truth = read_truth(gt, ambiguous=listed)
    np.testing.assert_array_equal(truth.ambiguous.segment, [[20, 30], [3, 3.5], [14, 15]])
    np.testing.assert_array_equal(truth.ambiguous.video, [1, 1, 1])
    other = write(tmp_path / "ambiguous.json", {"set_ambiguous": {"v_one": [[3, "3.5"], [14, 15]], "nobody": []}})
    np.testing.assert_array_equal(read_truth(gt, ambiguous=other).ambiguous.segment, truth.ambiguous.segment)
    without = read_truth(gt, subset="validation")
    said = notes(judge_file(write(tmp_path / "x.json", {"results": {}}), without, PROTOCOLS["co2"], num_resamples=3))
    assert any("ambiguous intervals, but none are given" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "one 1\n", r"line 'one 1': is no interval"),
        ("a.txt", "one 1 x\n", "'x' is no finite number"),
        ("a.txt", "one 3 2\n", "ends before it starts"),
        ("a.txt", "nobody 2 3\n", "names no video of .*first: 'nobody'"),
        ("a.json", "[]", r"\[\] is no object"),
        ("a.json", '{"one": [1, 2]}', r"video 'one': .* is no list of pairs"),
        ("a.json", '{"one": [[1]]}', r"interval \[1.0\]: is no interval"),
    ],
)
def test_unusable_ambiguous_intervals(files, tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_truth(files[1], ambiguous=write(tmp_path / name, text))


def test_truth_that_cannot_be_used(files, tmp_path):
    _, gt = files
    with pytest.raises(DataError, match=r"no video of subset 'val'; it has 'test' \(4 videos\), 'validation' \(1"):
        read_truth(gt, subset="val")
    with pytest.raises(DataError, match=r"1 of 2 videos are not in .*first: 'four'"):
        read_truth(gt, split=write(tmp_path / "split.txt", "one\nfour\n"))
    unclear = {word: {"subset": word, "annotations": []} for word in ("a", "b")}
    with pytest.raises(DataError, match=r"which videos to judge on\? Name one of its subsets, 'a' \(1 videos\), 'b'"):
        read_truth(write(tmp_path / "gt2.json", {"database": unclear}))


def test_predictions_that_cannot_be_used(files, tmp_path):
    _, gt = files
    truth = read_truth(gt)
    for results, message in (
        ({"results": {"x": [], "y": []}}, r"none of its 2 videos \(first: 'x', 'y'\) is among the 4 of subset 'test'"),
        (
            {"results": {"one": [entry("dive", 0, 1, 1)]}},
            r"none of its labels \(first: 'dive'\) is among the 3 classes",
        ),
        ({"results": {"one": [entry("Dive", 0, 1)]}}, "results of video 'one', entry 0"),
        ([], 'no mapping under the key "results"'),
    ):
        path = write(tmp_path / "bad.json", results)
        with pytest.raises(DataError, match=f"{path}: .*{message}"):
            judge_file(path, truth, PROTOCOLS["case"])
    for kept, name in ((0, "v_video_test_0000270"), (1, "three")):
        only = read_truth(write(tmp_path / "gt2.json", {"database": {name: DATABASE["three" if kept else "one"]}}))
        with pytest.raises(DataError, match=f"subset 'test' of .*: protocol case keeps {kept} of 1 videos, with no"):
            judge_file(write(tmp_path / "none.json", {"results": {}}), only, PROTOCOLS["case"])


def test_no_prediction_at_all_is_zero(files, tmp_path):
    judged = judge_file(
        write(tmp_path / "none.json", {"results": {}}), read_truth(files[1]), PROTOCOLS["case"], num_resamples=3
    )
    assert judged.detection.mean_ap.tolist() == [0] * 7
    assert "never predicted (AP 0): Dive, Shot" in printed(judged)
