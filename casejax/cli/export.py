"""`casejax export`: a run as a folder for others, or as the two files of the published program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, run_command
from casejax.inference.export import export_run
from casejax.run.conversion import export_published


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    usage = "casejax export RUN FOLDER\n       casejax export RUN best_model.pkl cls_gt.npy"
    parser = Parser(prog="casejax export", usage=usage, description=COMMANDS["export"])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument(
        "out",
        type=Path,
        help="folder to write: safetensors, a program that runs without casejax, a model card; with cls_gt.npy, the "
        "state dict for torch.load(..., weights_only=True)",
    )
    parser.add_argument("cluster_labels", type=Path, nargs="?", metavar="cls_gt.npy", help="Q^C to write")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        if parsed.cluster_labels is None:
            export_run(parsed.run, parsed.out)
            stage(f"{parsed.out} written; casejax.Localizer.load({str(parsed.out)!r}) reads it")
        else:
            export_published(parsed.run, parsed.out, parsed.cluster_labels)
            stage(f"{parsed.out} and {parsed.cluster_labels} written")

    return run_command(command)
