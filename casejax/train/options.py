"""Every option of a configuration as a command-line flag, and the way a command fails."""

from __future__ import annotations

import argparse
import signal
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from casejax.data.records import DataError
from casejax.train.checkpoint import CheckpointError
from casejax.train.config import Config, OptionError
from casejax.train.loop import DivergedError, Interrupted


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one flag for every option of `Config`, grouped as there; `config_from` reads them."""
    defaults = Config()
    for part in fields(Config):
        group_values = getattr(defaults, part.name)
        group = parser.add_argument_group(part.name, type(group_values).__doc__)
        hints = get_type_hints(type(group_values))
        for field in fields(group_values):
            default = getattr(group_values, field.name)
            shown = f"{default:.4g}" if isinstance(default, float) else default
            # SUPPRESS leaves the attribute out unless the flag was given, so a base can differ.
            keywords: dict[str, Any] = {
                "dest": field.name,
                "default": argparse.SUPPRESS,
                "help": f"{field.metadata['help']} (default: {shown})".replace("%", "%%"),
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


def config_from(arguments: argparse.Namespace, base: Config) -> Config:
    """`base` with the options that were given on the command line."""
    names = {field.name for part in fields(Config) for field in fields(getattr(base, part.name))}
    config = base.changed(**{name: value for name, value in vars(arguments).items() if name in names})
    config.check()
    return config


def run_command(command: Callable[[], None], hint: str) -> int:
    """Run a command; turn its errors into one line on standard error and an exit status.

    Args:
      command: what to run.
      hint: the command line that resumes it.

    Returns:
      0; 2 for input or options that cannot be used; 1 for a diverged run; 128 + the signal for one that
      was stopped and saved.
    """
    try:
        command()
    except Interrupted as stopped:
        name = signal.Signals(stopped.signum).name
        print(f"{name}: saved at step {stopped.step}; go on with: {hint}", file=sys.stderr)  # noqa: T201
        return 128 + stopped.signum
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except (DataError, CheckpointError, OptionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _parser_of(hint: Any) -> Callable[[str], Any]:
    if isinstance(hint, types.UnionType):
        inner = next(part for part in typing.get_args(hint) if part is not type(None))

        def parse(text: str) -> Any:
            return None if text.lower() == "none" else inner(text)

        parse.__name__ = inner.__name__
        return parse
    return hint
