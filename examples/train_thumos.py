"""CASE on THUMOS14, or on the embedded synthetic world.

Run:     python examples/train_thumos.py                       synthetic world, a minute on 2 CPU cores
         python examples/train_thumos.py --data DIR            features in the published layout:
             DIR/gt.json  DIR/split_{train,test}.txt  DIR/features/{train,test}/{rgb,flow}/<video>.npy
Resume:  the same command with --resume.

Compare: --variant official | paper | corrected, --seeds 0-4 for mean and standard deviation.
Bases:   --base co2net, with the clustering head of CASE --base co2net --case; --help lists them.

Every option of casejax.run.config is a flag (--help lists them with the equations they belong to).
"""

import argparse
import shlex
import sys
from pathlib import Path

from casejax.cli.options import (
    add_cluster_options,
    add_options,
    add_run_options,
    config_from,
    join,
    parse_seeds,
    run_command,
    started_from,
    use_compilation_cache,
)
from casejax.cli.train import SYNTHETIC
from casejax.data.layouts.published import read_dataset
from casejax.data.synthetic import write_world
from casejax.methods.case.variants import VARIANTS, variant
from casejax.runtime.distributed import is_first, own_part, wait_for_all
from casejax.train.experiment import run, run_seeds


def main() -> int:
    """Parse the command line, read the data, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in the published layout; default: a synthetic world")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/thumos14 or runs/synthetic)")
    parser.add_argument("--streams", default="rgb,flow", help="feature streams, comma-separated")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--variant", default="corrected", choices=VARIANTS, help="options to start from (corrected)")
    parser.add_argument("--seeds", type=parse_seeds, help="several runs and their mean, such as 0,1,2 or 0-4")
    add_run_options(parser)
    add_cluster_options(parser)
    add_options(parser)
    arguments = parser.parse_args()
    out = arguments.out or Path("runs", "thumos14" if arguments.data else "synthetic")

    def command() -> None:
        join(arguments)
        use_compilation_cache(arguments.compilation_cache)
        start = started_from(arguments, variant(arguments.variant))
        config = config_from(arguments, start if arguments.data else start.changed(**SYNTHETIC))
        data = arguments.data
        if data is None:
            data = out / "world"
            if is_first() and not data.exists():
                write_world(data)
            wait_for_all("the world is written")
        part, parts = own_part(config.train.data_parts)
        dataset = read_dataset(
            data,
            streams=tuple(arguments.streams.split(",")),
            packed=arguments.packed,
            packed_dtype=arguments.packed_dtype,
            part=part,
            parts=parts,
        )
        options = {"resume": arguments.resume, "devices": arguments.devices}
        if arguments.seeds:
            run_seeds(dataset, config, out, arguments.seeds, **options)
        else:
            run(dataset, config, out, **options)

    again = [word for word in sys.argv if word != "--resume"]
    return run_command(command, hint=shlex.join(["python", *again, "--resume"]))


if __name__ == "__main__":
    sys.exit(main())
