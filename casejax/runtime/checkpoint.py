"""Checkpoints: the training state and what describes it, written by Orbax, atomically."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp

from casejax.errors import CheckpointError


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


class Checkpoints:
    """The newest checkpoints of one run, `keep` of them, in `folder`/<step>; a context manager."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: State, meta: dict[str, Any]) -> None:
        """Write the state and its description; a crash half-way leaves no checkpoint of that step."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(_storable(state)), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=items)
        self._manager.wait_until_finished()

    def meta(self) -> dict[str, Any]:
        """The description saved with the newest checkpoint.

        Raises:
          CheckpointError: none, or an unreadable one.
        """
        with self._readable() as step:
            return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, template: S) -> S:
        """The newest state, placed as the template is (on any number of devices).

        Args:
          template: a state of the wanted structure, shapes and sharding; its values are not used.

        Raises:
          CheckpointError: no checkpoint, an unreadable one, or one of other shapes.
        """
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _storable(template))
        with self._readable() as step:
            found = _shapes(self._manager.item_metadata(step)["state"].tree)
        for path, shape in _shapes(wanted).items():
            if found.get(path) != shape:
                raise CheckpointError(
                    f"{self.folder / str(step)} is of another shape: {path} is {found.get(path, 'missing')}, "
                    f"this configuration needs {shape}; use the checkpoint with the configuration and features "
                    "it was trained with"
                )
        with self._readable() as step:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
            stored = self._manager.restore(step, args=args)["state"]
        return _with_key(stored, jax.random.wrap_key_data(stored.key))

    @contextmanager
    def _readable(self) -> Iterator[int]:
        """The newest step; whatever reading it raises becomes a `CheckpointError`."""
        step = self.latest
        if step is None:
            raise CheckpointError(f"{self.folder} holds no checkpoint; train first, or name another folder")
        try:
            yield step
        except Exception as error:  # Orbax and TensorStore raise many types for damaged files
            raise CheckpointError(
                f"{self.folder / str(step)} cannot be read ({type(error).__name__}: {str(error)[:200]}); "
                "delete that step's folder to fall back on the one before"
            ) from error

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
