"""The one way out: files and folders are written whole or not at all, in a hidden place beside the target.

A hidden place is `.NAME.partial`, held by a lock while it is written, then renamed. One that a killed process left is
held by nobody: whoever writes the same name next takes it over, and `sweep` removes those of a folder.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from casejax.errors import DataError, WriteError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and every hidden place has a name of its own
    fcntl = None  # type: ignore[assignment]

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
REMEDIES = (
    (NO_ROOM, "make room, or name another folder"),
    (REFUSED, "name a folder that can be written, or give the right to write there"),
    ({errno.ENOTDIR, errno.EEXIST}, "a file stands where a folder is needed; name another folder"),
)


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w", *, size: int | None = None) -> Iterator[IO[Any]]:
    """An open file that becomes `path` when the block ends, in place of one that had the name before.

    If the block fails, `path` is what it was, and nothing else is left behind.

    Args:
      path: file to write; folders above it are made where they are missing.
      mode: "w" for text in UTF-8, "wb" for bytes.
      size: bytes that it will have, at least, where they are known; said where the disk has fewer.

    Raises:
      WriteError: a disk that is full, or a folder that cannot be written.

    Example:
      >>> from casejax import runtime
      >>> with runtime.whole_file("notes.txt") as file:
      ...     _ = file.write("all of it")
      >>> runtime.read_text("notes.txt")
      'all of it'
    """
    path = Path(path)
    with _explained(path, needed=size):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _hidden_file(path)
    full = NO_ROOM | {errno.EROFS}
    # Closing the file writes what is left once more, so that is explained too.
    with (
        _explained(path, only=full, needed=size),
        open(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file,
    ):
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with _explained(path):
                os.replace(partial, path)  # while the lock is held: nobody takes the place for a leftover
                _keep_name(path)
        except BaseException:
            if same_file(partial, descriptor):  # while it is held: nobody else's of the same name is removed
                partial.unlink()
            raise


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder that becomes `path` when the block ends; if the block fails, nothing is left behind.

    Args:
      path: folder to write; those above it are made where they are missing.

    Raises:
      DataError: `path` exists already.
      WriteError: a disk that is full, or a folder that cannot be written.

    Example:
      >>> from casejax import runtime
      >>> with runtime.whole_folder("out") as folder:
      ...     (folder / "a.txt").touch()
      >>> import os
      >>> os.listdir("out")
      ['a.txt']
    """
    path = Path(path).absolute()
    if path.exists():
        raise DataError(f"{path}: exists already; remove it or choose another folder")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _hidden_folder(path)
    try:
        with _explained(path, only=NO_ROOM | {errno.EROFS}):
            yield partial
        with _explained(path):
            if path.exists():  # another process was faster
                raise DataError(f"{path}: exists already; remove it or choose another folder")
            os.rename(partial, path)
            _keep_name(path)
    except BaseException:
        if same_file(partial, descriptor):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, whole or not at all.

    Example:
      >>> from casejax import runtime
      >>> runtime.write_text("notes.txt", "all of it")
      >>> runtime.read_text("notes.txt")
      'all of it'
    """
    with whole_file(path, size=len(text.encode())) as file:
        file.write(text)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, whole or not at all.

    Example:
      >>> from casejax import runtime
      >>> from pathlib import Path
      >>> runtime.write_bytes("header.bin", b"CASE")
      >>> Path("header.bin").read_bytes()
      b'CASE'
    """
    with whole_file(path, "wb", size=len(data)) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; null stands for a number that is not finite.

    Example:
      >>> from casejax import runtime
      >>> runtime.write_json("loss.json", {"loss": float("nan")})
      >>> runtime.read_json("loss.json")
      {'loss': None}
    """
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """The value with None in place of the numbers that JSON does not have, and lists in place of tuples."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add a line to a text file; one that a kill cuts short is for the reader to leave out.

    Raises:
      WriteError: a disk that is full, or a file that cannot be written.
    """
    path = Path(path)
    needed = len(line.encode()) + 1
    with _explained(path, needed=needed), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """A folder, made with those above it where it is missing.

    Raises:
      WriteError: it cannot be made.
    """
    path = Path(path)
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def sweep(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what killed processes left of `whole_file` and `whole_folder` in a folder and in those one level below.

    Returns:
      What was removed. Hidden places that a living process holds stay, on whatever host it runs.

    Example:
      >>> from casejax import runtime
      >>> runtime.sweep(".")  # nothing was left here
      []
    """
    removed: list[Path] = []
    if fcntl is None:
        return removed
    for place in sorted(each for form in (".*.partial", "[!.]*/.*.partial") for each in Path(folder).glob(form)):
        with suppress(OSError):
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                # under its name there may be another by now, that of a living writer
                if _lock(descriptor) and same_file(place, descriptor):
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
                    removed.append(place)
            finally:
                os.close(descriptor)
    return removed


@contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder while the block runs, once whoever else holds it is done; where there are no locks, without."""
    descriptor = None
    with suppress(OSError):
        if fcntl is not None:
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def write_error(path: str | os.PathLike[str], error: OSError, needed: int | None = None) -> WriteError:
    """What to say of a file that cannot be written: its name, the reason, bytes needed and free, a remedy."""
    code = error.errno or 0
    remedy = next((remedy for codes, remedy in REMEDIES if code in codes), "check the path and the disk")
    reason = os.strerror(code) if code else str(error)
    room = ""
    if code in NO_ROOM:
        wants = "" if needed is None else f"{needed:,} bytes are needed, "
        room = f" ({wants}{free_bytes(path):,} are free)"
    return WriteError(code, f"{path}: cannot be written: {reason}{room}; {remedy}")


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that are free where a file is, or would be."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def _explained(path: Path, only: set[int] | None = None, needed: int | None = None) -> Iterator[None]:
    """Errors of the system, those of `only` the numbers named, as a `WriteError` that names the file."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if error.errno is None and str(error).endswith(" written"):  # NumPy's word for a full disk
            error.errno = errno.ENOSPC
        if only is None or error.errno in only:
            raise write_error(path, error, needed) from error
        raise


def _hidden_file(path: Path) -> tuple[Path, int]:
    """An empty hidden file beside `path` and its descriptor, which holds its lock."""
    for partial in _names(path):
        while True:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            if fcntl is None:
                return partial, descriptor
            if not _lock(descriptor):
                os.close(descriptor)
                break  # somebody is writing there
            if same_file(partial, descriptor):
                os.ftruncate(descriptor, 0)
                return partial, descriptor
            os.close(descriptor)  # renamed or removed between opening and locking
    raise AssertionError("names do not end")


def _hidden_folder(path: Path) -> tuple[Path, int]:
    """An empty hidden folder beside `path` and a descriptor that holds its lock."""
    for partial in _names(path):
        while True:
            partial.mkdir(exist_ok=True)
            descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if fcntl is None:
                return partial, descriptor
            if not _lock(descriptor):
                os.close(descriptor)
                break
            if same_file(partial, descriptor):
                for left in partial.iterdir():
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
                return partial, descriptor
            os.close(descriptor)
    raise AssertionError("names do not end")


def _names(path: Path) -> Iterator[Path]:
    """Names for a hidden place, the usual one first, then one for each writer that comes while others write."""
    if fcntl is not None:
        for number in range(16):
            yield path.with_name(f".{path.name}.{number}.partial" if number else f".{path.name}.partial")
    while True:
        yield path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _lock(descriptor: int) -> bool:
    """Whether the lock of an open file could be had; nobody needs to give it back, the system does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def same_file(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _keep_name(path: Path) -> None:
    """Have the disk keep the new name too."""
    with suppress(OSError):  # not every file system can
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
