"""The folder layout of A2CL-PT: what is written is read again, defects are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from casejax.data.layouts.a2cl_pt import read_a2cl_pt, write_a2cl_pt
from casejax.data.synthetic import make_world
from casejax.errors import DataError, DataWarning
from casejax.records import Dataset, Features, Split, Timing, Video


@pytest.fixture(scope="module")
def data():
    world = make_world(seed=5, num_classes=3, dim=6, train_videos=9, test_videos=9, median=20, longest=40)
    intervals = {1: [[3.5, 4], [0.25, 2]], 7: [[1, 1.5]]}
    videos = tuple(
        replace(video, ambiguous=np.asarray(intervals.get(v, []), float).reshape(-1, 2))
        for v, video in enumerate(world.test.videos)
    )
    return replace(world, test=replace(world.test, videos=videos))


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("a2cl") / "new" / "data"
    write_a2cl_pt(data, root)
    return root


def assert_splits_equal(mine, theirs, subset):
    assert mine.name == theirs.name
    order = sorted(range(len(theirs.videos)), key=lambda v: theirs.videos[v].id)
    for v, video in enumerate(mine.videos):
        its = theirs.videos[order[v]]
        assert (video.id, video.subset, video.duration) == (its.id, subset, its.duration)
        assert video.segment_labels == its.segment_labels
        np.testing.assert_array_equal(video.segments, its.segments, strict=True)
        for got, want in zip(mine.features.streams, theirs.features.streams, strict=True):
            rows = theirs.features.rows(order[v])
            np.testing.assert_array_equal(got[mine.features.rows(v)], want[rows], strict=True)


def test_written_and_read_again(data, written):
    dataset = read_a2cl_pt(written)
    assert (dataset.classes, dataset.streams) == (data.classes, ("rgb", "flow"))
    assert dataset.dims == (6, 6)
    assert dataset.snippet_seconds == 16 / 25
    assert_splits_equal(dataset.train, data.train, "train")
    assert_splits_equal(dataset.test, data.test, "val")
    for got, want in zip(dataset.test.ambiguous, data.test.ambiguous, strict=True):
        np.testing.assert_array_equal(got, want, strict=True)
    assert [path.name for path in written.parent.iterdir()] == ["data"]


def test_the_published_reader_finds_the_same(data, written):
    """What the published program reads: NumPy's own loader and plain JSON."""
    said = json.loads((written / "annotation.json").read_text())
    assert said["miscellany"] == {"fps_extracted": 25, "len_feature_chunk": 16}
    arrays = np.load(written / "feature_val.npy", allow_pickle=True)[()]
    test = read_a2cl_pt(written).test
    assert sorted(arrays) == [video.id for video in test.videos]
    rgb, flow = test.features.streams
    for v, video in enumerate(test.videos):
        rows = test.features.rows(v)
        np.testing.assert_array_equal(arrays[video.id], np.concatenate([rgb[rows], flow[rows]], axis=1), strict=True)
        assert said["database"][video.id]["subset"] == "val"
        assert [a["segment"] for a in said["database"][video.id]["annotations"]] == video.segments.tolist()


def test_order_of_ids_and_of_intervals(tmp_path):
    """Videos are sorted by id, and intervals follow them."""

    intervals = {"z": [[0, 1], [2, 3]], "b": [[1, 2]], "t": []}

    def video(name, subset):
        ambiguous = np.asarray(intervals[name], float).reshape(-1, 2)
        return Video(name, subset, np.array([[0.0, 0.3]]), ("Run",), ambiguous=ambiguous)

    def split(name, ids, lengths):
        total = sum(lengths)
        rows = np.arange(total, dtype=np.float32)[:, None]
        return Split(name, tuple(video(i, name) for i in ids), Features.end_to_end((rows, -rows), lengths))

    test, timing = split("test", ["z", "b"], [3, 1]), Timing.every(1 / 3)
    write_a2cl_pt(Dataset("x", ("Run",), ("a", "b"), split("train", ["t"], [2]), test, timing), tmp_path / "x")
    got = read_a2cl_pt(tmp_path / "x", streams=("a", "b"))
    ambiguous = got.test.ambiguous
    assert got.snippet_seconds == 1 / 3
    assert [v.id for v in got.test.videos] == ["b", "z"]
    np.testing.assert_array_equal(got.test.features.streams[1].ravel(), [-3, 0, -1, -2])
    np.testing.assert_array_equal(ambiguous.video, [0, 1, 1])
    np.testing.assert_array_equal(ambiguous.segment, [[1, 2], [0, 1], [2, 3]])
    joint = read_a2cl_pt(tmp_path / "x", streams=("joint",))
    assert joint.dims == (2,)


def test_writing_is_all_or_nothing(data, written, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="exists already"):
        write_a2cl_pt(data, written)
    twice = replace(data, test=replace(data.train, name="test"))
    with pytest.raises(DataError, match="2 videos named"):
        write_a2cl_pt(twice, tmp_path / "x")
    features = replace(data.test.features, lengths=data.test.features.lengths * 0)
    with pytest.raises(DataError, match="has no features here"):
        write_a2cl_pt(replace(data, test=replace(data.test, features=features)), tmp_path / "x")
    monkeypatch.setattr(np, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_a2cl_pt(data, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# What the published file has, and defects

DIM = 4


class Layout:
    """A small folder in the making: the annotation document and the features, written at the end."""

    def __init__(self):
        videos = {"t1": "train", "t2": "train", "v1": "val", "v2": "val"}
        annotations = [{"label": "Run", "segment": [0.5, 1.5]}, {"label": "Jump", "segment": ["1", 1.9]}]
        self.database = {
            video: {"subset": subset, "annotations": [dict(a) for a in annotations], "duration": 1.95}
            for video, subset in videos.items()
        }
        self.document = {
            "database": self.database,
            "list_classes": ["Run", "Jump"],
            "miscellany": {"fps_extracted": 25, "len_feature_chunk": 16},
            "set_ambiguous": {"v2": [[1, 2.5]]},
        }
        rng = np.random.default_rng(0)
        self.features = {
            part: {video: rng.normal(size=(3, DIM)) for video, subset in videos.items() if subset == part}
            for part in ("train", "val")
        }

    def read(self, root, **options):
        root.mkdir()
        (root / "annotation.json").write_text(json.dumps(self.document))
        for part, arrays in self.features.items():
            np.save(root / f"feature_{part}.npy", arrays)
        return read_a2cl_pt(root, **options)


def test_what_the_published_file_has(tmp_path):
    layout = Layout()
    layout.database["t1"]["annotations"] = [{"label": "Jump"}, {"label": "Jump", "segment": [1, 2.5]}]
    layout.database["t2"] = {"subset": "train", "annotations": [{"label": "Run"}]}
    layout.database["v0"] = {"subset": "val", "annotations": [], "duration": 3}  # without features
    layout.database["v2"]["annotations"] = []  # with features
    layout.document["set_ambiguous"] = {"v2": [[1, 2]], "v1": [[3, 4]], "v0": [[5, 6]]}
    layout.database["v1"]["annotations"][1]["segment"] = [1, 1.9]
    with pytest.warns(DataWarning) as caught:
        dataset = layout.read(tmp_path / "x")
    assert {each.message.kind for each in caught} == {"past the end", "whole label"}
    first, second = dataset.train.videos
    assert first.segment_labels == ("Jump",)
    np.testing.assert_array_equal(first.segments, [[1, 2.5]])
    assert (len(second.segments), second.labels) == (0, ("Run",))
    np.testing.assert_array_equal(dataset.train.multi_hot(dataset.classes), [[0, 1], [1, 0]])
    assert [video.id for video in dataset.test.videos] == ["v1"]
    assert dataset.test.features.lengths.tolist() == [3]
    np.testing.assert_array_equal(dataset.test.ambiguous.video, [0])
    np.testing.assert_array_equal(dataset.test.ambiguous.segment, [[3, 4]])


def test_float64_big_endian_and_by_column(tmp_path):
    layout = Layout()
    want = layout.features["val"]["v2"].astype(np.float32)
    layout.features["val"]["v2"] = np.asfortranarray(layout.features["val"]["v2"].astype(">f8"))
    features = layout.read(tmp_path / "x").test.features
    np.testing.assert_array_equal(np.concatenate(features.streams, axis=1)[features.rows(1)], want, strict=True)


def at(*keys, to):
    """Set what the keys lead to."""

    def change(layout):
        target = vars(layout)
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to

    return change


def without(*keys):
    def change(layout):
        target = vars(layout)
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]

    return change


def odd(layout):
    for arrays in layout.features.values():
        for video in arrays:
            arrays[video] = arrays[video][:, :3]


def nothing_to_test(layout):
    for video in ("v1", "v2"):
        layout.database[video]["annotations"] = []


SEGMENT = ("database", "v1", "annotations", 0, "segment")
TRAIN, VAL, NOTES = "feature_train.npy", "feature_val.npy", "annotation.json"
DEFECTS = {
    "no database": (without("document", "database"), NOTES, 'no "database"', "take the annotation file"),
    "no classes": (without("document", "list_classes"), NOTES, '"list_classes" is no list', "write all classes"),
    "class twice": (at("document", "list_classes", to=["Run", "Jump", "Run"]), NOTES, "'Run' more than once", "keep"),
    "no rate": (at("document", "miscellany", to={"len_feature_chunk": 16}), NOTES, "fps_extracted", "no finite number"),
    "rate of 0": (at("document", "miscellany", "fps_extracted", to=0), NOTES, "16 frames a snippet at 0", "write"),
    "no list": (without("database", "v1", "annotations"), NOTES, "'v1'", 'no "annotations" list', "add one"),
    "subset": (at("database", "t1", "subset", to="test"), NOTES, "'t1'", "subset 'test' is unknown", "'val']"),
    "label": (at("database", "v1", "annotations", 0, "label", to="Sit"), NOTES, "'v1'", "'Sit'", "add it there"),
    "half a segment": (at(*SEGMENT, to=[2]), NOTES, "'v1'", "annotation 0", "write [start, end]"),
    "ambiguous number": (at("document", "set_ambiguous", "v2", to=3), NOTES, "'v2'", "no list of intervals", "write"),
    "ambiguous stranger": (at("document", "set_ambiguous", "q", to=[[1, 2]]), NOTES, "'q'", "not in the", "remove"),
    "features missing": (without("features", "val", "v2"), VAL, "no features of v2", "add them or remove"),
    "features of a stranger": (at("features", "val", "q", to=np.ones((2, DIM))), VAL, "q", NOTES, "add or remove"),
    "features of the other part": (at("database", "v1", "subset", to="train"), VAL, "'v1'", "'train'", "fix the"),
    "nothing to learn": (at("database", "t2", "annotations", to=[]), NOTES, "t2", "no label to learn from", "annotate"),
    "nothing known": (at("database", to={}), TRAIN, "t1, t2", "lacks", "add or remove"),
    "nothing to test": (nothing_to_test, NOTES, "no video of subset 'val'", "annotate some"),
    "no video": (at("features", "train", to={}), TRAIN, "no dictionary of features", "save"),
    "no dictionary": (at("features", "train", to=[1, {}]), TRAIN, "no dictionary of features", "save"),
    "integers": (at("features", "val", "v1", to=np.ones((2, DIM), int)), VAL, "'v1'", "int64", "extract"),
    "a list": (at("features", "val", "v1", to=[1.0]), VAL, "'v1'", "list", "extract"),
    "empty": (at("features", "val", "v1", to=np.ones((0, DIM))), VAL, "'v1'", f"shape (0, {DIM})", "extract"),
    "one axis": (at("features", "val", "v1", to=np.ones(DIM)), VAL, "'v1'", f"shape ({DIM},)", "extract"),
    "other dim": (at("features", "val", "v1", to=np.ones((2, 6))), VAL, "'v1': dim 6, but 3 of 4", "one model"),
    "odd dim": (odd, "dim 3 does not divide", "('rgb', 'flow')", "name all streams"),
    "nan": (at("features", "val", "v1", to=np.full((2, DIM), np.nan)), VAL, "'v1': 4 NaN", "of 4", "extract"),
    "too large": (at("features", "train", "t1", to=np.full((2, DIM), 1e300)), TRAIN, "'t1'", "infinite", "extract"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFECTS)
def test_defects_are_named(tmp_path, case):
    change, *parts = DEFECTS[case]
    layout = Layout()
    change(layout)
    layout.document["database"] = layout.database if case != "no database" else None
    with pytest.raises(DataError) as caught:
        layout.read(tmp_path / "x")
    for part in (tmp_path, *parts):
        assert str(part) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_folders_and_streams(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder; pass"):
        read_a2cl_pt(tmp_path / "none")
    for streams in ((), ("rgb", "rgb")):
        with pytest.raises(DataError, match="once"):
            read_a2cl_pt(tmp_path, streams=streams)
    with pytest.raises(DataError, match=r"annotation.json: no such file"):
        read_a2cl_pt(tmp_path)
    layout = Layout()
    layout.document["set_ambiguous"] = {}
    assert len(layout.read(tmp_path / "x").test.ambiguous.label) == 0
    monkeypatch.setattr("casejax.data.layouts.checks.MEMORY_SHARE", 0.0)
    with pytest.raises(DataError, match="GB as float32, this machine has"):
        read_a2cl_pt(tmp_path / "x")
