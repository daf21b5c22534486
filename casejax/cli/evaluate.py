"""`casejax evaluate`: anybody's results file against anybody's annotations, under a protocol by name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from casejax.cli.main import COMMANDS
from casejax.cli.options import Parser, run_command
from casejax.cli.sources import add_protocol_options, given_protocol
from casejax.errors import DataError
from casejax.evaluate.protocols import CASE
from casejax.inference.evaluate import default_console
from casejax.inference.judging import judge_file, judged_summary, print_judged, read_truth
from casejax.records import SNIPPET_SECONDS
from casejax.runtime.files import write_json

STANDARD_OUTPUT = Path("-")
FRAMES = 16  # of a snippet, for --fps


def main(words: list[str]) -> int:
    """Judge a results file; returns 0, or 2 for input that cannot be used."""
    parser = Parser(prog="casejax evaluate", description=COMMANDS["evaluate"])
    add = parser.add_argument
    add("predictions", type=Path, help='results file: {"results": {VIDEO: [{"label", "score", "segment"}, ...]}}')
    add("--truth", type=Path, required=True, metavar="GT", help="annotation file (JSON)")
    add_protocol_options(parser, "case")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--subset", metavar="WORD", help="annotated videos to judge on (those to test or validate)")
    which.add_argument("--split", type=Path, metavar="FILE", help="their ids, one a line")
    add("--classes", type=Path, metavar="FILE", help="class names, one a line (those of GT)")
    grid = parser.add_mutually_exclusive_group()
    seconds = f"what a snippet covers ({SNIPPET_SECONDS:g})"
    grid.add_argument("--snippet-seconds", type=_positive, metavar="S", help=seconds)
    grid.add_argument("--fps", type=_positive, help=f"the same from frames a second: {FRAMES} frames a snippet")
    add("--ambiguous", type=Path, metavar="FILE", help="ambiguous intervals: lines of ID START END, or JSON")
    add("--resamples", type=_count, default=1000, metavar="N", help="of the bootstrap over videos (1000)")
    add(
        "--json",
        type=Path,
        nargs="?",
        const=STANDARD_OUTPUT,
        metavar="FILE",
        help="write all of it as JSON; without FILE, print that alone",
    )
    parser.add_helps()
    parsed = parser.parse_args(words)
    snippet_seconds = FRAMES / parsed.fps if parsed.fps else parsed.snippet_seconds or SNIPPET_SECONDS

    def command() -> None:
        if parsed.json is not None and parsed.json.is_dir():
            raise DataError(f"--json {parsed.json}: is a folder; name a file in it")
        truth = read_truth(
            parsed.truth,
            subset=parsed.subset,
            split=parsed.split,
            classes=parsed.classes,
            ambiguous=parsed.ambiguous,
        )
        judged = judge_file(
            parsed.predictions,
            truth,
            given_protocol(parsed, CASE),
            snippet_seconds=snippet_seconds,
            num_resamples=parsed.resamples,
        )
        if parsed.json == STANDARD_OUTPUT:
            print(json.dumps(judged_summary(judged), indent=1))  # noqa: T201
            return
        print_judged(default_console(), judged)
        if parsed.json is not None:
            write_json(parsed.json, judged_summary(judged))

    return run_command(command)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


_positive.__name__, _count.__name__ = "number", "whole number"
