"""Files of `torch.save`, read and written without PyTorch and without executing a pickle.

Both formats are read: the zip archive and the stream that came before it. Whatever sizes a file declares, the memory
taken is in proportion to its length.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.pickles.machine import damaged
from casejax.data.pickles.torch_tensors import DTYPES, Storage, TorchMachine, dtype_of, pickled, refused
from casejax.errors import DataError
from casejax.runtime.files import whole_file
from casejax.runtime.reading import read_bytes

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # with which the older format begins
ALIGNMENT = 64  # of storages in a zip file, as torch aligns them


def read_torch(path: str | os.PathLike[str]) -> Any:
    """Read what `torch.save` wrote.

    Args:
      path: a file of either format. It is read into memory whole.

    Returns:
      The saved object, made of dictionaries (an `OrderedDict` where there was one), lists, tuples, numbers,
      strings, booleans, None, and read-only NumPy arrays in place of tensors and parameters. Arrays whose
      tensors shared a storage share its memory. bfloat16 is that of `ml_dtypes`.

    Raises:
      DataError: for every other file. Nothing that a file names is ever imported or called.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> data.write_torch("model.pth", {"bias": np.zeros(3, np.float32)})
      >>> data.read_torch("model.pth")["bias"].tolist()
      [0.0, 0.0, 0.0]
    """
    path = Path(path)
    data = read_bytes(path, "weights", missing="check the path")
    try:
        return _read(data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__


def write_torch(path: str | os.PathLike[str], state: Mapping[str, np.ndarray]) -> None:
    """Write arrays as the zip file that `torch.save` makes of a state dict of tensors.

    `torch.load(path, weights_only=True)` reads it as an `OrderedDict`. The file takes its name only when it
    is complete, in place of one that had it before. The same arrays give the same bytes.

    Args:
      path: file to write.
      state: arrays of any shape, of the types in `DTYPES`; each becomes a contiguous tensor.

    Raises:
      DataError: an array of a type torch does not have, or a name that is no string.

    Example:
      >>> import numpy as np
      >>> from casejax import data
      >>> data.write_torch("model.pth", {"weight": np.eye(2)})
      >>> data.read_torch("model.pth")["weight"]
      array([[1., 0.],
             [0., 1.]])
    """
    path, arrays = Path(path), {}
    for name, value in state.items():
        dtype = np.asarray(value).dtype.name
        if not isinstance(name, str) or dtype not in DTYPES.values():
            raise DataError(f"{path}: cannot hold {name!r} of type {dtype}; cast it, to float32 for instance")
        arrays[name] = np.asarray(value, dtype_of(dtype), order="C")
    size = sum(array.nbytes for array in arrays.values())
    with whole_file(path, "wb", size=size) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, file.tell(), "data.pkl", pickled(arrays))
        _add(archive, file.tell(), "byteorder", b"little")
        for key, array in enumerate(arrays.values()):
            _add(archive, file.tell(), f"data/{key}", _reordered(array.tobytes(), array.dtype, "little"))
        _add(archive, file.tell(), "version", b"3\n")


# The two formats


def _read(data: bytes) -> Any:
    if not data:
        raise damaged("it is empty")
    if data.startswith(b"PK\x03\x04"):
        return _read_zip(data)
    if data[257:262] == b"ustar":
        raise DataError("it is in the tar format of PyTorch 0.1; load it with PyTorch and save it again")
    if not data.startswith(b"\x80"):
        kind = "it is a NumPy file" if data.startswith(b"\x93NUMPY") else f"it begins with {data[:8]!r}"
        raise refused(f"{kind}, not as a file of torch.save does")
    return _read_stream(data)


def _read_zip(data: bytes) -> Any:
    records = _records(data)
    roots = [name.removesuffix("data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise refused(f"it is a zip file with {len(roots)} records data.pkl, where torch.save writes one")
    (root,) = roots
    byteorder = "little"
    if f"{root}byteorder" in records:
        byteorder = str(_contents(data, records[f"{root}byteorder"]), "latin-1")
    if byteorder not in ("little", "big"):
        raise damaged(f"its byte order is {byteorder[:20]!r}, neither little nor big")

    def load(storage: Storage) -> memoryview:
        record = records.get(f"{root}data/{storage.key}")
        if record is None or record.file_size != storage.nbytes:
            found = "no record" if record is None else f"{record.file_size} bytes"
            raise damaged(f"it has {found} for {storage}")
        return _reordered(_contents(data, record), storage.dtype, byteorder)

    return TorchMachine(_contents(data, records[f"{root}data.pkl"]), load).run()


def _records(data: bytes) -> dict[str, zipfile.ZipInfo]:
    """Directory of a zip file; all records together are no longer than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises many types for damaged files
        raise damaged(f"its zip directory cannot be read ({type(error).__name__})") from error
    records = {entry.filename: entry for entry in entries}
    if len(records) < len(entries) or sum(entry.file_size for entry in entries) > len(data):
        raise damaged("its zip records overlap")
    return records


def _contents(data: bytes, record: zipfile.ZipInfo) -> memoryview:
    """The bytes of one zip record, where they lie in the file."""
    name = f"its zip record {record.filename[:80]!r}"
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise refused(f"{name} is compressed or encrypted, which torch.save never does")
    begin = max(record.header_offset, 0)
    header = data[begin : begin + 30]
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise damaged(f"{name} is not where the directory says")
    start = begin + 30 + sum(struct.unpack("<HH", header[26:]))
    contents = memoryview(data)[start : start + record.file_size]
    if len(contents) != record.file_size or zlib.crc32(contents) != record.CRC:
        raise damaged(f"{name} fails its checksum, or torch was told to write none")
    return contents


def _read_stream(data: bytes) -> Any:
    """The older format: pickles of a magic number, a protocol, the writer's system, the object, the keys of its
    storages; then the storages, each after its length.
    """
    # Storages come after the object that refers to them: it is built on memory that is filled at the end.
    memory: dict[str, bytearray] = {}
    room = len(data)

    def load(storage: Storage) -> memoryview:
        nonlocal room
        room -= storage.nbytes
        if room < 0:
            raise damaged(f"it is too short for {storage}")
        memory[storage.key] = bytearray(storage.nbytes)
        return memoryview(memory[storage.key]).toreadonly()

    machine = TorchMachine(memoryview(data), load)
    for name, wanted in (("magic number", MAGIC), ("protocol", PROTOCOL)):
        if type(found := machine.run()) is not int or found != wanted:
            raise refused(f"it is a pickle, but not with the {name} of torch.save")
    machine.run()  # sizes and byte order of the writer: the format is little-endian everywhere
    value, keys = machine.run(), machine.run()
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(memory):
        raise damaged("it lists other storages than its tensors use")
    for storage in map(machine.storages.__getitem__, keys):
        if int.from_bytes(machine.take(8), "little") != storage.length:
            raise damaged(f"it has another length for {storage}")
        memory[storage.key][:] = _reordered(machine.take(storage.nbytes), storage.dtype, "little")
    return value


def _reordered(contents: memoryview | bytes, dtype: np.dtype, byteorder: str) -> memoryview:
    """Bytes of `byteorder` in that of this machine, or the other way round."""
    if dtype.kind == "b":  # anything but 0 and 1 misleads NumPy
        return memoryview((np.frombuffer(contents, np.uint8) != 0).tobytes())
    if byteorder == sys.byteorder:
        return memoryview(contents)
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return memoryview(np.frombuffer(contents, f"u{width}").byteswap().tobytes())


# Writing


def _add(archive: zipfile.ZipFile, position: int, name: str, contents: bytes | memoryview) -> None:
    """Store a record whose header is at `position`; an extra field of zeros aligns its contents."""
    record = zipfile.ZipInfo(f"archive/{name}")
    padding = -(position + 30 + len(record.filename) + 4) % ALIGNMENT
    record.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(record, contents)
