"""`casejax compare`: several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, run_command
from casejax.errors import OptionError
from casejax.inference.evaluate import default_console
from casejax.report.comparison import comparison_summary, print_comparison, read_finished
from casejax.runtime.files import plain


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="casejax compare", description=COMMANDS["compare"])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of runs seed-N")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        if len({folder.resolve() for folder in parsed.runs}) < len(parsed.runs):
            raise OptionError(f"{', '.join(map(str, parsed.runs))}: names a run twice; name each once")
        runs = [read_finished(folder) for folder in parsed.runs]
        if parsed.json:
            stage(json.dumps(plain(comparison_summary(runs)), indent=1, allow_nan=False))
        else:
            print_comparison(default_console(), runs)

    return run_command(command)
