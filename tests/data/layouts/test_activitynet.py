"""The dialects of ActivityNet's JSON, what is left out with a count, and what is refused."""

import json

import numpy as np
import pytest
from layout_folders import CLIPS, WRITERS, assert_is_world, entries, write_activitynet

from casejax.data import LAYOUTS
from casejax.data.layouts.activitynet import read_activitynet
from casejax.data.layouts.published import read_dataset
from casejax.errors import DataError, DataWarning

FILE = "activity_net.v1-3.min.json"
IDS = [clip.id for clip in CLIPS]


@pytest.fixture
def document(tmp_path):
    return write_activitynet(tmp_path)


def write(root, document):
    (root / FILE).write_text(json.dumps(document))


def refusal(root, **options):
    with pytest.raises(DataError) as caught:
        read_activitynet(root, **options)
    return str(caught.value)


def warned(read, root):
    """The data set, and the places of each kind of warning."""
    with pytest.warns(DataWarning) as caught:
        data = read(root)
    return data, {w.message.kind: w.message.places for w in caught}


@pytest.mark.parametrize(
    "words",
    [("training", "validation"), ("train", "val"), ("Training", "Test"), ("train", "testing"), ("validation", "test")],
)
def test_words_for_subsets(words, tmp_path):
    write_activitynet(tmp_path, words=words)
    assert_is_world(read_activitynet(tmp_path), words=words)


def test_entries_without_a_database_around_them(tmp_path, document):
    write(tmp_path, document["database"])
    (tmp_path / FILE).rename(tmp_path / "mine.json")
    assert_is_world(read_activitynet(tmp_path), words=("training", "validation"))


def test_ids_with_and_without_the_prefix(tmp_path, document):
    for path in list((tmp_path / "features").iterdir()):
        path.rename(path.with_name(f"v_{path.name}"))
    assert_is_world(read_activitynet(tmp_path), words=("training", "validation"))
    for split, ids in (("train", IDS[2:]), ("test", IDS[:2])):
        (tmp_path / f"split_{split}.txt").write_text("".join(f"v_{video}\r\n" for video in ids))
    data = read_activitynet(tmp_path)
    assert [video.id for video in data.train.videos] == [f"v_{video}" for video in IDS[2:]]
    assert [video.segments.tolist() for video in data.test.videos] == [[[0.5, 2.25], [3.0, 4.5]], [[1.25, 7.0]]]


def test_videos_that_no_list_names_are_not_looked_at(tmp_path, document):
    document["database"]["broken"] = {"subset": "what", "annotations": [{"label": 3}]}
    write(tmp_path, document)
    assert "'broken'" in refusal(tmp_path)
    for split, ids in (("train", IDS[3:]), ("test", IDS[:1])):
        (tmp_path / f"split_{split}.txt").write_text("\n".join(ids))
    data = read_activitynet(tmp_path)
    assert [[v.id for v in split.videos] for split in (data.train, data.test)] == [IDS[3:], IDS[:1]]
    (tmp_path / "split_test.txt").unlink()
    assert "split_test.txt: no such split file" in refusal(tmp_path)


def test_rounded_durations_are_not_remarked(tmp_path, document):
    for entry in document["database"].values():
        entry["duration"] = round(entry["duration"])  # 5.76 s are 6, 5.12 s are 5
    document["database"][IDS[3]]["annotations"][0]["segment"] = [0.5, 5.4]
    write(tmp_path, document)
    assert read_activitynet(tmp_path).train.videos[1].duration == 5


def test_instances_without_length_are_counted_and_set_aside(tmp_path, document):
    document["database"][IDS[0]]["annotations"][0]["segment"] = [2, 2]
    document["database"][IDS[2]]["annotations"][0]["segment"] = [3, 2.5]
    write(tmp_path, document)
    data, kinds = warned(read_activitynet, tmp_path)
    assert list(kinds) == ["empty"]
    assert len(kinds["empty"]) == 2
    assert data.test.videos[0].segment_labels == ("Jump",)
    assert data.train.videos[0].labels == ("Run",)  # its label stays


def test_videos_without_features_are_counted_and_left_out(tmp_path, document):
    for video in (IDS[0], IDS[4]):
        (tmp_path / "features" / f"{video}.npy").unlink()
    data, kinds = warned(read_activitynet, tmp_path)
    assert kinds == {"no features": (IDS[4], IDS[0])}
    assert [v.id for v in (*data.train.videos, *data.test.videos)] == [*IDS[2:4], IDS[5], IDS[1]]
    (tmp_path / "features" / f"{IDS[1]}.npy").rename(tmp_path / "features" / "other.npy")
    said = refusal(tmp_path)
    for part in ("features of none of the 2 test videos", FILE, repr(IDS[0]), "other", "name the files after"):
        assert part in said


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_counts_videos_without_features(name, tmp_path):
    WRITERS[name](tmp_path / "set")
    next((tmp_path / "set").rglob(f"{IDS[3]}.*")).unlink()
    data, kinds = warned(LAYOUTS[name].read, tmp_path / "set")
    assert kinds == {"no features": (IDS[3],)}
    assert [video.id for video in data.train.videos] == [IDS[2], *IDS[4:]]


def test_the_test_set_is_not_the_one_whose_labels_are_secret(tmp_path, document):
    document["database"]["secret"] = {"subset": "testing", "duration": 3, "annotations": []}
    write(tmp_path, document)
    assert_is_world(read_activitynet(tmp_path), words=("training", "validation"))
    document["database"][IDS[1]]["subset"] = "testing"  # a labelled one: then validation is neither
    write(tmp_path, document)
    data, kinds = warned(read_activitynet, tmp_path)
    assert [video.id for video in data.test.videos] == [IDS[1]]
    assert kinds == {"no split": (IDS[0],), "no label": ("secret",)}


def test_videos_without_a_label_are_counted_and_left_out(tmp_path, document):
    for video in (IDS[1], IDS[3]):
        document["database"][video]["annotations"] = []
    write(tmp_path, document)
    data, kinds = warned(read_activitynet, tmp_path)
    assert kinds == {"no label": (IDS[3], IDS[1])}
    assert [len(split.videos) for split in (data.train, data.test)] == [3, 1]


def test_classes_of_a_file_or_of_the_taxonomy(tmp_path, document):
    names = {"Jump": "Sports", "Run": "Sports", "Sports": "Root", "Root": None, "Swim": "Sports"}
    document["taxonomy"] = [{"nodeName": n, "parentName": p, "nodeId": i} for i, (n, p) in enumerate(names.items())]
    write(tmp_path, document)
    assert read_activitynet(tmp_path).classes == ("Jump", "Run", "Swim")
    (tmp_path / "classes.txt").write_text("0 Run\n1 Jump\n")
    assert read_activitynet(tmp_path).classes == ("Run", "Jump")
    (tmp_path / "classes.txt").write_text("Run\n")
    said = refusal(tmp_path)
    assert "label 'Jump', which that file does not list" in said
    assert "classes.txt" in said
    (tmp_path / "classes.txt").unlink()
    document["taxonomy"][1].pop("nodeName")
    write(tmp_path, document)
    assert "no nodeName in node 1" in refusal(tmp_path)


def test_streams_and_splits_in_folders(tmp_path, document):
    for split, part in (("train", IDS[2:]), ("test", IDS[:2])):
        for stream in ("rgb", "flow"):
            folder = tmp_path / "features" / split / stream
            folder.mkdir(parents=True)
            for video in part:
                np.save(folder / f"{video}.npy", np.load(tmp_path / "features" / f"{video}.npy")[:, ::2])
    for video in IDS:
        (tmp_path / "features" / f"{video}.npy").unlink()
    data = read_activitynet(tmp_path)
    assert (data.streams, data.dims) == (("rgb", "flow"), (2, 2))
    assert "no such stream 'audio'; ask for one that exists: flow, rgb" in refusal(tmp_path, streams=("audio",))


def first(document):
    return document["database"][IDS[0]]


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda d: first(d).update(subset="dev"), (FILE, repr(IDS[0]), "'dev' is unknown", "write training")),
        (lambda d: first(d).pop("subset"), (repr(IDS[0]), "'' is unknown")),
        (lambda d: first(d).pop("annotations"), (repr(IDS[0]), 'no "annotations" list', "add one")),
        (lambda d: d.pop("database"), ('no "database"',)),
        (lambda d: first(d)["annotations"][0].update(label="Swim"), ("'Swim'", "no training video has", "fix")),
        (lambda d: [e.update(subset="test") for e in d["database"].values()], ("no video to train on", "training")),
    ],
)  # fmt: skip
def test_defects_are_refused_in_words(spoil, parts, tmp_path, document):
    spoil(document)
    write(tmp_path, document)
    said = refusal(tmp_path)
    for part in parts:
        assert part in said
    assert len(said) < 600


def test_two_annotation_files(tmp_path, document):
    (tmp_path / "activity_net.v1-2.json").write_text("{}")
    assert "more than one activity_net*.json; keep the one to read" in refusal(tmp_path)


def test_two_folders_of_features(tmp_path, document):
    for name in ("tsn_features", "i3d_features"):
        (tmp_path / name).mkdir()
    assert read_activitynet(tmp_path).dims == (4,)
    (tmp_path / "features").rename(tmp_path / "x")
    assert "no folder features, which has i3d_features, tsn_features" in refusal(tmp_path)


def test_thumos14_of_acm_net_with_its_short_durations(tmp_path):
    """`gt.json` with taxonomy, frames and durations at 30 frames a second where there were 25, read by both readers."""
    write_activitynet(tmp_path / "x")
    root = tmp_path / "x"
    (root / FILE).unlink()
    database = entries({"train": "validation", "test": "test"})
    for entry in database.values():
        entry["frames"] = entry["duration"] * 25
        entry["duration"] = entry["frames"] / 30
    document = {"version": "TH14", "taxonomy": [{"nodeName": n, "parentName": "Root"} for n in ("Run", "Jump")]}
    (root / "gt.json").write_text(json.dumps({**document, "database": database}))
    for split, ids in (("train", IDS[2:]), ("test", IDS[:2])):
        (root / f"split_{split}.txt").write_text("\n".join(ids))
    one, kinds = warned(read_activitynet, root)
    (root / "features" / "train").mkdir()
    (root / "features" / "test").mkdir()
    for clip in CLIPS:
        (root / "features" / f"{clip.id}.npy").rename(root / "features" / clip.part / f"{clip.id}.npy")
    other, same = warned(read_dataset, root)
    assert kinds == same
    assert set(kinds) <= {"durations", "past the end"}
    for data in (one, other):
        assert_is_world(data, words=("validation", "test"), durations=lambda clip: clip.duration * 25 / 30)
        assert data.train.videos[0].frames == CLIPS[2].rows * 16
