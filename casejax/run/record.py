"""What a run says of itself before its first step: its options, and where, when and by which command it was started."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from casejax.errors import DataError
from casejax.records import Dataset
from casejax.run.config import Config
from casejax.runtime import files, reading
from casejax.runtime.environment import environment

NAME = "run.json"
"""Of the record, in the folder of a run."""


def write_start(out: Path, config: Config, dataset: Dataset, *, step: int, devices: int) -> None:
    """Write `config.json`, and add this start to `run.json`.

    Args:
      out: folder of the run.
      config: all options.
      dataset: that is trained on.
      step: that the run goes on from.
      devices: that the batch is sharded over.
    """
    files.write_json(out / "config.json", config.as_dict())
    data = {
        "source": dataset.source,
        "classes": len(dataset.classes),
        "streams": list(dataset.streams),
        "train_videos": len(dataset.train.videos),
        "test_videos": len(dataset.test.videos),
        "provenance": dict(dataset.provenance),
    }
    start = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "step": step,
        "command": shlex.join(sys.argv),
        "sharded_over": devices,
        "data": data,
        "environment": environment(),
    }
    files.write_json(out / NAME, {"starts": [*_earlier(out / NAME), start]})


def _earlier(path: Path) -> list[Any]:
    """The starts that the file has; none where it is not there, or is not ours."""
    try:
        starts: list[Any] = reading.read_json(path, {"starts": list})["starts"]
    except DataError:
        return []
    return starts
