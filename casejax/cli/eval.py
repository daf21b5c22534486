"""`casejax eval`: a run, or a converted network, on the test videos of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, add_options, asks_for_all, parse_for_run, run_command
from casejax.cli.sources import (
    add_data_options,
    add_protocol_options,
    check_sources,
    given_protocol,
    given_timing,
    read_data,
)
from casejax.errors import OptionError
from casejax.inference.evaluate import evaluate_run, usual_protocol
from casejax.run.config import Config


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    words = list(words)
    usage = "casejax eval RUN --data DIR [options]"
    parser = Parser(everything=asks_for_all(words), prog="casejax eval", usage=usage, description=COMMANDS["eval"])
    parser.add_argument("run", type=Path, help="folder of a run")
    add_data_options(parser)
    parser.add_argument("--out", type=Path, help="folder of the results (RUN/eval)")
    add_protocol_options(parser, "as in training: case, or activitynet; on all videos")
    parser.add_helps()
    if asks_for_all(words) or {"-h", "--help"} & set(words):
        add_options(parser, Config.of("case"), only=lambda each: each.of_inference)
        parser.parse_args(words)

    def command() -> None:
        restored, parsed = parse_for_run(parser, words)
        check_sources(parsed)
        if parsed.data is None and parsed.features is None:
            raise OptionError("name the data set: --data DIR, or --features DIR with --labels CSV")
        stage(f"reading {parsed.data or parsed.features}")
        if (timing := given_timing(parsed)) is not None:
            restored.check_timing(timing, "the option")
        data = restored.meta["data"]
        dataset = read_data(
            parsed,
            timing=restored.timing,
            streams=tuple(data["streams"]),
            classes=tuple(data["classes"]),
            only_test=True,
        )
        protocol = given_protocol(parsed, usual_protocol(restored.config, dataset))
        evaluate_run(restored, dataset, parsed.out or parsed.run / "eval", protocol=protocol)

    return run_command(command)
