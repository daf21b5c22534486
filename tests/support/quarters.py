"""A backbone for tests: means over quarters of the picture, moved by a number that is its file of weights."""

import jax.numpy as jnp

from casejax.errors import DataError
from casejax.features import Backbone, StreamWeights
from casejax.records import Timing


def embed(graph, number, windows):
    """(B, 4 C) means over time and a quarter each."""
    means = windows.astype(jnp.float32).reshape(*windows.shape[:2], 2, 8, 2, 8, -1).mean(axis=(1, 3, 5))
    return means.reshape(len(windows), -1) + number


def read(path, dtype):
    """A file such as `rgb 1`."""
    stream, _, number = path.read_text().partition(" ")
    if stream not in ("rgb", "flow"):
        raise DataError(f"{path}: are no weights of quarters")
    return StreamWeights(stream, None, jnp.float32(number), f"sum of {path.name}", None)


QUARTERS = Backbone(
    "quarters",
    Timing(8.0, 4.0, 10.0),
    short_side=20,
    size=16,
    dims={"rgb": 12, "flow": 8},
    read=read,
    embed=embed,
    window_bytes=10_000,
    published="They are a line of text.",
)


def write_weights(folder):
    """StreamWeights of both streams."""
    for stream, number in (("rgb", 1), ("flow", 2)):
        (folder / f"{stream}.txt").write_text(f"{stream} {number}")
    return [folder / "rgb.txt", folder / "flow.txt"]
