"""Every option of a configuration as a command-line flag, and the way a command fails."""

from __future__ import annotations

import argparse
import signal
import sys
import types
import typing
from collections.abc import Callable, Container
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax

from casejax.data import store
from casejax.errors import CheckpointError, DataError, DivergedError, Interrupted, OptionError, PeerLostError
from casejax.run.base_options import with_base
from casejax.run.config import Config
from casejax.runtime import distributed


def add_options(parser: argparse.ArgumentParser, *, groups: Container[str] | None = None) -> None:
    """Add one flag for every option of `Config`, grouped as there; `config_from` reads them.

    Args:
      parser: gains the flags.
      groups: names of the groups to add; default all.
    """
    for name, group_values in Config().groups().items():
        if groups is not None and name not in groups:
            continue
        group = parser.add_argument_group(name, type(group_values).__doc__)
        hints = get_type_hints(type(group_values))
        for field in fields(group_values):
            default = getattr(group_values, field.name)
            shown = ", ".join(f"{x:.4g}" if isinstance(x, float) else f"{x}" for x in _listed(default))
            # SUPPRESS leaves the attribute out unless the flag was given, so a base can differ.
            keywords: dict[str, Any] = {
                "dest": field.name,
                "default": argparse.SUPPRESS,
                "help": f"{field.metadata['help']} (official: {shown})".replace("%", "%%"),
            }
            hint = hints[field.name]
            if hint is bool:
                keywords["action"] = argparse.BooleanOptionalAction
            elif get_origin(hint) is Literal:
                keywords["choices"] = get_args(hint)
            else:
                keywords["type"] = _parser_of(hint)
                keywords["metavar"] = "X"
            group.add_argument(f"--{field.name.replace('_', '-')}", **keywords)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where and how a run runs, and change nothing of what it computes."""
    group = parser.add_argument_group("where it runs")
    group.add_argument("--devices", type=int, help="shard the batch over this many devices (default: all)")
    group.add_argument("--packed", type=Path, metavar="DIR", help="pack the features there once, then map them")
    group.add_argument(
        "--packed-dtype", choices=store.DTYPES, default="float32", help="type of packed features (float32)"
    )
    group.add_argument(
        "--compilation-cache", type=Path, metavar="DIR", help="keep compiled programs there for later runs"
    )


def use_compilation_cache(folder: Path | None) -> None:
    """Keep compiled programs in a folder, and take them from there; None leaves JAX as it is configured."""
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def config_from(arguments: argparse.Namespace, base: Config) -> Config:
    """`base` with the options that were given on the command line."""
    config = base.changed(**given_options(arguments))
    config.check()
    return config


def started_from(arguments: argparse.Namespace, start: Config) -> Config:
    """`start` with the settings of the base that the command line names, if it names one."""
    base, case = getattr(arguments, "base", None), getattr(arguments, "case", None)
    if base is None and case is False:
        base = "baseline"  # CASE without its head
    return start if base in (None, "case") else with_base(start, base, case=bool(case))


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `Config` that were given on the command line, by name."""
    names = Config().flat()
    return {name: value for name, value in vars(arguments).items() if name in names}


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds from `3`, `0,1,5` or `0-4` (both ends included).

    Raises:
      argparse.ArgumentTypeError: anything else, or a seed named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds; write 3, or 0,1,5, or 0-4")
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} must name each seed once, the smaller end of a range first")
    return tuple(seeds)


def run_command(command: Callable[[], object], hint: str = "") -> int:
    """Run a command; turn its errors into one line on standard error and an exit status.

    Args:
      command: what to run.
      hint: the command line that resumes it, where one can.

    Returns:
      0; 2 for input or options that cannot be used; 1 for a run that diverged or lost a process; 128 + the
      signal for one that was stopped and saved.
    """
    try:
        command()
    except Interrupted as stopped:
        name = signal.Signals(stopped.signum).name
        print(f"{name}: saved at step {stopped.step}; go on with: {hint}", file=sys.stderr)  # noqa: T201
        return 128 + stopped.signum
    except (DivergedError, PeerLostError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (DataError, CheckpointError, OptionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _parser_of(hint: Any) -> Callable[[str], Any]:
    if get_origin(hint) is tuple:
        return _numbers
    if not isinstance(hint, types.UnionType):
        return hint
    parts = typing.get_args(hint)
    inner = next(part for part in parts if part is not type(None))
    if type(None) not in parts:
        return inner

    def parse(text: str) -> Any:
        return None if text.lower() == "none" else inner(text)

    parse.__name__ = inner.__name__
    return parse


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


_numbers.__name__ = "list of numbers"


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `join` reads."""
    group = parser.add_argument_group("several processes", "start the same command once on every host")
    group.add_argument(
        "--distributed",
        action="store_true",
        help="find the other processes from SLURM, Open MPI, Kubernetes or Cloud TPU, whichever started this one",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, where nothing is found")
    group.add_argument("--num-processes", type=int, metavar="N", help="processes in all, with --coordinator")
    group.add_argument("--process-id", type=int, metavar="I", help="which of them this one is, from 0")
    group.add_argument(
        "--peer-timeout", type=int, default=60, metavar="S", help="seconds after which a silent process is lost (60)"
    )


def join(arguments: argparse.Namespace) -> None:
    """Join the processes of a run, if the flags of `add_cluster_options` ask for it.

    Raises:
      OptionError: as `distributed.join`.
    """
    names = ("coordinator", "num_processes", "process_id", "distributed", "peer_timeout")
    distributed.join(**{name: getattr(arguments, name) for name in names})
