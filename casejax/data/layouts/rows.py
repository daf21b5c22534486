"""NumPy files with a row a video, whose rows may be objects: what belongs to a video, as strings and lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.pickles.numpy_files import read_object_array
from casejax.errors import DataError
from casejax.runtime.npy import map_npy
from casejax.runtime.reading import check_plain, is_text


def read_array(path: Path) -> np.ndarray:
    """An array of numbers, strings or objects in a `.npy` file, a row a video, mapped as far as it can be.

    Raises:
      DataError: no such file, or one that is no such array.
    """
    check_plain(path, missing="put it there, all files of this layout go together")
    try:
        array = map_npy(path, remedy="download it again")
    except DataError:  # objects, or no array: the other reader says which
        array = read_object_array(path)
    if array.ndim == 0:
        raise DataError(f"{path}: holds a single value, not one a video; download it again")
    return array


def as_text(value: Any, path: Path) -> str:
    """A string, which may be bytes; `path` is its file, for errors.

    Raises:
      DataError: anything else.
    """
    try:
        text = str(value, "utf-8") if isinstance(value, bytes | memoryview) else value
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {bytes(value)[:80]!r} is not UTF-8 ({error}); download it again") from error
    if not isinstance(text, str):
        raise DataError(f"{path}: {str(value)[:80]!r} is no string; download it again")
    if not is_text(text):
        raise DataError(f"{path}: {text[:80]!r} holds half of a surrogate pair, which is no text; download it again")
    return str(text)


def as_texts(value: Any, path: Path) -> list[str]:
    """The strings that belong to one video."""
    return [as_text(each, path) for each in as_items(value)]


def as_items(value: Any) -> list[Any]:
    """What belongs to one video, as a list: it may be an array, a list, a tuple, or a single value."""
    if isinstance(value, np.ndarray):
        return list(value.reshape(1).tolist() if value.ndim == 0 else value.tolist())
    if isinstance(value, list | tuple):
        return [each.tolist() if isinstance(each, np.ndarray) else each for each in value]
    return [value]
