"""`casejax completion`: a script for the shell, made by shtab from the parsers of the commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, add_options, run_command
from casejax.cli.predict import add_flags as add_predict_flags
from casejax.cli.sources import add_data_options
from casejax.errors import OptionError
from casejax.run.config import Config, Option

SHELLS = ("bash", "zsh", "tcsh")


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="casejax completion", description=COMMANDS["completion"])
    parser.add_argument("shell", choices=SHELLS, help='such as: eval "$(casejax completion bash)"')
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        try:
            import shtab
        except ImportError:
            raise OptionError("completion needs shtab; pip install 'casejax[completion]'") from None
        stage(shtab.complete(_all_commands(), parsed.shell))

    return run_command(command)


def _all_commands() -> argparse.ArgumentParser:
    """All commands in one parser, with the flags of the default method."""
    whole = argparse.ArgumentParser(prog="casejax")
    commands = whole.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, sentence in COMMANDS.items():
        parser = commands.add_parser(name, help=sentence)
        if name in ("train", "eval", "predict"):
            own = Parser(everything=True)
            (add_predict_flags if name == "predict" else add_data_options)(own)
            add_options(own, Config.of("case"), only=_any if name == "train" else _of_inference)
            parser._actions += own._actions
            parser._option_string_actions |= own._option_string_actions
    return whole


def _any(each: Option) -> bool:
    return True


def _of_inference(each: Option) -> bool:
    return each.of_inference
