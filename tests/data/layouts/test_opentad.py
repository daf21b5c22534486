"""What is special in the folders of OpenTAD and ActionFormer."""

import json

import numpy as np
import pytest
from layout_folders import CLIPS, assert_is_world, write_opentad

from casejax.data.layouts import find_layout
from casejax.data.layouts.opentad import read_opentad
from casejax.errors import DataError, DataWarning
from casejax.records import Timing

IDS = [clip.id for clip in CLIPS]
WORDS = ("Validation", "Test")


@pytest.fixture
def document(tmp_path):
    return write_opentad(tmp_path)


def write(root, document):
    (root / "annotations" / "thumos_14_anno.json").write_text(json.dumps(document))


def instances(document, video):
    return document["database"][IDS[video]]["annotations"]


def refusal(root):
    with pytest.raises(DataError) as caught:
        read_opentad(root)
    return str(caught.value)


def test_the_tree_of_actionformer(tmp_path, document):
    """Everything beside each other, features under another name, classes by number alone."""
    numbers = {"Run": 0, "Jump": 7}
    for entry in document["database"].values():
        for instance in entry["annotations"]:
            instance |= {"label_id": numbers[instance["label"]], "segment(frames)": [1.0, 2.0]}
    (tmp_path / "thumos14.json").write_text(json.dumps(document))
    for path in (tmp_path / "annotations").iterdir():
        path.unlink()
    (tmp_path / "features").rename(tmp_path / "i3d_features")
    (tmp_path / "i3d_features" / "features.json").write_text('{"stride": 16, "fps": 25, "frames": 32}')
    assert find_layout(tmp_path) == "opentad"
    data = read_opentad(tmp_path)
    assert data.classes == ("Run", "Jump")
    assert data.timing == Timing(32, 16, 25)
    assert data.train.videos[1].segments.tolist() == [[0.5, 1.5], [2.0, 4.75], [3.0, 5.0]]


def test_a_stated_rate(tmp_path, document):
    assert read_opentad(tmp_path, timing=Timing(16, 16, 25)).timing == Timing()
    with pytest.warns(DataWarning) as caught:
        assert read_opentad(tmp_path, timing=Timing(16, 4, 30)).snippet_seconds == 4 / 30
    assert [w.message.kind for w in caught] == ["durations", "beyond the rows"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("features/missing_files.txt", f"{IDS[0]}\r\n\r\nv_{IDS[4]}\nother\n"),
        ("annotations/blocked.json", json.dumps([IDS[0], IDS[4]])),
        ("missing_files.txt", f"{IDS[0]}\n{IDS[4]}\n"),
    ],
)
def test_videos_of_the_block_list_are_left_out(name, text, tmp_path, document):
    document["database"][IDS[4]]["annotations"] = "whatever"  # an entry that is not looked at
    write(tmp_path, document)
    (tmp_path / name).write_text(text)
    data = read_opentad(tmp_path)
    assert [video.id for video in data.train.videos] == [*IDS[2:4], IDS[5]]
    assert [video.id for video in data.test.videos] == [IDS[1]]


def test_block_lists_that_cannot_be_used(tmp_path, document):
    (tmp_path / "annotations" / "blocked.json").write_text("[3]")
    assert "blocked.json: is no list of ids; write [ID, ...]" in refusal(tmp_path)
    (tmp_path / "features" / "missing_files.txt").write_text("a\n")
    assert "two lists of videos to leave out; keep one" in refusal(tmp_path)


def test_instances_that_repeat_others_are_removed_with_a_count(tmp_path, document):
    first = instances(document, 3)
    first += [{"label": "Jump", "segment": [3.0, 5.0004]}, {"label": "Run", "segment": [3.0, 5.0]}]
    first += [{"label": "Jump", "segment": [3.0, 5.002]}]
    instances(document, 0).insert(0, dict(instances(document, 0)[1]))
    write(tmp_path, document)
    with pytest.warns(DataWarning, match="2 instances repeat another of the same class; they are removed") as caught:
        data = read_opentad(tmp_path)
    assert [w.message.kind for w in caught] == ["repeated"]
    video = data.train.videos[1]
    assert video.segment_labels == ("Jump", "Run", "Jump", "Run", "Jump")
    assert video.segments[2:].tolist() == [[3, 5], [3, 5], [3, 5.002]]
    assert data.test.videos[0].segments.tolist() == [[3, 4.5], [0.5, 2.25]]


def test_ambiguous_instances_are_intervals_and_no_class(tmp_path, document):
    instances(document, 0).append({"label": "Ambiguous", "segment": [1, 2]})
    alone = {"label": "Ambiguous", "segment": [0, 3]}
    document["database"]["video_test_0001292"] = {"subset": "Test", "annotations": [alone], "duration": 9}
    write(tmp_path, document)
    with pytest.warns(DataWarning, match="1 videos have no label and are left out: video_test_0001292"):
        data = read_opentad(tmp_path)
    assert_is_world(data, words=WORDS)
    assert [video.ambiguous.tolist() for video in data.test.videos] == [[[1, 2]], []]


def test_classes_without_a_category_file(tmp_path, document):
    (tmp_path / "annotations" / "category_idx.txt").unlink()
    assert_is_world(read_opentad(tmp_path), words=WORDS)
    numbers = iter(range(99))
    for entry in document["database"].values():
        for instance in entry["annotations"]:
            instance["label_id"] = next(numbers)
    write(tmp_path, document)
    said = refusal(tmp_path)
    for part in ("thumos_14_anno.json: class", "has the label_ids [", "list the classes in", "category_idx.txt"):
        assert part in said
    for entry in document["database"].values():
        for instance in entry["annotations"]:
            instance["label_id"] = 3
    write(tmp_path, document)
    assert "classes ['Jump', 'Run'] have one label_id, 3" in refusal(tmp_path)


def test_a_label_that_the_category_file_lacks(tmp_path, document):
    (tmp_path / "annotations" / "category_idx.txt").write_text("Run\n")
    said = refusal(tmp_path)
    assert "'Jump', which that file does not list" in said
    assert "category_idx.txt" in said


def test_features_in_a_folder_of_their_own(tmp_path, document):
    inner = tmp_path / "features" / "i3d_stride16"
    inner.mkdir()
    for video in IDS:
        (tmp_path / "features" / f"{video}.npy").rename(inner / f"{video}.npy")
    (inner / "missing_files.txt").write_text(f"{IDS[5]}\n")
    data = read_opentad(tmp_path)
    assert data.streams == ("i3d_stride16",)
    assert [video.id for video in data.train.videos] == IDS[2:5]
    assert np.isfinite(data.train.features.streams[0]).all()
