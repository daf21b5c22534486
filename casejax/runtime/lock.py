"""One run in a folder at a time: a lock that the system gives back when its process ends, however it ends."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from casejax.errors import CheckpointError
from casejax.runtime import distributed, files

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"

_held: dict[Path, int] = {}
"""Folders that this process holds, by the thread that does."""


@contextmanager
def own_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold a folder, made where it is missing, while the block runs; what killed processes left in it is removed.

    Of several processes of a run the first holds it for all; every process must call this. Whoever holds a folder may
    ask for it again. File systems without locks are used without.

    Raises:
      CheckpointError: another run is in the folder; the message says which process of which host.
      WriteError: the folder cannot be made or written.

    Example:
      >>> from casejax import runtime
      >>> with runtime.own_folder("run") as folder:  # another process that asks for it is refused
      ...     print(folder.name)
      run
    """
    path = Path(folder).resolve()
    thread = threading.get_ident()
    if _held.get(path) == thread:
        yield path
        return
    descriptor, holder, made = None, "", [each for each in (path, *path.parents) if not each.exists()]
    if distributed.is_first():
        files.make_folder(path)
        descriptor, holder = _take(path, thread)
    try:
        if distributed.largest(int(bool(holder))):
            raise CheckpointError(
                f"{folder}: another run is in this folder ({holder or 'the first process says which'}); wait for its "
                "end, or choose another --out"
            )
        if distributed.is_first():
            files.sweep(path)
        yield path
    finally:
        if descriptor is not None:
            with suppress(OSError):
                (path / NAME).unlink()  # while it is held, so that nobody's lock is removed
            os.close(descriptor)
        if not holder:
            _held.pop(path, None)
        with suppress(OSError):  # one of them holds something
            for each in made:
                each.rmdir()


def _take(path: Path, thread: int) -> tuple[int | None, str]:
    """The descriptor that holds the lock, None where there are no locks; or who else holds it."""
    if path in _held:
        return None, f"process {os.getpid()}, another thread"
    if fcntl is not None:
        while True:
            try:
                descriptor = os.open(path / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:  # its last owner wrote nothing and removed the folder
                files.make_folder(path)
                continue
            except OSError as error:
                raise files.write_error(path / NAME, error, 64) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _name(descriptor)
                os.close(descriptor)
                return None, holder
            except OSError:  # a file system without locks
                os.close(descriptor)
                break
            if files.same_file(path / NAME, descriptor):
                os.ftruncate(descriptor, 0)
                with suppress(OSError):  # a disk that is full: it is held all the same
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                _held[path] = thread
                return descriptor, ""
            os.close(descriptor)  # its owner removed it between opening and locking
    _held[path] = thread
    return None, ""


def _name(descriptor: int) -> str:
    """Who holds a lock; it writes its name just after it has locked, so that is waited for, for a second."""
    until = time.monotonic() + 1
    while not (name := os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()) and time.monotonic() < until:
        time.sleep(0.01)
    return name or "an unknown process"
