"""`casejax convert`: a model of the published program to a run folder of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, run_command
from casejax.data.layouts import read_lines
from casejax.methods import VARIANTS
from casejax.run.config import Config
from casejax.run.conversion import convert


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="casejax convert", description=COMMANDS["convert"])
    parser.add_argument("model", type=Path, help="best_model.pkl: a PyTorch state dict; no pickle is executed")
    parser.add_argument("cluster_labels", type=Path, metavar="cls_gt.npy", help="the Q^C saved with it")
    parser.add_argument("out", type=Path, help="folder to write, for eval, predict and export")
    parser.add_argument("--classes", type=Path, help="class names in the order of the model, one a line")
    parser.add_argument("--variant", default="official", choices=VARIANTS, help="options of inference")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        classes = None if parsed.classes is None else read_lines(parsed.classes)
        config = Config.of("case", parsed.variant)
        model = convert(parsed.model, parsed.cluster_labels, parsed.out, classes=classes, config=config)
        dims, hidden, num_classes, num_clusters = model.sizes
        stage(f"{parsed.out}: streams {dims}, width {hidden}, {num_classes} classes, {num_clusters} clusters")

    return run_command(command)
