"""MATLAB files against SciPy's writer, and what MATLAB itself writes that SciPy does not."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from casejax.data.matlab import read_matlab
from casejax.errors import DataError

MATRICES = {
    "doubles": np.arange(12.0).reshape(3, 4),
    "whole": np.arange(-3, 3, dtype=np.int16).reshape(2, 3),
    "flags": np.array([[1, 0, 1]], np.uint8),
    "single": np.array([[1.5]], np.float32),
    "cube": np.arange(24, dtype=np.int32).reshape(2, 3, 4),
    "none": np.zeros((0, 5)),
    "text": "clean_and_jerk",
    "texts": np.array(["left ", "right"]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_matrices_are_those_of_scipy(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, MATRICES, do_compression=compressed)
    found, theirs = read_matlab(path, MATRICES), scipy.io.loadmat(path)
    assert found.keys() == MATRICES.keys()
    for name, values in found.items():
        if values.dtype.kind == "U":
            assert [row.rstrip() for row in theirs[name]] == values.tolist()
        else:
            np.testing.assert_array_equal(values, theirs[name], strict=name != "flags")


def test_only_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {**MATRICES, "cells": np.array([[1, "a"]], object)})
    assert read_matlab(path, ["single", "absent"]).keys() == {"single"}
    with pytest.raises(DataError, match=r"a\.mat: .*cells is not a matrix of numbers"):
        read_matlab(path, ["cells"])


def test_a_compressed_matrix_without_the_end_of_its_stream(tmp_path):
    """As MATLAB R2013 wrote matrices whose bytes fill its buffer: two of Penn Action's 2,326 files have one."""
    path = tmp_path / "a.mat"
    values = np.random.default_rng(0).normal(size=(157, 13))
    scipy.io.savemat(path, {"x": values}, do_compression=True)
    whole = path.read_bytes()
    kind, size = struct.unpack("<II", whole[128:136])
    inflated = zlib.decompress(whole[136 : 136 + size])
    packer = zlib.compressobj()
    stream = packer.compress(inflated) + packer.flush(zlib.Z_SYNC_FLUSH)
    path.write_bytes(whole[:128] + struct.pack("<II", kind, len(stream)) + stream)
    np.testing.assert_array_equal(read_matlab(path, ["x"])["x"], values)

    # one whose values are cut short is refused, and so is one whose checksum differs
    part = zlib.compress(inflated[:-800])
    path.write_bytes(whole[:128] + struct.pack("<II", kind, len(part)) + part)
    with pytest.raises(DataError, match=r"a\.mat: not a readable MATLAB 5 file"):
        read_matlab(path, ["x"])
    stream = zlib.compress(inflated)
    path.write_bytes(whole[:128] + struct.pack("<II", kind, len(stream)) + stream[:-1] + bytes([stream[-1] ^ 1]))
    with pytest.raises(DataError, match=r"a\.mat: not a readable MATLAB 5 file"):
        read_matlab(path, ["x"])


def test_what_another_version_wrote_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.ones((2, 2))}, format="4")
    with pytest.raises(DataError, match=r"a\.mat: not a readable MATLAB 5 file"):
        read_matlab(path, ["x"])
