"""Files of torch.save: what torch writes is read bit by bit, and other files are refused."""

import copy
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from pickle_samples import FOUR, call, group, named, number, storage, stream_bytes, tensor, text, zip_bytes

from casejax.data.pickles import torch_files
from casejax.data.pickles.torch_files import read_torch, write_torch
from casejax.data.pickles.torch_tensors import DTYPES, dtype_of
from casejax.errors import DataError


def read_bytes(contents, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(contents)
    return read_torch(path)


# What is read


def test_values_and_a_tensor(read):
    body = b"}(" + text("n") + number(-3) + text("f") + b"G" + struct.pack(">d", 0.5) + text("é") + b"N"
    body += text("l") + b"](\x88\x89K\x07M\x07\x01J\xff\xff\xff\xffe" + text("t") + b")" + text("w") + tensor() + b"u"
    value = read(body)
    weight = value.pop("w")
    assert value == {"n": -3, "f": 0.5, "é": None, "l": [True, False, 7, 263, -1], "t": ()}
    np.testing.assert_array_equal(weight, np.float32([[0, 1], [2, 3]]), strict=True)
    assert not weight.flags.writeable


def test_tensors_are_views_of_their_storage(read):
    whole = tensor() + b"q\x01"
    transposed = tensor(strides=(1, 2))
    scalar = tensor(offset=3, shape=(), strides=())
    empty = tensor(offset=9, shape=(0, 5), strides=(5, 1))
    odd = tensor(shape=(1, 2), strides=(10**6, 2))  # the stride of a single row says nothing
    parameter = call(
        named("torch._utils", "_rebuild_parameter"), b"h\x01", b"\x88", call(named("collections", "OrderedDict"))
    )
    whole, transposed, scalar, empty, odd, parameter, size = read(
        group(whole, transposed, scalar, empty, odd, parameter, call(named("torch", "Size"), group(number(2))))
    )
    np.testing.assert_array_equal(transposed, whole.T)
    assert np.shares_memory(whole, transposed)
    assert scalar.shape == ()
    assert scalar == 3
    assert empty.shape == (0, 5)
    np.testing.assert_array_equal(odd, [[0, 2]])
    assert parameter is whole
    assert size == (2,)


@pytest.mark.parametrize("name", sorted(set(DTYPES.values()) - {"bool"}))
def test_big_endian_storages(tmp_path, name):
    cls = next(cls for cls, dtype in DTYPES.items() if dtype == name)
    want = np.asarray([1, 2, 100, 3], dtype_of(name))
    width = want.itemsize // (2 if want.dtype.kind == "c" else 1)
    swapped = want.view(f"u{width}").byteswap().tobytes()
    body = tensor(storage(name=cls))
    np.testing.assert_array_equal(read_bytes(zip_bytes(body, {"0": swapped}, byteorder=b"big"), tmp_path).ravel(), want)
    np.testing.assert_array_equal(read_bytes(zip_bytes(body, {"0": want.tobytes()}), tmp_path).ravel(), want)
    older = stream_bytes(body, {"0": want.tobytes()}, item=want.itemsize)  # always little-endian
    np.testing.assert_array_equal(read_bytes(older, tmp_path).ravel(), want)


def test_any_true_byte_is_true(tmp_path):
    body, stored = tensor(storage(name="BoolStorage")), {"0": b"\x00\x01\x02\xff"}
    for contents in (zip_bytes(body, stored), stream_bytes(body, stored, item=1)):
        flags = read_bytes(contents, tmp_path)
        assert flags.dtype == bool
        assert flags.sum() == 3


def test_protocol_4_with_frames_and_memo(tmp_path):
    value = {"epoch": 3, "names": ["a", "a"], "pair": (1.5, None)}
    framed = pickle.dumps(value, 4)
    contents = stream_bytes(b"").replace(b"\x80\x02.", framed)
    assert read_bytes(contents, tmp_path) == value


# Other files, and damaged ones


def tar_bytes():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def npy_bytes():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def npz_bytes():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


OTHER_FILES = {
    "empty": (b"", "empty"),
    "text": (b"epoch: 3\n", "begins with b'epoch: 3'"),
    "NumPy": (npy_bytes(), "NumPy file"),
    "NumPy archive": (npz_bytes(), "0 records data.pkl"),
    "tar": (tar_bytes(), "tar format"),
    "pickle": (pickle.dumps({"a": 1}, 2), "not with the magic number"),
    "other magic": (stream_bytes(b"N", magic=7), "not with the magic number"),
    "other protocol": (stream_bytes(b"N", protocol=1000), "not with the protocol"),
    "compressed": (zip_bytes(tensor(), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "middle-endian": (zip_bytes(tensor(), byteorder=b"middle"), "byte order is 'middle'"),
    "zip without a directory": (b"PK\x03\x04" + bytes(100), "zip directory"),
    "storage of another length": (stream_bytes(tensor(), item=2), "another length"),
    "storages that nothing uses": (stream_bytes(b"N", {"0": FOUR}), "other storages"),
    "storages without a list": (stream_bytes(tensor(), {}), "other storages"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_other_files(tmp_path, case):
    contents, message = OTHER_FILES[case]
    with pytest.raises(DataError, match=message):
        read_bytes(contents, tmp_path)


def test_paths_that_are_no_files(tmp_path):
    for path, message in ((tmp_path, "is a folder, not a file"), (tmp_path / "none.pkl", "no such file")):
        with pytest.raises(DataError, match=message):
            read_torch(path)


def test_zip_records_must_be_distinct(tmp_path):
    """Names that point at the same bytes would let a small file stand for a large one."""
    path = tmp_path / "x.pkl"
    path.write_bytes(zip_bytes(tensor(), {"0": FOUR * 1000}))
    with zipfile.ZipFile(path, "a") as archive:
        for n in range(1, 4):
            other = copy.copy(archive.getinfo("archive/data/0"))
            other.filename = f"archive/data/{n}"
            archive.filelist.append(other)
        archive.comment = b"written anew"
    with pytest.raises(DataError, match="overlap"):
        read_torch(path)


# Writing


def arrays():
    rng = np.random.default_rng(0)
    plain = {name: rng.normal(size=(3, 4)).astype(dtype_of(name)) for name in DTYPES.values()}
    return plain | {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::3],
        "big-endian": np.arange(3, dtype=">i4"),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "": np.zeros(1, np.float32),
        "layer.é": np.float64([np.nan, np.inf, -0.0]),
        "large": np.zeros(70_000, np.uint8),
    }


def assert_same_arrays(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype.name == array.dtype.name, name
        assert got[name].shape == array.shape, name
        native = array.astype(dtype_of(array.dtype.name))
        assert got[name].tobytes() == native.tobytes(), name


def test_written_files_are_read_bit_by_bit(tmp_path):
    write_torch(tmp_path / "x.pkl", arrays())
    assert_same_arrays(read_torch(tmp_path / "x.pkl"), arrays())
    write_torch(tmp_path / "y.pkl", arrays())
    assert (tmp_path / "x.pkl").read_bytes() == (tmp_path / "y.pkl").read_bytes()
    write_torch(tmp_path / "none.pkl", {})
    assert read_torch(tmp_path / "none.pkl") == {}
    with zipfile.ZipFile(tmp_path / "x.pkl") as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            archive.fp.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", archive.fp.read(4)))
            assert start % 64 == 0, entry.filename


def test_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "x.pkl"
    write_torch(path, {"a": np.ones(3)})
    before = path.read_bytes()
    for bad in (np.array(["text"]), np.zeros(2, np.uint16), np.array([None])):
        with pytest.raises(DataError, match="cannot hold 'b' of type"):
            write_torch(path, {"a": np.zeros(3), "b": bad})

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch_files, "pickled", full)
    with pytest.raises(OSError, match="no space"):
        write_torch(path, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Against torch itself


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")


@pytest.fixture(params=[True, False], ids=["zip", "stream"])
def save(request, torch, tmp_path):
    def save(value, **options):
        torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=request.param, **options)
        return tmp_path / "x.pt"

    return save


def bits(torch, tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_type_of_torch(torch, save):
    generator = torch.Generator().manual_seed(0)
    state = {
        name: (100 * torch.randn(3, 5, generator=generator)).abs().to(getattr(torch, name)) for name in DTYPES.values()
    }
    got = read_torch(save(state))
    assert list(got) == list(state)
    for name, want in state.items():
        assert got[name].dtype.name == name
        assert got[name].shape == want.shape
        assert got[name].tobytes() == bits(torch, want)


def test_every_shape_of_torch(torch, save):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(3),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 3),
        "single": base[2:3, 4:5],
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    got = read_torch(save(state))
    for name, want in state.items():
        assert got[name].shape == tuple(want.shape), name
        assert got[name].tobytes() == bits(torch, want.detach()), name
    assert np.shares_memory(got["whole"], got["transposed"])
    assert np.shares_memory(got["whole"], got["part"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_training_checkpoint(torch, save, protocol):
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 2, 4)).sum().backward()
    optimizer.step()
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": (0.5, None, [True, "name", 2**70]),
        "size": torch.Size([2, 3]),
    }
    got = read_torch(save(saved, pickle_protocol=protocol))
    assert {name: got[name] for name in ("epoch", "best", "size")} == {
        "epoch": 3,
        "best": saved["best"],
        "size": (2, 3),
    }
    assert list(got["model"]) == list(saved["model"])
    for name, want in saved["model"].items():
        assert got["model"][name].tobytes() == bits(torch, want)
    assert got["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert got["optimizer"]["state"][0]["exp_avg"].shape == (3, 2, 1)


def test_a_whole_module_is_refused(torch, save):
    with pytest.raises(DataError, match=r"torch\.nn\.modules\.linear\.Linear.*torch\.save\(model\.state_dict"):
        read_torch(save(torch.nn.Linear(2, 3)))
    with pytest.raises(DataError, match=r"12 elements.*clone"):
        read_torch(save(torch.ones(1, 3).expand(4, 3)))


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_is_written(torch, tmp_path, mmap):
    write_torch(tmp_path / "x.pkl", arrays())
    got = torch.load(tmp_path / "x.pkl", weights_only=True, mmap=mmap)
    assert list(got) == list(arrays())
    for name, want in arrays().items():
        assert str(got[name].dtype) == f"torch.{want.dtype.name}"
        assert tuple(got[name].shape) == want.shape
        assert bits(torch, got[name]) == want.astype(dtype_of(want.dtype.name)).tobytes()
