"""`casejax report`: one HTML page about finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, run_command
from casejax.errors import DataError, OptionError
from casejax.report.page import write_page


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="casejax report", description=COMMANDS["report"])
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, of casejax eval, or of runs seed-N")
    add("--out", type=Path, metavar="FILE", help="the page (report.html in the first folder)")
    add("--videos", metavar="A,B", help="test videos whose timelines are shown (some, evenly over the lengths)")
    add("--timelines", type=int, default=6, metavar="N", help="how many, where none are named (6)")
    add("--tiou", type=float, metavar="X", help="threshold of the error analysis (0.5)")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        if len({folder.resolve() for folder in parsed.runs}) < len(parsed.runs):
            raise OptionError(f"{', '.join(map(str, parsed.runs))}: names a run twice; name each once")
        if parsed.timelines < 0:
            raise OptionError(f"--timelines {parsed.timelines} is no number of videos; pass 0 or more")
        if parsed.tiou is not None and not 0 < parsed.tiou <= 1:
            raise OptionError(f"--tiou {parsed.tiou} is no threshold; it must lie in (0, 1]")
        out = parsed.out or parsed.runs[0] / "report.html"
        if out.is_dir():
            raise DataError(f"--out {out}: is a folder; name a file in it")
        videos = tuple(parsed.videos.split(",")) if parsed.videos else ()
        try:
            write_page(out, parsed.runs, videos=videos, timelines=parsed.timelines, tiou=parsed.tiou)
        except ImportError as error:
            raise OptionError(str(error)) from error
        stage(f"{out} written; open it in a browser")

    return run_command(command)
