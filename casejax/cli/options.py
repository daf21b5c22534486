"""Flags from the options of a configuration, and the way a command fails."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import jax

from casejax.data import store
from casejax.errors import (
    CheckpointError,
    DataError,
    DataWarning,
    DivergedError,
    Interrupted,
    OptionError,
    PeerLostError,
    TrainingWarning,
)
from casejax.run.config import Config, Option
from casejax.run.folder import Restored, restore_run
from casejax.runtime.distributed import join

HEADINGS = {
    "settings": "settings of {}",
    "head": "clustering head",
    "schedule": "schedule",
    "localization": "localization",
    "training": "run",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help is short unless all of it is asked for.

    Args:
      everything: whether `--help-all` was given.
      **keywords: as for `argparse.ArgumentParser`.
    """

    def __init__(self, *, everything: bool = False, **keywords: Any) -> None:
        super().__init__(
            allow_abbrev=False, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter, **keywords
        )
        self.everything = everything

    def error(self, message: str) -> NoReturn:
        """End with one line on standard error."""
        self.exit(2, f"error: {message}; --help says more\n")

    def add_helps(self) -> None:
        """Add the two flags of help, at the end of the common ones."""
        self.add_argument("-h", "--help", action="help", help="show the common options and exit")
        self.add_argument("--help-all", action="help", help="show every option of the method and exit")


def asks_for_all(words: Iterable[str]) -> bool:
    """Whether all of the help is asked for."""
    return "--help-all" in words


def add_options(
    parser: Parser,
    config: Config,
    *,
    common: Sequence[str] = (),
    only: Callable[[Option], bool] = lambda each: True,
) -> None:
    """Add a flag for every option of a configuration that is one; `given_options` reads them.

    Args:
      parser: gains the flags.
      config: whose options, with the values that the help names as defaults.
      common: those that the short help names.
      only: which of them.
    """
    groups: dict[str, Any] = {}
    for each in config.options():
        if not each.meta("flag") or not each.meta("help") or not only(each):
            continue
        if each.group not in groups:
            groups[each.group] = parser.add_argument_group(HEADINGS[each.group].format(config.method.name))
        shown = ", ".join(f"{x:.4g}" if isinstance(x, float) else f"{x}" for x in _listed(each.value))
        told = parser.everything or each.name in common
        keywords: dict[str, Any] = {
            "dest": each.name,
            "default": argparse.SUPPRESS,
            "help": f"{each.meta('help')} ({shown})".replace("%", "%%") if told else argparse.SUPPRESS,
        }
        if each.hint is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif get_origin(each.hint) is Literal:
            keywords["choices"] = get_args(each.hint)
        else:
            keywords["type"] = _parser_of(each.hint)
            keywords["metavar"] = "X"
        groups[each.group].add_argument(f"--{each.name.replace('_', '-')}", **keywords)


def add_run_options(parser: Parser) -> None:
    """Add the flags that say where a run runs, and change nothing of what it computes."""
    add = _adder(parser, "where it runs")
    add("--packed", "pack the features there once, then map them", type=Path, metavar="DIR")
    add("--packed-dtype", "type of packed features (float32)", choices=store.DTYPES, default="float32")
    add("--compilation-cache", "keep compiled programs there for later runs", type=Path, metavar="DIR")


def add_cluster_options(parser: Parser) -> None:
    """Add the flags by which several processes become one run; `join_cluster` acts on them."""
    add = _adder(parser, "several processes")
    add("--distributed", "run on all processes of the cluster that JAX finds", action="store_true")
    add("--coordinator", "HOST:PORT of process 0, where no cluster is found", metavar="HOST:PORT")
    add("--num-processes", "with --coordinator: processes in all", type=int, metavar="N")
    add("--process-id", "with --coordinator: which of them this is", type=int, metavar="I")
    add("--peer-timeout", "seconds until a silent process counts as lost (60)", type=int, default=60, metavar="S")


def join_cluster(arguments: argparse.Namespace) -> None:
    """Join the processes of a run, as the flags of `add_cluster_options` say; before anything uses a device.

    Raises:
      OptionError: as `runtime.distributed.join`.
    """
    join(
        coordinator=arguments.coordinator,
        num_processes=arguments.num_processes,
        process_id=arguments.process_id,
        distributed=arguments.distributed,
        peer_timeout=arguments.peer_timeout,
    )


def _adder(parser: Parser, heading: str) -> Callable[..., None]:
    """What adds flags that the short help leaves out."""
    group = parser.add_argument_group(heading)

    def add(name: str, help: str, **keywords: Any) -> None:
        group.add_argument(name, help=help if parser.everything else argparse.SUPPRESS, **keywords)

    return add


def use_compilation_cache(folder: Path | None) -> None:
    """Keep compiled programs in a folder, and take them from there; None leaves JAX as it is configured."""
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def parse(parser: Parser, words: list[str], config: Config) -> argparse.Namespace:
    """The parsed words of a command line.

    Raises:
      OptionError: a flag that the method of `config` does not have; the message lists those it has.
    """
    arguments, unknown = parser.parse_known_args(words)
    flags = [word for word in unknown if word.startswith("-")]
    if flags:
        raise OptionError(config.refusal([flag.split("=")[0] for flag in flags]))
    if unknown:
        parser.error(f"{unknown[0]!r} belongs to no option")
    return arguments


def given_options(arguments: argparse.Namespace, config: Config) -> dict[str, Any]:
    """The options of a configuration that were given on the command line, by name."""
    names = config.flat()
    return {name: value for name, value in vars(arguments).items() if name in names}


def parse_for_run(parser: Parser, words: list[str]) -> tuple[Restored, argparse.Namespace]:
    """A run with its options of inference as the flags change them, and all parsed words.

    Args:
      parser: has the word `run`, and gains the run's options of inference.
      words: of the command line.

    Raises:
      CheckpointError: no network in the folder of the run.
      OptionError: as `parse` and `configured`.
    """
    restored = restore_run(parser.parse_known_args(words)[0].run)
    add_options(parser, restored.config, only=lambda each: each.of_inference)
    arguments = parse(parser, words, restored.config)
    config = configured(restored.config, given_options(arguments, restored.config))
    return restored._replace(config=config), arguments


def configured(config: Config, given: Mapping[str, Any]) -> Config:
    """A configuration with given options, checked.

    Raises:
      OptionError: a value that no run can use, or an option without any effect beside the others.
    """
    changed = config.changed(**given)
    changed.check()
    idle = [each for each in changed.options() if each.name in given and not each.acts]
    if idle:
        first = idle[0]
        names = ", ".join(each.name for each in changed.options() if each.owner is first.owner and _decides(each))
        raise OptionError(
            f"--{first.name.replace('_', '-')} {first.value} has no effect beside the other options; leave it out, "
            f"or change the one of {names} that it depends on"
        )
    return changed


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


def run_command(command: Callable[[], object], again: Iterable[str] = ()) -> int:
    """Run a command; turn its errors into one line on standard error and an exit status.

    Args:
      command: what to run.
      again: the words that resume it, where it can be.

    Returns:
      What the command returns, 0 where that is no number; 2 for input or options that cannot be used, and for a run
      that diverged; 3 for a run that was stopped or lost a process, and can be resumed; 130 for Ctrl-C at a moment at
      which nothing can be saved.
    """
    again = list(again)
    with warnings.catch_warnings():
        warnings.simplefilter("default", DataWarning)
        warnings.simplefilter("default", TrainingWarning)
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **keywords: Any) -> None:
            if issubclass(category, (DataWarning, TrainingWarning)):
                say(f"warning: {message}")
            else:
                shown(message, category, *place, **keywords)

        warnings.showwarning = show
        try:
            status = command()
        except Interrupted as stopped:
            name = signal.Signals(stopped.signum).name
            say(f"{name}: saved at step {stopped.step}; go on with: {shlex.join(again)}")
            return 3
        except KeyboardInterrupt:
            say(f"interrupted; what was saved before stays{f', go on with: {shlex.join(again)}' if again else ''}")
            return 130
        except PeerLostError as error:
            say(f"error: {error}")
            return 3
        except (DataError, CheckpointError, OptionError, DivergedError, OSError) as error:
            say(f"error: {error}")
            return 2
    return status if isinstance(status, int) else 0


def say(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def _decides(each: Option) -> bool:
    """Whether other options of its group may depend on it."""
    return each.hint is bool or get_origin(each.hint) is Literal


def _parser_of(hint: Any) -> Callable[[str], Any]:
    if get_origin(hint) is tuple:
        return numbers
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


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(float(part) for part in text.split(","))


numbers.__name__ = "list of numbers"


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
