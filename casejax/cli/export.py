"""`casejax export`: a run of ours to the files of the published program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, run_command
from casejax.run.conversion import export_published


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="casejax export", description=COMMANDS["export"])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("model", type=Path, help="state dict to write, for torch.load(..., weights_only=True)")
    parser.add_argument("cluster_labels", type=Path, metavar="cls_gt.npy", help="Q^C to write")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        export_published(parsed.run, parsed.model, parsed.cluster_labels)
        stage(f"{parsed.model} and {parsed.cluster_labels} written")

    return run_command(command)
