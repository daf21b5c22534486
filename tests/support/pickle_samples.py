"""Pickles put together by hand, and files of `torch.save` around them."""

import io
import pickle
import struct
import zipfile

import numpy as np

from casejax.data.pickles.torch_files import MAGIC, PROTOCOL


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a" + bytes([40]) + value.to_bytes(40, "little", signed=True)


def group(*items):
    return b"(" + b"".join(items) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def call(function, *args):
    return function + group(*args) + b"R"


def storage(key="0", length=4, name="FloatStorage"):
    return group(text("storage"), named("torch", name), text(key), text("cpu"), number(length)) + b"Q"


def tensor(stored=None, offset=0, shape=(2, 2), strides=(2, 1)):
    size, steps = (group(*map(number, values)) for values in (shape, strides))
    hooks = call(named("collections", "OrderedDict"))
    return call(
        named("torch._utils", "_rebuild_tensor_v2"), stored or storage(), number(offset), size, steps, b"\x89", hooks
    )


FOUR = np.arange(4, dtype="<f4").tobytes()


def zip_bytes(body, storages=None, *, byteorder=b"little", compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", byteorder)
        for key, contents in (storages or {"0": FOUR}).items():
            archive.writestr(f"archive/data/{key}", contents)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def stream_bytes(body, storages=None, *, magic=MAGIC, protocol=PROTOCOL, item=4):
    """The older format; storages only if the pickle refers to some."""
    body = body.replace(number(4) + b"tQ", number(4) + b"NtQ")
    if storages is None:
        storages = {"0": FOUR} if b"FloatStorage" in body else {}
    system = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(value, 2) for value in (magic, protocol, system)]
    parts += [b"\x80\x02" + body + b".", pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", len(contents) // item) + contents for contents in storages.values()]
    return b"".join(parts)


def short(value):
    """A short string: UTF-8 as of protocol 4 where it is text, Latin-1 as of Python 2 where it is bytes."""
    contents = value.encode() if isinstance(value, str) else value
    return (b"\x8c" if isinstance(value, str) else b"U") + bytes([len(contents)]) + contents
