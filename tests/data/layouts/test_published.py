"""Every defect of a folder in the published layout is refused in words; the rest survives a round trip."""

import json
import os
import pickle
import re
import shutil
import tracemalloc
import warnings

import numpy as np
import pytest

from casejax.data.layouts import feature_files, published
from casejax.errors import DataError, DataWarning, DurationMismatchWarning

LENGTHS = {"a": 5, "b": 3, "c": 4, "d": 6}
SPLITS = {"train": ["a", "b"], "test": ["c", "d"]}
DIMS = {"rgb": 4, "flow": 3}


def features(video, stream, dtype=np.float32):
    rng = np.random.default_rng([ord(video), len(stream)])
    return rng.uniform(0, 2, (LENGTHS[video], DIMS[stream])).astype(dtype)


def good_annotations():
    def video(subset, *instances):
        return {"subset": subset, "annotations": [{"label": c, "segment": [s, e]} for c, s, e in instances]}

    return {
        "a": video("train", ("Run", "0.5", "1.25"), ("Jump", 2, 2.5)),
        "b": video("train", ("Jump", "0.0", "1e0")),
        "c": video("test", ("Run", "0.6", "1.9")),
        "d": video("test"),
    }


@pytest.fixture
def root(tmp_path):
    """A small folder without a defect, written by hand."""
    root = tmp_path / "set"
    for split, videos in SPLITS.items():
        for stream in DIMS:
            folder = root / "features" / split / stream
            folder.mkdir(parents=True)
            for video in videos:
                np.save(folder / f"{video}.npy", features(video, stream))
        (root / f"split_{split}.txt").write_text("\n".join(videos) + "\n")
    (root / "gt.json").write_text(json.dumps({"database": good_annotations()}))
    return root


def edit(root, change):
    """Let `change` work on the videos of gt.json."""
    document = json.loads((root / "gt.json").read_text())
    change(document["database"])
    (root / "gt.json").write_text(json.dumps(document))


def refusal(*args, read=published.read_dataset, **options):
    with pytest.raises(DataError) as caught:
        read(*args, **options)
    return str(caught.value)


def assert_says(message, *parts):
    for part in parts:
        assert str(part) in message, f"{part!r} is not in {message!r}"
    assert len(message) < 600


# What is read


def test_reads_annotations_classes_and_packed_features(root):
    data = published.read_dataset(root)
    assert data.classes == ("Jump", "Run")
    assert data.streams == ("rgb", "flow")
    assert data.dims == (4, 3)
    assert [v.id for v in data.train.videos] == ["a", "b"]
    assert data.train.videos[0].segment_labels == ("Run", "Jump")
    np.testing.assert_array_equal(data.train.videos[0].segments, [[0.5, 1.25], [2, 2.5]])
    np.testing.assert_array_equal(data.train.videos[1].segments, [[0, 1]])
    assert data.test.videos[1].segments.shape == (0, 2)
    for split in (data.train, data.test):
        ids = [v.id for v in split.videos]
        np.testing.assert_array_equal(split.features.lengths, [LENGTHS[v] for v in ids])
        assert split.features.starts.dtype == split.features.lengths.dtype == np.int64
        for stream, packed in zip(data.streams, split.features.streams, strict=True):
            assert packed.dtype == np.float32
            np.testing.assert_array_equal(packed, np.concatenate([features(v, stream) for v in ids]))


def test_one_stream_is_enough(root):
    for split in SPLITS:
        shutil.rmtree(root / "features" / split / "flow")
    data = published.read_dataset(root, streams=("rgb",))
    assert data.streams == ("rgb",)
    assert data.dims == (4,)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_other_floats_are_read_as_float32(root, dtype, order):
    path = root / "features" / "train" / "rgb" / "a.npy"
    stored = features("a", "rgb", dtype)
    np.save(path, np.asarray(stored, order=order))
    packed = published.read_dataset(root).train.features.streams[0]
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed[:5], stored.astype(np.float32))
    np.testing.assert_array_equal(feature_files.load_features_file(path), stored.astype(np.float32))


def test_classes_file_gives_order_and_vocabulary(root):
    (root / "classes.txt").write_text("Run\r\n\nSwim\nJump\n")
    data = published.read_dataset(root)
    assert data.classes == ("Run", "Swim", "Jump")
    np.testing.assert_array_equal(data.train.multi_hot(data.classes), [[1, 0, 1], [0, 0, 1]])


def test_entries_outside_both_splits_are_left_out(root):
    edit(root, lambda db: db.update(z={"subset": "test", "annotations": [{"label": "X", "segment": [0, 1]}]}))
    data = published.read_dataset(root)
    assert data.classes == ("Jump", "Run")
    assert [v.id for v in data.test.videos] == ["c", "d"]


def test_duration_is_read_and_may_be_exceeded_by_rounding(root):
    edit(root, lambda db: db["c"].update(duration="1.8995"))
    data = published.read_dataset(root)
    assert [v.duration for v in data.test.videos] == [1.8995, None]


def test_read_features_takes_videos_and_streams_in_the_order_given(root):
    got = published.read_features(root, "train", ("b", "a"), ("flow", "rgb"))
    np.testing.assert_array_equal(got.starts, [0, 3])
    np.testing.assert_array_equal(got.streams[0][:3], features("b", "flow"))
    np.testing.assert_array_equal(got.streams[1][3:], features("a", "rgb"))


def test_reading_needs_little_more_memory_than_the_packed_arrays(tmp_path):
    videos, shape = [f"v{v}" for v in range(30)], (1000, 64)  # 250 KiB each: what Python itself takes is below 180
    folder = tmp_path / "features" / "train" / "rgb"
    folder.mkdir(parents=True)
    for video in videos:
        np.save(folder / f"{video}.npy", np.ones(shape, np.float32))
    one = 4 * shape[0] * shape[1]
    tracemalloc.start()
    published.read_features(tmp_path, "train", videos, ("rgb",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(videos) * one <= peak < (len(videos) + 3) * one


# Files and folders that are not there


def test_missing_root(tmp_path):
    assert_says(refusal(tmp_path / "nowhere"), tmp_path / "nowhere", "no such folder", "pass the one")


def test_missing_split_file(root):
    (root / "split_test.txt").unlink()
    assert_says(refusal(root), root / "split_test.txt", "found: split_train.txt", "write one video id a line")


def test_unknown_split(root):
    message = refusal(root, "val", ("a",), ("rgb",), read=published.read_features)
    assert_says(message, root / "features" / "val", "no such folder", "has: test, train")


def test_unknown_stream(root):
    message = refusal(root, streams=("rgb", "audio"))
    assert_says(message, root / "features" / "train" / "audio", "'audio'", "ask for one", "flow, rgb")


@pytest.mark.parametrize(
    "options",
    [{"streams": ()}, {"streams": ("rgb", "rgb")}, {"snippet_seconds": 0.0}, {"snippet_seconds": np.nan}],
)
def test_options_without_sense_are_refused(root, options):
    (value,) = options.values()
    with pytest.raises(ValueError, match=re.escape(f"got {value}")):
        published.read_dataset(root, **options)


def test_no_videos_are_no_features(root):
    with pytest.raises(ValueError, match="videos is empty"):
        published.read_features(root, "train", (), ("rgb",))


def test_missing_feature_file(root):
    path = root / "features" / "test" / "flow" / "d.npy"
    path.unlink()
    message = refusal(root)
    assert_says(message, path, "no such feature file", "extract it or take the video out")
    assert "more" not in message


def test_several_missing_feature_files_are_counted(root):
    for split, videos in SPLITS.items():
        for video in videos:
            (root / "features" / split / "rgb" / f"{video}.npy").unlink()
    message = refusal(root)
    assert_says(message, "a.npy", "b.npy", "c.npy", "(and 1 more)")
    assert "d.npy" not in message


# Feature files


def object_array(path):
    np.save(path, np.array([[1, "x"]], dtype=object), allow_pickle=True)


def change_bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def save(array):
    return lambda path: np.save(path, array)


def broken(value, count, dtype=np.float32):
    array = np.ones((5, 4), dtype)
    array.flat[:count] = value
    return save(array)


AGAIN = "extract the features of this video again"
AS_FLOAT = "save it as float32"
NOT_NPY = ("not a .npy file", AGAIN)

BAD_FILES = {
    "truncated data": (change_bytes(lambda old: old[:-4]), ("76 bytes", "promises 80", AGAIN)),
    "truncated header": (change_bytes(lambda old: old[:40]), NOT_NPY),
    "empty": (change_bytes(lambda old: b""), NOT_NPY),
    "trailing bytes": (change_bytes(lambda old: old + b"xy"), ("82 bytes", "promises 80", AGAIN)),
    "text": (change_bytes(lambda old: b"not an array"), NOT_NPY),
    "bare pickle": (change_bytes(lambda old: pickle.dumps([1])), NOT_NPY),
    "unknown version": (change_bytes(lambda old: b"\x93NUMPY\x07\x00" + old[8:]), NOT_NPY),
    "objects": (object_array, ("dtype object", "never loaded", AS_FLOAT)),
    "vector": (save(np.ones(4, np.float32)), ("(4,)", "reshape the array to two axes")),
    "crops": (save(np.ones((10, 3, 4), np.float32)), ("(10, 3, 4)", "average over the first axis, or keep one of it")),
    "axis of one": (save(np.ones((1, 5, 4), np.float32)), ("(1, 5, 4)", "drop the axes of length 1", "(5, 4)")),
    "no snippet": (save(np.ones((0, 4), np.float32)), ("(0, 4)", AGAIN)),
    "no dim": (save(np.ones((5, 0), np.float32)), ("(5, 0)", AGAIN)),
    "integers": (save(np.ones((5, 4), np.int32)), ("int32", AS_FLOAT)),
    "booleans": (save(np.ones((5, 4), bool)), ("bool", AS_FLOAT)),
    "complex": (save(np.ones((5, 4), np.complex64)), ("complex64", AS_FLOAT)),
    "strings": (save(np.full((5, 4), "x")), ("<U1", AS_FLOAT)),
    "record": (save(np.ones((5, 4), [("x", "<f4")])), ("'x'", AS_FLOAT)),
    "NaN": (broken(np.nan, 3), ("3 NaN and 0 infinite", "of 20", AGAIN)),
    "infinite": (broken(-np.inf, 2), ("0 NaN and 2 infinite", "of 20", AGAIN)),
    "half infinite": (broken(np.inf, 1, np.float16), ("0 NaN and 1 infinite", AGAIN)),
    "too large": (broken(1e300, 4, np.float64), ("0 NaN and 4 infinite", "as float32", AGAIN)),
    "another dim": (save(np.ones((5, 7), np.float32)), ("dim 7", "3 of 4 rgb files have dim 4", "one model")),
    "another length": (save(np.ones((9, 4), np.float32)), ("9 snippets", "flow/a.npy has 5", "crop")),
}


@pytest.mark.parametrize("defect", BAD_FILES)
def test_bad_feature_file_is_refused(root, defect):
    change, parts = BAD_FILES[defect]
    path = root / "features" / "train" / "rgb" / "a.npy"
    change(path)
    assert_says(refusal(root), path, *parts)


@pytest.mark.parametrize("defect", ["truncated data", "objects", "vector", "no snippet", "NaN", "text"])
def test_load_features_file_refuses_the_same(tmp_path, defect):
    change, parts = BAD_FILES[defect]
    path = tmp_path / "video.npy"
    np.save(path, np.ones((5, 4), np.float32))
    change(path)
    message = refusal(path, read=feature_files.load_features_file)
    assert_says(message, path, *parts)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="no floats beyond double here")
def test_long_double_is_refused(tmp_path):
    np.save(tmp_path / "video.npy", np.ones((5, 4), np.longdouble))
    with pytest.raises(DataError, match=r"video\.npy: dtype float\d+, not float16.*save it as float32"):
        feature_files.load_features_file(tmp_path / "video.npy")


def test_load_features_file_names_a_missing_file(tmp_path):
    message = refusal(tmp_path / "video.npy", read=feature_files.load_features_file)
    assert_says(message, tmp_path / "video.npy", "no such file", "put it there")


def test_several_bad_headers_are_counted(root):
    for video in "ab":
        np.save(root / "features" / "train" / "rgb" / f"{video}.npy", np.ones(4))
    assert_says(refusal(root), "a.npy", "(and 1 more)")


def test_headers_are_checked_before_any_values(root):
    broken(np.nan, 1)(root / "features" / "train" / "rgb" / "a.npy")
    np.save(root / "features" / "test" / "flow" / "d.npy", np.ones((6, 9), np.float32))
    assert_says(refusal(root), "d.npy", "dim 9")


def test_dims_must_agree_across_splits(root):
    folder = root / "features" / "test" / "flow"
    for video in "cd":
        np.save(folder / f"{video}.npy", np.ones((LENGTHS[video], 9), np.float32))
    assert_says(refusal(root), "flow/c.npy", "dim 9", "2 of 4 flow files have dim 3", "(and 1 more)")


class Payload:
    """Makes a folder in the working directory when unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickle_in_an_object_array_is_not_executed(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "executed"
    path = root / "features" / "train" / "rgb" / "a.npy"
    np.save(path, np.array([[Payload()]], dtype=object), allow_pickle=True)
    assert_says(refusal(root), path, "never loaded")
    with pytest.raises(DataError, match="never loaded"):
        feature_files.load_features_file(path)
    assert not mark.exists()
    np.load(path, allow_pickle=True)  # the charge was live
    assert mark.exists()


# What the files say of each other


def test_id_in_both_splits(root):
    (root / "split_test.txt").write_text("c\nb\n")
    assert_says(refusal(root), root / "split_train.txt", root / "split_test.txt", "'b'", "remove it from one")


def test_video_without_an_entry(root):
    edit(root, lambda db: db.pop("c"))
    assert_says(refusal(root), root / "gt.json", "no entry for c", "add it", root / "split_test.txt")


def test_training_video_without_a_label(root):
    edit(root, lambda db: db["b"].update(annotations=[]))
    assert_says(refusal(root), root / "gt.json", "no label", "for b", "annotate it", root / "split_train.txt")


def test_test_label_that_no_training_video_has(root):
    edit(root, lambda db: db["c"]["annotations"][0].update(label="Swim"))
    parts = ("test video 'c'", "'Swim'", "no training video has", "list all classes in", "fix the annotation")
    assert_says(refusal(root), root / "gt.json", root / "classes.txt", *parts)


def test_label_outside_the_classes_file(root):
    (root / "classes.txt").write_text("Jump\n")
    parts = ("train video 'a'", "'Run'", "add it to", "fix the annotation", "(and 1 more)")
    assert_says(refusal(root), root / "gt.json", root / "classes.txt", *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("\n", ("0 classes", "remove the file")), ("Run\nJump\nRun\n", ("'Run' more than once", "keep one"))],
)
def test_bad_classes_file(root, text, parts):
    (root / "classes.txt").write_text(text)
    assert_says(refusal(root), root / "classes.txt", *parts)


def test_bad_id_is_refused_before_it_makes_a_path(root):
    message = refusal(root, "train", ("../train/a",), ("rgb",), read=published.read_features)
    assert_says(message, root / "features" / "train", "'../train/a'", "rename the video")


# Durations


def test_durations_that_miss_the_features_are_remarked_once(root):
    edit(root, lambda db: [video.update(duration=60.0) for video in db.values()])
    with pytest.warns(DurationMismatchWarning) as caught:
        published.read_dataset(root)
    assert len(caught) == 1
    assert_says(str(caught[0].message), "4 of 4 videos", "5%", "a, b, c (and 1 more)", "0.64 s", "--snippet-seconds")


@pytest.mark.parametrize(
    ("factor", "remarked"), [(1.0, False), (1.04, False), (0.96, False), (1.06, True), (0.94, True)]
)
def test_only_large_misses_are_remarked(root, factor, remarked):
    """More than 5 %, and more than the two rows that an extractor may lose at the end."""
    for stream, dim in DIMS.items():
        np.save(root / "features" / "test" / stream / "d.npy", np.ones((60, dim), np.float32))
    edit(root, lambda db: db["d"].update(duration=60 * 2.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        published.read_dataset(root, snippet_seconds=2.0 * factor)
    assert bool(caught) == remarked


# What published files have


def test_labels_without_times_are_enough_to_train_on(root):
    def weaken(database):
        for video in ("a", "b"):
            labels = sorted({each["label"] for each in database[video]["annotations"]})
            database[video]["annotations"] = [{"label": label} for label in labels]

    edit(root, weaken)
    data = published.read_dataset(root)
    assert [video.labels for video in data.train.videos] == [("Jump", "Run"), ("Jump",)]
    np.testing.assert_array_equal(data.train.multi_hot(data.classes), [[1, 1], [1, 0]])
    assert data.train.timed.tolist() == [False, False]
    assert data.test.timed.all()


def test_ids_may_have_a_prefix_here_and_none_there(root):
    (root / "split_test.txt").write_text("v_c\nd\n")
    (root / "features" / "test" / "rgb" / "d.npy").rename(root / "features" / "test" / "rgb" / "v_d.npy")
    data = published.read_dataset(root)
    assert [video.id for video in data.test.videos] == ["v_c", "d"]
    np.testing.assert_array_equal(data.test.features.streams[0][4:], features("d", "rgb"))


def test_videos_that_no_split_lists_are_left_unchecked_but_counted_by_a_check(root):
    edit(root, lambda db: db.update(z={"subset": "test", "annotations": [{"label": "Run", "segment": [1, 2]}]}))
    published.read_dataset(root)
    with pytest.warns(DataWarning, match="1 videos with 1 instances are in no split: z"):
        published.read_dataset(root, lenient=True)
    edit(root, lambda db: db["z"].update(annotations="none"))
    published.read_dataset(root, lenient=True)
