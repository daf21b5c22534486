"""Checkpoints: the training state and what describes it, written by Orbax, atomically.

    FOLDER/STEP/            what Orbax writes; the name is there when all of it is
    FOLDER/STEP/sums.json   the bytes and the CRC-32 of every file, compared before a checkpoint is read

TensorStore, which reads the arrays, has no checksum of its own for them, and can end the process over damaged metadata.
A checkpoint without `sums.json`, of a process killed between the two or of an earlier release, is first read in a
process apart (`apart.py`): that finds what cannot be read, not numbers that have changed. The run that goes on from it
writes the sums (`Checkpoints.tidy`).
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import sys
import threading
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp

from casejax.errors import CheckpointError, DataError
from casejax.runtime import apart, distributed, files, reading

SUMS = "sums.json"
BLOCK = 1 << 22  # bytes read at a time
OWN_FILES = 1 << 18  # bytes of what Orbax and TensorStore write about the arrays of a checkpoint, at most
MISREAD = re.compile(r"[*?\[\\]|gs:/")
"""Orbax collects files by globs of the whole path, and leaves out arrays where these letters are in it; TensorStore
takes a backslash for a slash, and a name `gs:` for Google's storage."""
DISK_FULL = ("RESOURCE_EXHAUSTED", "No space left", "Disk quota exceeded", "File too large")
"""What TensorStore says where the disk is full, in the middle of its messages."""


@runtime_checkable
class State(Protocol):
    """What can be kept: a named tuple with the number of steps done and the PRNG keys of the run, `TrainState` say."""

    @property
    def step(self) -> jax.Array:
        """Scalar."""

    @property
    def key(self) -> jax.Array:
        """Typed keys, of any shape."""


S = TypeVar("S", bound=State)


def check_place(folder: Path) -> None:
    """Refuse a folder whose name Orbax or TensorStore reads as something else, before anything is written.

    Raises:
      CheckpointError: naming what they misread, and the remedy.
    """
    if found := MISREAD.search(folder.absolute().as_posix()):
        raise CheckpointError(
            f"{folder}: no checkpoint can be kept below a folder with {found[0]!r} in its name; choose another --out, "
            "rename that folder, or make a link to it without (ln -s)"
        )


class Checkpoints:
    """The newest checkpoints of one run in `folder`/<step>, `keep` of them or all; a context manager.

    Raises:
      CheckpointError: as `check_place`.
    """

    def __init__(self, folder: Path, *, keep: int | None = 2) -> None:
        self.folder = folder.absolute()
        check_place(folder)
        self._keep = keep
        self._checked: set[int] = set()
        with _one_voice():  # of damaged files, which are named when they are read
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False),
                item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
            )

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: State, meta: dict[str, Any]) -> None:
        """Write the state and its description; a crash half-way leaves no checkpoint of that step.

        Raises:
          WriteError: the disk is full, or the folder cannot be written; the checkpoints before are as they were.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        place, stored = self.folder / str(step), _storable(state)
        needed = OWN_FILES + sum(leaf.nbytes for leaf in jax.tree.leaves(stored))
        if distributed.is_first() and files.free_bytes(self.folder) < needed:
            raise files.write_error(place, OSError(errno.ENOSPC, ""), needed)
        items = ocp.args.Composite(state=ocp.args.StandardSave(stored), meta=ocp.args.JsonSave(meta))
        try:
            with _one_voice():
                self._manager.save(step, args=items)
                self._manager.wait_until_finished()
            if distributed.is_first():
                files.write_json(place / SUMS, _sums(place))
        except Exception as error:  # Orbax and TensorStore raise many types where a write fails
            code = _errno(error)
            if code is None:
                raise
            for left in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
            raise files.write_error(place, OSError(code, ""), needed) from error

    def tidy(self) -> None:
        """Finish what a killed process began; for the owner of the folder, before it goes on.

        Checkpoints past those to keep, which may be half deleted, go; sums that were not yet written are.
        """
        for step in self.steps[: -self._keep] if self._keep else []:
            self._manager.delete(step)
        for step in self.steps:
            place = self.folder / str(step)
            if distributed.is_first() and not (place / SUMS).exists():
                files.write_json(place / SUMS, _sums(place))

    def keep_only(self, step: int | None) -> None:
        """Delete the checkpoints of all other steps; None deletes all."""
        for other in self.steps:
            if other != step:
                self._manager.delete(other)

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The description saved with a checkpoint, by default the newest.

        Raises:
          CheckpointError: none, or an unreadable or damaged one.
        """
        with self._readable(step) as step:
            found = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            if not isinstance(found, dict):
                raise TypeError(f"its description is {str(found)[:80]}, not an object")
            return found

    def restore(self, template: S, step: int | None = None) -> S:
        """A state, by default the newest, placed as the template is (on any number of devices).

        Args:
          template: a state of the wanted structure, shapes and sharding; its values are not used.
          step: of the checkpoint.

        Raises:
          CheckpointError: no checkpoint, an unreadable or damaged one, or one of other shapes.
        """
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _storable(template))
        with self._readable(step) as step:
            found = _shapes(self._manager.item_metadata(step)["state"].tree)
        for path, shape in _shapes(wanted).items():
            if found.get(path) != shape:
                raise CheckpointError(
                    f"{self.folder / str(step)} is of another shape: {path} is {found.get(path, 'missing')}, "
                    f"this configuration needs {shape}; use the checkpoint with the configuration and features "
                    "it was trained with"
                )
        with self._readable(step) as step:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            stored = self._manager.restore(step, args=args)["state"]
        return _with_key(stored, jax.random.wrap_key_data(stored.key))

    @contextmanager
    def _readable(self, step: int | None = None) -> Iterator[int]:
        """The step, or the newest, once its files are what they were; whatever fails becomes a `CheckpointError`."""
        step = self.latest if step is None else step
        if step is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint; train first, or name another folder")
        place = self.folder / str(step)
        if step not in self._checked:
            self._check(place, self._way_out(step))
            self._checked.add(step)
        try:
            yield step
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            raise CheckpointError(
                f"{place} cannot be read ({type(error).__name__}: {str(error)[:200]}); {self._way_out(step)}"
            ) from error

    @staticmethod
    def _check(place: Path, way_out: str) -> None:
        """Refuse files that are not as they were written; without sums, those that cannot be read."""
        if (place / SUMS).exists():
            if damage := _damage(place):
                raise CheckpointError(f"{place} is damaged: {damage}; {way_out}")
            return
        try:
            with apart.Apart() as process:
                process.ask("read_all", place / "state", remedy=way_out)
        except DataError as error:
            raise CheckpointError(str(error)) from None

    def _way_out(self, step: int) -> str:
        earlier = [other for other in self.steps if other < step]
        if not earlier:
            return "no earlier checkpoint is left, so start again in another --out"
        return f"delete that step's folder to fall back on the one before, step {earlier[-1]}"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()


def _storable(state: S) -> S:
    return _with_key(state, jax.random.key_data(state.key))


def _with_key(state: Any, key: jax.Array) -> Any:
    return state._replace(key=key)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [".".join(_name(entry) for entry in path) for path, _ in leaves]
    return {name: tuple(np.shape(leaf)) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _name(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _sums(place: Path) -> dict[str, Any]:
    """Bytes and CRC-32 of every file of a checkpoint, by its path; what a kill left of the sums is none of it."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.is_file() and not path.name.removeprefix(".").startswith(SUMS):
            crc32, size = 0, 0
            with reading.open_plain(path) as file:
                while block := file.read(BLOCK):
                    crc32, size = zlib.crc32(block, crc32), size + len(block)
            found[path.relative_to(place).as_posix()] = [size, crc32]
    return {"crc32": found}


def _damage(place: Path) -> str:
    """What is wrong with the files of a checkpoint; nothing where they are as they were written."""
    try:
        stated = reading.read_json(place / SUMS, {"crc32": dict})["crc32"]
        there = _sums(place)["crc32"]
    except (DataError, OSError) as error:
        return str(error)
    for name, sums in stated.items():
        if name not in there:
            return f"its file {name} is missing"
        if sums != there[name]:
            return f"its file {name} is not as it was written (bytes and CRC-32 were {sums}, are {there[name]})"
    return ""


@contextmanager
def _one_voice() -> Iterator[None]:
    """Have failures in Orbax's threads said by the caller alone, who gets the exception."""
    _mute_late_futures()
    logger, hook = logging.getLogger("absl"), threading.excepthook
    level = logger.level
    threading.excepthook = lambda *_: None
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        threading.excepthook = hook
        logger.setLevel(level)


def _mute_late_futures() -> None:
    """Have nothing said of writes that fail after Orbax has closed the event loop of a failed save.

    TensorStore then tells a loop that is gone, from a thread of its own, at any later time; Python reports that to
    `sys.unraisablehook`, which therefore stays replaced. All other reports go to the hook that was there. What asyncio
    logs of a write that failed and that nobody has asked for is dropped too: the caller has said it.
    """
    shown = sys.unraisablehook
    if getattr(shown, "mutes_late_futures", False):
        return

    def show(report: sys.UnraisableHookArgs) -> None:
        names = [frame.name for frame in traceback.extract_tb(report.exc_traceback)]
        if names != ["call_soon_threadsafe", "_check_closed"]:
            shown(report)

    def wanted(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not ("never retrieved" in record.getMessage() and _errno(error) is not None)

    logging.getLogger("asyncio").addFilter(wanted)
    show.mutes_late_futures = True  # type: ignore[attr-defined]
    sys.unraisablehook = show


def _errno(error: BaseException | None) -> int | None:
    """The number of the system's error that a chain of exceptions comes from; None where it is none of writing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in files.NO_ROOM | files.REFUSED:
            return error.errno
        if any(words in str(error) for words in DISK_FULL):
            return errno.ENOSPC
        if "PERMISSION_DENIED" in str(error) or "Read-only file system" in str(error):
            return errno.EROFS if "Read-only" in str(error) else errno.EACCES
        error = error.__cause__ or error.__context__
    return None
