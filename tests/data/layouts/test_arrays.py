"""Arrays of features in files of every kind: the same values, the same refusals."""

import sys

import numpy as np
import pytest

from casejax.data.layouts.arrays import Source, read_header
from casejax.data.layouts.feature_files import find_streams, list_videos, load_features, survey_features
from casejax.errors import DataError

VALUES = {video: np.arange(4 * n, dtype=np.float32).reshape(n, 4) / 8 for video, n in (("a", 2), ("b", 3), ("v_c", 5))}


def as_csv(path, values, header=""):
    np.savetxt(path, values, delimiter=",", header=header, comments="")


def as_hdf5(path, values, name="x"):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file[name] = values


WRITERS = {
    ".npy": np.save,
    ".npz": lambda path, values: np.savez_compressed(path, anything=values),
    ".csv": as_csv,
    ".h5": as_hdf5,
    ".hdf5": lambda path, values: as_hdf5(path, values, "group/inner"),
}


def read(folder, streams=None, ids=("a", "b", "c")):
    streams = find_streams(folder) if streams is None else streams
    survey = survey_features({"train": folder}, {"train": list(ids)}, streams)["train"]
    return load_features(survey)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file(tmp_path, suffix, dtype):
    for video, values in VALUES.items():
        WRITERS[suffix](tmp_path / f"{video}{suffix}", values.astype(dtype))
    assert find_streams(tmp_path) == ("features",)
    features = read(tmp_path)
    np.testing.assert_array_equal(features.streams[0], np.concatenate(list(VALUES.values())), strict=True)
    assert features.lengths.tolist() == [2, 3, 5]


def test_a_csv_may_have_a_heading(tmp_path):
    as_csv(tmp_path / "a.csv", VALUES["a"], "f0,f1,f2,f3")
    np.testing.assert_array_equal(read(tmp_path, ids=["a"]).streams[0], VALUES["a"])


def test_all_streams_of_a_video_in_one_file(tmp_path):
    for video, values in VALUES.items():
        np.savez(tmp_path / f"{video}.npz", flow=-values, rgb=values)
    assert find_streams(tmp_path) == ("rgb", "flow")
    rgb, flow = read(tmp_path).streams
    np.testing.assert_array_equal(rgb, -flow)
    with pytest.raises(DataError, match=r"no array 'depth', found: flow, rgb; name one"):
        read(tmp_path, ("depth",))


@pytest.mark.parametrize("nested", [False, True])
def test_all_videos_in_one_file(tmp_path, nested):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "all.h5"
    with h5py.File(path, "w") as file:
        for video, values in VALUES.items():
            file[f"{video}/rgb" if nested else video] = values
            if nested:
                file[f"{video}/flow"] = -values
    assert find_streams(path) == (("rgb", "flow") if nested else ("features",))
    assert list_videos(path, ()) == ["a", "b", "v_c"]
    np.testing.assert_array_equal(read(path).streams[0], np.concatenate(list(VALUES.values())))
    with pytest.raises(DataError, match="no features of z"):
        read(path, ids=["z"])


BROKEN = {
    "x.npz": (b"PK no zip", "not a .npz file"),
    "x.csv": (b"", "is empty"),
    "y.csv": (b"a,b\nc,d\n", "no line of numbers"),
    "z.csv": (b"1,2\n3\n", "cannot be read"),
    "x.npy": (b"no array", "not a .npy file"),
    "x.h5": (b"no hdf5", "not an HDF5 file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_files_are_named(tmp_path, name):
    if name.endswith("h5"):
        pytest.importorskip("h5py")
    content, said = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, ("features",), [name[0]])
    assert str(tmp_path / name) in str(caught.value)


def test_objects_in_an_archive_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([1, "x"], object))
    with pytest.raises(DataError, match="never loaded"):
        read_header(Source(tmp_path / "a.npz"))


def test_hdf5_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(DataError, match=r"casejax\[hdf5\]"):
        read(tmp_path, ids=["a"])


def test_two_files_of_one_video(tmp_path):
    np.save(tmp_path / "a.npy", VALUES["a"])
    as_csv(tmp_path / "a.csv", VALUES["a"])
    with pytest.raises(DataError, match=r"a.csv and .*a.npy: two files of one video"):
        read(tmp_path, ids=["a"])


def test_a_folder_without_features(tmp_path):
    with pytest.raises(DataError, match=r"no \.npy, \.npz, \.h5, \.hdf5, \.csv file"):
        find_streams(tmp_path)
    with pytest.raises(DataError, match="no such folder of features"):
        find_streams(tmp_path / "x")


def test_long_names_in_an_archive_are_cut_short(tmp_path):
    """Where two places of an archive disagree about a name, zipfile repeats both, up to 65,535 letters each."""
    path = tmp_path / "a.npz"
    np.savez(path, **{"x" * 20_000: VALUES["a"]})
    with pytest.raises(DataError, match=r"a\.npz: no array 'y', found: xxx") as caught:
        read_header(Source(path, "y"))
    assert len(str(caught.value)) < 600
    path.write_bytes(path.read_bytes().replace(b"x" * 20_000, b"z" * 20_000, 1))
    with pytest.raises(DataError, match=r"a\.npz: not a \.npz file, or a damaged one \(File name in") as caught:
        read_header(Source(path))
    assert len(str(caught.value)) < 600
