"""A2CL-PT on THUMOS14 in its own file layout, or on the embedded synthetic world.

Run:     python examples/train_a2cl_pt.py                      synthetic world, a minute on 2 CPU cores
         python examples/train_a2cl_pt.py --data DIR           DIR/annotation.json  DIR/feature_{train,val}.npy
Resume:  the same command with --resume.

Results are printed twice: by the protocol of every example here, and by that of the published program, on the grid
of snippets, without predictions in ambiguous intervals and with its mean over classes.

Every option of casejax.run.config is a flag; numbers of A2CL-PT itself go by --base-options, such as
--base-options center_weight=0.5,multi_label_from=0.2.
"""

import argparse
import shlex
import sys
from pathlib import Path

from casejax.cli.options import add_options, config_from, parse_seeds, run_command, use_compilation_cache
from casejax.data.layouts.a2cl_pt import read_a2cl_pt, write_a2cl_pt
from casejax.data.synthetic import make_world
from casejax.errors import OptionError
from casejax.evaluate.snippet_grid import A2CL_PT, evaluate_on_grid
from casejax.inference.evaluate import default_console
from casejax.records import Dataset
from casejax.report import tables as report
from casejax.run.base_options import with_base
from casejax.run.config import Config
from casejax.train.experiment import run, run_seeds

SMALL = {"epochs": 60, "batch_size": 16, "learning_rate": 1e-3, "hidden": 256, "log_every": 10}
"""Sizes for the embedded world."""


def main() -> int:
    """Parse the command line, read the data, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in A2CL-PT's layout; default: a synthetic world")
    parser.add_argument("--out", type=Path, default=Path("runs", "a2cl_pt"), help="folder of the run")
    parser.add_argument("--streams", default="rgb,flow", help="streams among which the columns are divided")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--seeds", type=parse_seeds, help="several runs and their mean, such as 0,1,2 or 0-4")
    parser.add_argument("--devices", type=int, help="shard the batch over this many devices (default: all)")
    parser.add_argument("--compilation-cache", type=Path, metavar="DIR", help="keep compiled programs there")
    add_options(parser)
    arguments = parser.parse_args()
    out = arguments.out

    def command() -> None:
        use_compilation_cache(arguments.compilation_cache)
        start = with_base(Config(), "a2cl_pt")
        config = config_from(arguments, start if arguments.data else start.changed(**SMALL))
        if config.network.base != "a2cl_pt":
            raise OptionError(f"--base {config.network.base}: this is A2CL-PT; use examples/train_thumos.py for others")
        folder = arguments.data
        if folder is None:
            folder = out / "world"
            if not folder.exists():
                write_a2cl_pt(make_world(), folder)
        dataset = read_a2cl_pt(folder, streams=tuple(arguments.streams.split(",")))
        options = {"resume": arguments.resume, "devices": arguments.devices}
        if arguments.seeds:
            results = run_seeds(dataset, config, out, arguments.seeds, **options)
        else:
            results = {config.train.seed: run(dataset, config, out, **options)}
        report_on_grid(dataset, results)

    again = [word for word in sys.argv if word != "--resume"]
    return run_command(command, hint=shlex.join(["python", *again, "--resume"]))


def report_on_grid(dataset: Dataset, results: dict) -> None:
    """Print the results of each seed by the published protocol."""
    console = default_console()
    truth = dataset.test.ground_truth(dataset.classes)
    rows = {
        f"seed {seed}": (
            evaluate_on_grid(
                result.detections,
                truth,
                dataset.classes,
                ambiguous=dataset.test.ambiguous,
                snippet_seconds=dataset.snippet_seconds,
            ),
            result.classification,
        )
        for seed, result in results.items()
        if result is not None
    }
    report.print_results(
        console,
        rows,
        protocol=A2CL_PT,
        selection="last step",
        num_videos=len(dataset.test.videos),
        num_instances=len(truth.score),
    )


if __name__ == "__main__":
    sys.exit(main())
