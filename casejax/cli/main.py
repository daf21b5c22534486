"""The `casejax` command: train a method, evaluate a run or a results file, carry networks in and out as published."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from casejax.cli import evaluate, train
from casejax.cli.options import Parser, add_options, asks_for_all, configured, given_options, parse, run_command
from casejax.data.layouts import LAYOUTS, read_lines
from casejax.evaluate.protocols import PROTOCOLS
from casejax.inference.evaluate import evaluate_run
from casejax.methods import VARIANTS
from casejax.run.config import Config
from casejax.run.conversion import convert, export_published
from casejax.run.folder import restore_run


def main(words: list[str] | None = None) -> int:
    """Run one command; returns its exit status (0, or 2 for input that cannot be used)."""
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    parser = Parser(prog="casejax", description=__doc__)
    parser.add_argument("command", choices=COMMANDS, help="what to do; COMMAND --help says more")
    parser.add_helps()
    parser.parse_args(words)
    return 2


def _convert(words: list[str]) -> int:
    parser = Parser(prog="casejax convert", description="a model of the published program to a run folder of ours")
    parser.add_argument("model", type=Path, help="best_model.pkl: a PyTorch state dict; no pickle is executed")
    parser.add_argument("cluster_labels", type=Path, metavar="cls_gt.npy", help="the Q^C saved with it")
    parser.add_argument("out", type=Path, help="folder to write, for eval and export")
    parser.add_argument("--classes", type=Path, help="class names in the order of the model, one a line")
    parser.add_argument("--variant", default="official", choices=VARIANTS, help="options of inference")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        classes = None if parsed.classes is None else read_lines(parsed.classes)
        config = Config.of("case", parsed.variant)
        model = convert(parsed.model, parsed.cluster_labels, parsed.out, classes=classes, config=config)
        dims, hidden, num_classes, num_clusters = model.sizes
        _say(f"{parsed.out}: streams {dims}, width {hidden}, {num_classes} classes, {num_clusters} clusters")

    return run_command(command)


def _export(words: list[str]) -> int:
    parser = Parser(prog="casejax export", description="a run of ours to the files of the published program")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("model", type=Path, help="state dict to write, for torch.load(..., weights_only=True)")
    parser.add_argument("cluster_labels", type=Path, metavar="cls_gt.npy", help="Q^C to write")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        export_published(parsed.run, parsed.model, parsed.cluster_labels)
        _say(f"{parsed.model} and {parsed.cluster_labels} written")

    return run_command(command)


def _eval(words: list[str]) -> int:
    description = "detection mAP of a run, or of a converted model, on a test split"
    parser = Parser(everything=asks_for_all(words), prog="casejax eval", description=description)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--layout", choices=LAYOUTS, default="published", help="of that folder (published)")
    parser.add_argument("--out", type=Path, help="folder of the results (default: RUN/eval)")
    protocol_help = "how detections are judged (that of case on all videos of the split)"
    parser.add_argument("--protocol", choices=PROTOCOLS, help=protocol_help)
    parser.add_helps()
    if asks_for_all(words) or {"-h", "--help"} & set(words):
        add_options(parser, Config.of("case"), only=lambda each: each.of_inference)
        parser.parse_args(words)

    def command() -> None:
        first, _ = parser.parse_known_args(words)
        restored = restore_run(first.run)
        add_options(parser, restored.config, only=lambda each: each.of_inference)
        parsed = parse(parser, words, restored.config)
        config = configured(restored.config, given_options(parsed, restored.config))
        dataset = LAYOUTS[parsed.layout].read(parsed.data, streams=tuple(restored.meta["data"]["streams"]))
        protocol = None if parsed.protocol is None else PROTOCOLS[parsed.protocol]
        evaluate_run(restored._replace(config=config), dataset, parsed.out or parsed.run / "eval", protocol=protocol)

    return run_command(command)


def _say(text: str) -> None:
    print(text)  # noqa: T201


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train.main,
    "eval": _eval,
    "evaluate": evaluate.main,
    "convert": _convert,
    "export": _export,
}


if __name__ == "__main__":
    sys.exit(main())
