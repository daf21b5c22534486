"""One process of several in test_distributed.py: joins, reads its part of the data, trains, reports.

Arguments: DATA OUT CONFIG.json REPORT, then the flags of `casejax.cli.options.add_cluster_options`. REPORT receives the
feature files that were opened (a line each, as they are), then "trained" with the final loss.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from casejax.cli.options import Parser, add_cluster_options, join_cluster, run_command
from casejax.data.layouts.published import read_dataset
from casejax.run.config import Config
from casejax.runtime import distributed, mesh
from casejax.train import loop


def main() -> None:
    """Train as the arguments say."""
    parser = Parser()
    for name in ("data", "out", "config", "report"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--resume", action="store_true")
    add_cluster_options(parser)
    arguments = parser.parse_args()
    join_cluster(arguments)

    def note_opened(event: str, details: tuple[object, ...]) -> None:
        if event == "open" and str(details[0]).endswith(".npy"):
            with arguments.report.open("a") as file:
                file.write(f"{details[0]}\n")

    sys.addaudithook(note_opened)
    config = Config.from_dict(json.loads(arguments.config.read_text()))
    part, parts = distributed.own_part(config.training.data_parts)
    dataset = read_dataset(arguments.data, part=part, parts=parts)
    trained = loop.train(dataset, config, arguments.out, resume=arguments.resume)
    params = mesh.local(trained.state.params)
    if distributed.is_first():
        np.savez(arguments.out / "params.npz", *jax.tree.leaves(params))


if __name__ == "__main__":
    sys.exit(run_command(main))
