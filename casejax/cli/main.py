"""The `casejax` command: networks in and out of the published format, and their evaluation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from casejax.cli.options import add_options, given_options, run_command
from casejax.data.layouts.annotations import read_lines
from casejax.data.layouts.published import read_dataset
from casejax.inference.evaluate import evaluate_run
from casejax.methods.case.variants import VARIANTS, variant
from casejax.run import folder
from casejax.run.folder import restore_run


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status (0, or 2 for input that cannot be used)."""
    parser = argparse.ArgumentParser(prog="casejax", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_convert, _add_export, _add_eval):
        add(commands)
    parsed = parser.parse_args(arguments)
    return run_command(lambda: parsed.command(parsed))


Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_convert(commands: Commands) -> None:  # type: ignore[valid-type]
    parser = _add(commands, "convert", _convert, "a model of the published program to a run folder of ours")
    parser.add_argument("model", type=Path, help="best_model.pkl: a PyTorch state dict; no pickle is executed")
    parser.add_argument("cluster_labels", type=Path, metavar="cls_gt.npy", help="the Q^C saved with it")
    parser.add_argument("out", type=Path, help="folder to write, for eval and export")
    parser.add_argument("--classes", type=Path, help="class names in the order of the model, one a line")
    parser.add_argument("--variant", default="official", choices=VARIANTS, help="options of inference")


def _convert(parsed: argparse.Namespace) -> None:
    classes = None if parsed.classes is None else read_lines(parsed.classes)
    model = folder.convert(
        parsed.model, parsed.cluster_labels, parsed.out, classes=classes, config=variant(parsed.variant)
    )
    dims, hidden, num_classes, num_clusters = model.sizes
    _say(f"{parsed.out}: streams {dims}, width {hidden}, {num_classes} classes, {num_clusters} clusters")


def _add_export(commands: Commands) -> None:  # type: ignore[valid-type]
    parser = _add(commands, "export", _export, "a run of ours to the files of the published program")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("model", type=Path, help="state dict to write, for torch.load(..., weights_only=True)")
    parser.add_argument("cluster_labels", type=Path, metavar="cls_gt.npy", help="Q^C to write")


def _export(parsed: argparse.Namespace) -> None:
    folder.export_published(parsed.run, parsed.model, parsed.cluster_labels)
    _say(f"{parsed.model} and {parsed.cluster_labels} written")


def _add_eval(commands: Commands) -> None:  # type: ignore[valid-type]
    parser = _add(commands, "eval", _eval, "detection mAP of a run, or of a converted model, on a test split")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder in the published layout")
    parser.add_argument("--out", type=Path, help="folder of the results (default: RUN/eval)")
    add_options(parser, groups=("inference",))


def _eval(parsed: argparse.Namespace) -> None:
    restored = restore_run(parsed.run)
    dataset = read_dataset(parsed.data, streams=tuple(restored.meta["data"]["streams"]))
    evaluate_run(restored, dataset, parsed.out or parsed.run / "eval", options=given_options(parsed))


def _add(
    commands: Commands,  # type: ignore[valid-type]
    name: str,
    command: Callable[[argparse.Namespace], None],
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=help)  # type: ignore[attr-defined]
    parser.set_defaults(command=command)
    return parser


def _say(text: str) -> None:
    print(text)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
