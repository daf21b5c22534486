"""Where the metrics of a run go besides metrics.jsonl: one small interface, and what implements it."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from casejax.errors import OptionError
from casejax.runtime.files import write_text
from casejax.runtime.reading import read_table, read_text

NEEDS = {"tensorboard": ("tensorboardX", "tensorboardX"), "wandb": ("wandb", "wandb")}
"""The module and the package of each that needs one."""


@runtime_checkable
class Writer(Protocol):
    """What takes the metrics of a log step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step; nothing is lost of what was taken before if the process ends."""

    def close(self) -> None:
        """End."""


def check_writer(name: str) -> None:
    """Refuse a writer whose package is missing, before any work.

    Raises:
      OptionError: naming the package.
    """
    module, package = NEEDS.get(name, (None, None))
    if module is not None and find_spec(module) is None:
        raise OptionError(f"--log {name} needs {package}: pip install {package}, or leave it out")


def make_writer(name: str, folder: Path, options: Mapping[str, Any], *, step: int = 0) -> Writer:
    """A writer by name.

    Args:
      name: "none", "csv" (`metrics.csv`), "tensorboard" (event files in `tensorboard/`) or "wandb" (`wandb/`).
      folder: of the run.
      options: of the run, plain values, for those that keep them.
      step: that the run goes on from; what was written of later steps is left out or overwritten.
    """
    check_writer(name)
    return WRITERS[name](folder, options, step)


class _Nothing:
    def __init__(self, folder: Path, options: Mapping[str, Any], step: int) -> None: ...

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class _Table:
    """A CSV file; its columns are those of its first line."""

    def __init__(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        path = folder / "metrics.csv"
        kept: list[dict[str, str]] = []
        self._names: list[str] = []
        if step and path.is_file():
            rows = [cells for _, cells in read_table(path)]
            self._names = rows[0] if rows else []
            found = [dict(zip(self._names, cells, strict=False)) for cells in rows[1:]]
            kept = [row for row in found if row.get("step", "").isdecimal() and int(row["step"]) <= step]
        self._file = path.open("w", encoding="utf-8", newline="")
        if self._names:
            writer = csv.DictWriter(self._file, self._names, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        line = {"step": step, **metrics}
        if not self._names:
            self._names = list(line)
            csv.writer(self._file, lineterminator="\n").writerow(self._names)
        csv.DictWriter(self._file, self._names, extrasaction="ignore", lineterminator="\n").writerow(line)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _TensorBoard:
    def __init__(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        from tensorboardX import SummaryWriter

        purge = {"purge_step": step + 1} if step else {}
        self._writer = SummaryWriter(str(folder / "tensorboard"), **purge)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, options: Mapping[str, Any], step: int) -> None:
        import wandb

        kept = folder / "wandb" / "id.txt"
        goes_on = {"id": read_text(kept)} if step and kept.is_file() else {}
        self._run = wandb.init(
            project="casejax", dir=str(folder), name=folder.name, config=dict(options), resume="allow", **goes_on
        )
        kept.parent.mkdir(exist_ok=True)
        write_text(kept, self._run.id)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


WRITERS: dict[str, Callable[[Path, Mapping[str, Any], int], Writer]] = {
    "none": _Nothing,
    "csv": _Table,
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}
"""By name."""
