"""The worlds that `casejax train` composes itself: they are written beside the run, then read like any data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from casejax.cli.main import PENN_UNTRIMMED, stage
from casejax.data.layouts import LAYOUTS
from casejax.data.synthetic import make_world
from casejax.data.untrimmed_motion import make_untrimmed_motion
from casejax.errors import OptionError
from casejax.runtime.distributed import is_first, wait_for_all

SYNTHETIC_WORLD = "synthetic"
"""What is trained on where no data is named."""


def world_of(dataset: str, data: Path | None, features: Path | None) -> str | None:
    """The name of the world that the flags ask for; None for data that is read as it is."""
    if dataset == PENN_UNTRIMMED:
        return dataset
    return SYNTHETIC_WORLD if data is None and features is None else None


def check_world(world: str | None, arguments: argparse.Namespace) -> None:
    """Refuse flags that do not go with a world, or with none.

    Raises:
      OptionError: naming them.
    """
    if world is None and arguments.world_seed is not None:
        raise OptionError(
            f"--world-seed {arguments.world_seed} is for worlds that are composed here; leave it out, or the data"
        )
    if world == PENN_UNTRIMMED and (arguments.data is None or arguments.features is not None):
        raise OptionError(
            f"--dataset {PENN_UNTRIMMED} is composed of Penn Action's labels; give their folder by --data LABELS, and "
            "no --features"
        )


def write_world(world: str, arguments: argparse.Namespace, out: Path) -> None:
    """Write a world below `out` unless it is there, and point `--data` and `--layout` to it.

    Raises:
      OptionError: `--layout` is one that nothing is written in.
      DataError: labels that cannot be used.
    """
    seed = arguments.world_seed or 0
    name = "world" if world == SYNTHETIC_WORLD and seed == 0 else f"{world}-{seed}"
    folder = out / name
    arguments.layout = arguments.layout or "published"
    write = LAYOUTS[arguments.layout].write
    if write is None:
        able = ", ".join(name for name, layout in LAYOUTS.items() if layout.write)
        raise OptionError(f"--layout {arguments.layout} needs --data DIR; the {world} world is written as {able}")
    if is_first() and not folder.exists():
        if world == PENN_UNTRIMMED:
            stage(f"composing untrimmed videos of {arguments.data}")
            write(make_untrimmed_motion(arguments.data, seed=seed), folder)
        else:
            write(make_world(seed=seed), folder)
    wait_for_all("the world is written")
    arguments.data = folder
