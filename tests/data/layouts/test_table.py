"""A folder of features and a table of labels: what is read, and what is asked or refused."""

import json

import numpy as np
import pytest

from casejax.data.layouts import Arrangement, Splitting, read_table
from casejax.errors import DataError, DataWarning, OptionError
from casejax.records import Timing

LENGTHS = {"a": 5, "b": 3, "c": 4, "d": 6}


@pytest.fixture
def root(tmp_path):
    """A folder of features, one file a video."""
    folder = tmp_path / "features"
    folder.mkdir()
    for v, (video, length) in enumerate(LENGTHS.items()):
        np.save(folder / f"{video}.npy", np.full((length, 4), v, np.float16))
    return tmp_path


def read(root, text, **options):
    (root / "labels.csv").write_text(text)
    return read_table(root / "features", root / "labels.csv", **options)


def refusal(root, text, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(root, text, **options)
    return str(caught.value)


ALL = "video,label\na,Dive\nb,Run\nc,Dive\nd,Run\n"


def test_labels_are_all_it_takes(root):
    data = read(root, ALL)
    assert (data.classes, data.streams, data.dims) == (("Dive", "Run"), ("features",), (4,))
    assert [video.id for video in data.train.videos] == ["a", "b", "c", "d"]
    assert data.train.features.lengths.tolist() == [5, 3, 4, 6]
    np.testing.assert_array_equal(data.train.multi_hot(data.classes), [[1, 0], [0, 1], [1, 0], [0, 1]])
    assert data.test.videos == ()
    assert data.test.features.streams[0].shape == (0, 4)
    assert not data.train.timed.any()
    assert data.timing == Timing()


def test_several_labels_by_rows_and_by_semicolons(root):
    text = "video,label\na,Dive\na, Run\nb,Run;Dive\n\nc,Dive\nd,Run\n"
    assert [video.labels for video in read(root, text).train.videos] == [("Dive", "Run")] * 2 + [("Dive",), ("Run",)]


def test_tabs_suffixes_and_prefixes(root):
    text = "Video\tLabels\nv_a.mp4\tDive\nb.npy\tRun, fast\nc\tDive\nd\tRun, fast\n"
    data = read(root, text)
    assert [video.id for video in data.train.videos] == ["a", "b", "c", "d"]
    assert data.classes == ("Dive", "Run, fast")


def test_splits_by_a_column(root):
    text = "video,label,split\na,Dive,train\nb,Run,Training\nc,Run,{}\nd,Run,Val\n"
    data = read(root, text.format("validation"))
    assert [video.id for video in data.train.videos] == ["a", "b"]
    assert [video.id for video in data.test.videos] == ["c", "d"]
    with pytest.warns(DataWarning, match="1 videos of the split val are neither trained nor tested on: d"):
        assert [video.id for video in read(root, text.format("test")).test.videos] == ["c"]


def test_a_test_video_needs_no_label(root):
    data = read(root, "video,label,split\na,Dive,train\nb,Run,train\nc,,test\nd,Run,test\n")
    assert [video.labels for video in data.test.videos] == [(), ("Run",)]
    assert not data.test.timed.any()
    assert data.test.features.lengths.tolist() == [4, 6]


def test_splits_by_lists_may_name_videos_without_a_row(root):
    (root / "test.txt").write_text("d\nc.npy\n")
    data = read(root, "video,label\na,Dive\nb,Run\n", splitting=Splitting(test=root / "test.txt"))
    assert [video.id for video in data.test.videos] == ["d", "c"]
    assert [video.id for video in data.train.videos] == ["a", "b"]


def test_splits_by_a_share(root):
    text = "video,label\na,Dive\nb,Dive\nc,Dive\nd,Run\n"
    drawn = [read(root, text, splitting=Splitting(share=0.5, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    ids = [[video.id for video in data.test.videos] for data in drawn]
    assert ids[0] == ids[1]
    assert len({tuple(each) for each in ids}) > 1
    for data, test in zip(drawn, ids, strict=True):
        assert len(test) == 2
        assert data.classes == ("Dive", "Run")  # every class keeps a training video


def test_times_make_a_video_judgeable(root):
    rows = ("video,label,split,start,end", "a,Dive,train", "b,Run,train,,", "c,Dive,test,0.5,1.5", "c,Run,test,2,2.5")
    data = read(root, "\n".join([*rows, "d,Run,test", ""]))
    np.testing.assert_array_equal(data.test.videos[0].segments, [[0.5, 1.5], [2, 2.5]])
    assert data.test.timed.tolist() == [True, False]
    assert data.test.ground_truth(data.classes).label.tolist() == [0, 1]


def test_streams_in_folders(root):
    for stream in ("flow", "rgb", "audio"):
        (root / "features" / stream).mkdir()
        for video, length in LENGTHS.items():
            np.save(root / "features" / stream / f"{video}.npy", np.ones((length, len(stream)), np.float32))
    for video in LENGTHS:
        (root / "features" / f"{video}.npy").unlink()
    data = read(root, ALL)
    assert (data.streams, data.dims) == (("rgb", "flow", "audio"), (3, 4, 5))
    assert read(root, ALL, streams=("audio",)).dims == (5,)


def test_the_times_of_rows(root):
    assert read(root, ALL, snippet_seconds=0.25).timing == Timing.every(0.25)
    (root / "features" / "features.json").write_text(json.dumps({"stride": 4, "fps": 30, "frames": 16}))
    assert read(root, ALL).timing == Timing(16, 4, 30)
    said = refusal(root, ALL, snippet_seconds=0.5)
    assert "features.json" in said
    assert "0.1333 s from 0.2 s on" in said
    assert "0.5 s" in said


def test_rescaled_rows_need_durations(root):
    timing = Timing(rescaled=True)
    said = refusal(root, ALL, timing=timing)
    assert "labels.csv" in said
    assert "duration of a, b, c (and 1 more)" in said
    durations = "video,label,duration\na,Dive,10\nb,Run,9\nc,Dive,2\nd,Run,3\n"
    data = read(root, durations, timing=timing)
    np.testing.assert_allclose(data.row_seconds(data.train), [2, 3, 0.5, 0.5])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("e,Dvie\n", ("'Dvie' occurs once", "'Dive' (2 videos)", "--accept-labels")),
        ("e, Dive \n", ("'Dive ' occurs once", "'Dive' (2 videos)")),
        ("e,dive\n", ("'dive'", "'Dive'")),
        ("e,RUN\n", ("'RUN'", "'Run'")),
    ],
)
def test_a_label_that_is_nearly_another_is_asked_about(root, rows, said):
    np.save(root / "features" / "e.npy", np.ones((2, 4), np.float32))
    message = refusal(root, ALL + rows)
    assert all(part in message for part in (*said, str(root / "labels.csv")))
    assert len(read(root, ALL + rows, accept_labels=True).train.videos) == 5


def test_labels_that_differ_are_not_asked_about(root):
    assert read(root, ALL.replace("d,Run", "d,Cliff Dive").replace("c,Dive", "c,Action002")).classes[0] == "Action002"
    text = "video,label\na, Dive\nb, Run\nc, Dive\nd, Run\n"  # a space after every comma is one way of writing
    assert read(root, text).classes == ("Dive", "Run")


TABLES = {
    "empty": ("", "does not name the columns", "write video,label"),
    "no header": ("a,Dive\nb,Run\n", "'a,Dive'", "does not name the columns", "write video,label"),
    "no rows": ("video,label\n", "lists no video"),
    "a cell without end": (f"video,label\na,{'x' * 200_000}\n", "line 2 is no CSV", "save the table again"),
    "column twice": ("video,label,label\na,b,c\n", "does not name the columns"),
    "too many cells": ("video,label\na,Dive,Run\n", "line 2", "3 cells for 2 columns", "quotes"),
    "split": ("video,label,split\na,Dive,tran\n", "line 2", "'tran' is unknown", "train or test"),
    "two splits": ("video,label,split\na,Dive,train\na,Run,test\n", "'a'", "test and train", "keep one"),
    "some splits": ("video,label,split\na,Dive,train\nb,Run,\n", "no split for b", "every row"),
    "two durations": ("video,label,duration\na,Dive,3\na,Run,4\n", "'a'", "[3.0, 4.0]", "keep one"),
    "duration": ("video,label,duration\na,Dive,0\n", "line 2", "not positive"),
    "time": ("video,label,start,end\na,Dive,1,x\n", "line 2", "'x'", "seconds"),
    "half a time": ("video,label,start,end\na,Dive,1,\n", "line 2", "''", "seconds"),
    "no end": ("video,label,start\na,Dive,1\n", "start and end", "both"),
    "time of nothing": ("video,label,start,end\na,,1,2\n", "line 2", "without a label"),
    "no label": ("video,label\na,Dive\nb,\n", "no label to learn from", "b"),
    "missing": ("video,label\na,Dive\nz,Run\n", "z.npy", "no such feature file", "extract it"),
    "path": ("video,label\n../a,Dive\n", "'../a'", "rename"),
    "strange class": ("video,label,split\na,Dive,train\nb,Swim,test\n", "'Swim'", "no training video has"),
    "nothing to train": ("video,label,split\na,Dive,test\n", "no training video"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::casejax.errors.DataWarning")
@pytest.mark.parametrize("case", TABLES)
def test_tables_that_cannot_be_used(root, case):
    text, *parts = TABLES[case]
    said = refusal(root, text)
    for part in parts:
        assert part in said
    assert len(said) < 500


def test_splits_that_exclude_each_other(root):
    (root / "test.txt").write_text("d\n")
    by_column = "video,label,split\na,Dive,train\nb,Run,test\n"
    assert "column split" in refusal(root, by_column, OptionError, splitting=Splitting(share=0.3))
    with pytest.raises(OptionError, match="exclude each other"):
        Splitting(test=root / "test.txt", share=0.2)
    with pytest.raises(OptionError, match=r"\[0, 1\), got 1"):
        Splitting(share=1)


def test_features_that_no_row_names_are_counted(root):
    with pytest.warns(DataWarning, match="2 feature files are of videos that .*labels.csv does not list.*: c, d"):
        read(root, "video,label\na,Dive\nb,Run\n")


def test_crops_and_axes(root):
    for v, (video, length) in enumerate(LENGTHS.items()):
        crops = np.full((10, length, 4), v, np.float32)
        crops[0] += 10
        np.save(root / "features" / f"{video}.npy", crops)
    mean = read(root, ALL, arrangement=Arrangement("crops,snippets,dim"))
    one = read(root, ALL, arrangement=Arrangement("crops,snippets,dim", crops=3))
    first = np.repeat(np.arange(4), list(LENGTHS.values()))
    np.testing.assert_allclose(mean.train.features.streams[0][:, 0], first + 1)
    np.testing.assert_array_equal(one.train.features.streams[0][:, 0], first)
    assert "no crop 10" in refusal(root, ALL, arrangement=Arrangement("crops,snippets,dim", crops=10))
    assert "average over the first axis, or keep one of it" in refusal(root, ALL)
    with pytest.raises(OptionError, match="crops must be mean or the number"):
        Arrangement(crops=-1)
    for video in LENGTHS:
        path = root / "features" / f"{video}.npy"
        np.save(path, np.load(path).mean(axis=0).T)
    said = refusal(root, ALL)
    assert "shape (4, 5)" in said
    assert "--order dim,snippets" in said
    swapped = read(root, ALL, arrangement=Arrangement("dim,snippets"))
    np.testing.assert_allclose(swapped.train.features.streams[0], mean.train.features.streams[0])
