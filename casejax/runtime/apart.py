"""Libraries that damaged input can crash or hold for ever, called in a process of their own.

HDF5 and TensorStore are written in C and C++: over some damaged files they end the process or loop without end. Here a
second Python runs them, `python -m casejax.runtime.apart`. It is asked by a line of JSON and answers by another, with
the bytes of an array behind it. Computing and memory of an answer are bounded by the system where it can (POSIX), and
a process that ends without an answer is one sentence with the file.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from casejax.errors import DataError
from casejax.runtime.reading import brief

JOBS = {"list_names": "hdf5", "find_array": "hdf5", "read_all": "stores"}
"""What can be asked for, and the module of this room that does it: `job(path, remedy=..., **arguments)`, which returns
a value of JSON and the bytes that belong to it."""

SECONDS, SPEED = 2, 1 << 24
"""Of computing that an answer may take, and bytes of the file and the answer for which it may take one more."""

TIMES, ROOM = 10, 1 << 26
"""Memory that an answer may take: so many times the bytes of file and answer, and so many more."""


class Apart:
    """A second Python, started when it is first asked, and anew when it has died or this process is a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, job: str, path: str | os.PathLike[str], *, remedy: str, **arguments: Any) -> tuple[Any, bytearray]:
        """What a job finds in a file, and the bytes that belong to it.

        Args:
          job: one of `JOBS`.
          path: the file or folder.
          remedy: what to do with a damaged one.
          arguments: further ones of the job; values of JSON.

        Raises:
          DataError: the file is damaged.
        """
        question = json.dumps({"job": job, "path": os.fspath(path), "remedy": remedy, **arguments})
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(question.encode() + b"\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline())
                content = bytearray(answer.get("bytes", 0))
                if process.stdout.readinto(content) < len(content):  # type: ignore[attr-defined]
                    raise EOFError
            except (BrokenPipeError, EOFError, ValueError):
                how = _ended(process.wait())
                self.close()
                raise DataError(f"{path}: is damaged so that reading it {how}; {remedy}") from None
            except BaseException:  # interrupted in the middle of an answer: the next one must not be taken for it
                self.close()
                raise
        if "error" in answer:
            raise DataError(answer["error"])
        return answer["found"], content

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            self._owner = os.getpid()
            places = [place or os.getcwd() for place in sys.path]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
                start_new_session=True,  # Ctrl-C is for the process that asks
            )
        return self._process

    def close(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not sent is lost with it
                    pipe.close()  # type: ignore[union-attr]

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _ended(status: int) -> str:
    if status == -getattr(signal, "SIGXCPU", 0):
        return "does not end"
    if status < 0:
        return f"ends the process ({signal.Signals(-status).name})"
    return f"ends the process (status {status})"


shared = Apart()
"""For files of which there are many."""
atexit.register(shared.close)


def limit(size: int, *, room: int = ROOM) -> None:
    """Bound what this process computes and takes from here on for `size` bytes of file and answer, where it can."""
    try:
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + size / SPEED) + SECONDS, hard))
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[5]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (taken + TIMES * size + room, hard))
    except (ImportError, OSError, ValueError):  # not POSIX, not Linux, or a lower limit stands
        return


def _answer(question: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from importlib import import_module

    job, path, remedy = question.pop("job"), question.pop("path"), question.pop("remedy")
    try:
        found = getattr(import_module(f"casejax.runtime.{JOBS[job]}"), job)(path, remedy=remedy, **question)
    except DataError as error:
        return {"error": str(error)}, b""
    except Exception as error:  # h5py and TensorStore raise many types for damaged files
        return {"error": f"{path}: cannot be read ({brief(error)}); {remedy}"}, b""
    about, content = found
    return {"found": about, "bytes": len(content)}, content


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin.buffer:
        about, content = _answer(json.loads(line))
        answers.write(json.dumps(about).encode() + b"\n")
        answers.write(content)
        answers.flush()


if __name__ == "__main__":
    _serve()
