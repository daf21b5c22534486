"""The one way in: files that a user hands over are plain, of a size that their kind can have, and what they should be.

Whatever is wrong with one becomes a `DataError` that names the file, the place in it, the value and a remedy. Nothing
here blocks on a pipe or a device, and nothing is read beyond the limit of its kind.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import reprlib
import stat
from collections.abc import Mapping
from typing import Any

from casejax.errors import DataError

LIMITS = {
    "text": 1 << 30,
    "JSON": 1 << 30,
    "picture": 1 << 30,
    "annotations in MATLAB's format": 1 << 28,
    "weights": 1 << 35,
    "features": 1 << 42,
    "video": 1 << 42,
}
"""The most bytes that a file of a kind can have; the variable `CASEJAX_LARGEST_FILE`, in bytes, stands above them."""

LIMIT_VARIABLE = "CASEJAX_LARGEST_FILE"
BLOCK = 1 << 16
DEPTH = 64
"""Objects and arrays within one another that JSON may have: annotations have six."""
DIGITS = 1000
"""Digits of a whole number in JSON: more are infinite as a float."""

_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_plain(path: str | os.PathLike[str], kind: str = "features", *, missing: str = "") -> int:
    """Refuse what is no plain file, or larger than its kind can be, without opening it.

    Args:
      path: the file.
      kind: a key of `LIMITS`.
      missing: what to do if there is no such file.

    Returns:
      Its bytes.

    Raises:
      DataError: naming the file and what it is.
    """
    try:
        about = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; {missing or 'put it there, or name another'}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)[:200]!r}: cannot be opened ({error}); check the path") from error
    return _check(about, path, kind)


def _check(about: os.stat_result, path: Any, kind: str) -> int:
    if not stat.S_ISREG(about.st_mode):
        what = next((name for test, name in _KINDS.items() if test(about.st_mode)), "no plain file")
        raise DataError(f"{path}: is {what}, not a file; name a file")
    most = limit(kind)
    if about.st_size > most:
        raise DataError(
            f"{path}: {about.st_size:,} bytes are more than a file of {kind} has ({most:,} at most); name another "
            f"file, or raise the limit: {LIMIT_VARIABLE}={about.st_size}"
        )
    return about.st_size


def limit(kind: str) -> int:
    """The most bytes that a file of a kind may have."""
    stated = os.environ.get(LIMIT_VARIABLE, "")
    if stated and not stated.isdecimal():
        raise DataError(f"{LIMIT_VARIABLE}={stated[:80]}: is no number of bytes; write it in digits")
    return int(stated) if stated else LIMITS[kind]


def open_plain(path: str | os.PathLike[str], kind: str = "features", *, missing: str = "") -> io.BufferedReader:
    """Open a plain file for reading; arguments and errors as `check_plain`.

    Example:
      >>> from casejax import runtime
      >>> runtime.write_text("notes.txt", "some")
      >>> with runtime.open_plain("notes.txt") as file:
      ...     file.read()
      b'some'
    """
    check_plain(path, kind, missing=missing)
    try:
        # What the name stands for may have changed: a pipe must not block, and is looked at again.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); check the path and its rights") from error
    try:
        _check(os.fstat(descriptor), path, kind)
    except DataError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def read_bytes(path: str | os.PathLike[str], kind: str, *, missing: str = "") -> bytes:
    """The content of a plain file; arguments and errors as `check_plain`."""
    most = limit(kind)
    try:
        with open_plain(path, kind, missing=missing) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1)
            while size < len(data) <= most and (more := file.read(BLOCK)):  # it grows, or does not say how long it is
                data += more
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the disk") from error
    if len(data) > most:
        raise DataError(f"{path}: is longer than a file of {kind} can be ({most:,} bytes); name another file")
    return data


def read_text(path: str | os.PathLike[str], kind: str = "text", *, missing: str = "") -> str:
    """The content of a text file in UTF-8, line ends as they are in it but for CRLF.

    Raises:
      DataError: as `check_plain`, or what is no UTF-8, with line and byte.

    Example:
      >>> from casejax import runtime
      >>> runtime.write_text("notes.txt", "all of it")
      >>> runtime.read_text("notes.txt")
      'all of it'
    """
    data = read_bytes(path, kind, missing=missing)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = error.start - data.rfind(b"\n", 0, error.start)
        raise DataError(
            f"{path}: cannot be read as text: line {line}, byte {byte} is 0x{data[error.start]:02x}, which is not "
            "UTF-8; save it as readable UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(
    path: str | os.PathLike[str],
    form: Any = None,
    *,
    remedy: str = "repair or download it again",
    missing: str = "",
    floats: bool = False,
) -> Any:
    """The content of a JSON file.

    Args:
      path: the file.
      form: what it must look like, as `check_form` has it; None for anything.
      remedy: what to do with a damaged file.
      missing: what to do if there is none.
      floats: read whole numbers as floats.

    Raises:
      DataError: as `read_text`; no JSON, an object with a key twice, nested too deep, a number of too many digits,
        text that is none, or another form.

    Example:
      >>> from casejax import runtime
      >>> runtime.write_json("classes.json", {"classes": ["Dive"]})
      >>> runtime.read_json("classes.json")["classes"]
      ['Dive']
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)  # json itself would keep the last of two values and drop the other in silence
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}: has the key {twice!r} twice in one object; keep one")
        return found

    def whole(digits: str) -> int | float:
        if len(digits) > DIGITS:
            raise DataError(f"{path}: holds a number of {len(digits)} digits, {digits[:12]}...; {remedy}")
        return float(digits) if floats else int(digits)

    text = read_text(path, "JSON", missing=missing)
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_int=whole)
        if _deeper(value, DEPTH):
            raise RecursionError
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{path}: not JSON at {where} ({error.msg}); {remedy}") from error
    except RecursionError:
        raise DataError(f"{path}: nested too deep, more than {DEPTH} objects in one another; {remedy}") from None
    if _SURROGATE.search(text):
        _check_text(value, path, remedy)
    check_form(value, form, str(path), remedy=remedy)
    return value


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a file with one a line; what is no object is left out, since a kill cuts the last line short."""
    found = []
    for text in read_bytes(path, "JSON").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def read_table(path: str | os.PathLike[str], *, missing: str = "") -> list[tuple[int, list[str]]]:
    """The rows of a table, each with its number of line; tabs separate where the first line has one, else commas.

    Raises:
      DataError: as `read_text`, or a line that is no CSV.
    """
    text = read_text(path, missing=missing)
    reader = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in text.split("\n", 1)[0] else ",")
    try:
        return [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is no CSV ({error}); save the table again as text") from error


def check_form(value: Any, form: Any, where: str, *, remedy: str = "repair or download it again") -> None:
    """Refuse a value of another form.

    Args:
      value: of JSON.
      form: a type; a tuple of types; a list of one form, which all items have; a dictionary of forms by key, all of
        which must be there (a key that ends in "?" need not be); None for anything. `float` takes whole numbers too,
        and no number is a bool.
      where: file and place, for errors.
      remedy: what to do.

    Raises:
      DataError: naming the place, what is there and what should be.
    """
    if form is None:
        return
    if isinstance(form, Mapping):
        _check_type(value, dict, where, remedy)
        for name, inner in form.items():
            key = name.removesuffix("?")
            if key in value:
                check_form(value[key], inner, f"{where}: {key!r}", remedy=remedy)
            elif key == name:
                raise DataError(f"{where}: has no {key!r}; {remedy}")
    elif isinstance(form, list):
        _check_type(value, list, where, remedy)
        for number, each in enumerate(value):
            check_form(each, form[0], f"{where}, item {number} (counted from 0)", remedy=remedy)
    else:
        _check_type(value, form, where, remedy)


_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _check_type(value: Any, form: type | tuple[type, ...], where: str, remedy: str) -> None:
    wanted = form if isinstance(form, tuple) else (form,)
    if isinstance(value, bool):
        fits = bool in wanted
    else:
        fits = isinstance(value, wanted) or (float in wanted and isinstance(value, int))
    if not fits:
        words = " or ".join(_WORDS[each] for each in wanted)
        raise DataError(f"{where}: is {reprlib.repr(value)}, not {words}; {remedy}")


def _deeper(value: Any, most: int) -> bool:
    """Whether containers lie deeper in one another than `most`; without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _check_text(value: Any, path: Any, remedy: str) -> None:
    """Refuse halves of surrogate pairs, which no file and no screen can hold."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if not is_text(each):
                raise DataError(f"{path}: {each[:80]!r} holds half of a surrogate pair, which is no text; {remedy}")
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each


def brief(error: BaseException | str) -> str:
    """What an error of a library says, or a name in a file, as a part of one line: some repeat half of a file."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
