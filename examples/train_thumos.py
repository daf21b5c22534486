"""CASE on THUMOS14, or on the embedded synthetic world.

Run:     python examples/train_thumos.py                       synthetic world, a minute on 2 CPU cores
         python examples/train_thumos.py --data DIR            features in the published layout:
             DIR/gt.json  DIR/split_{train,test}.txt  DIR/features/{train,test}/{rgb,flow}/<video>.npy
Resume:  the same command with --resume.

Every option of casejax.train.config is a flag (--help lists them with the equations they belong to).
"""

import argparse
import shlex
import sys
from pathlib import Path

from casejax.data.formats import read_dataset
from casejax.data.synthetic import write_world
from casejax.train.config import Config
from casejax.train.options import add_options, config_from, run_command
from casejax.train.run import run

# The settings of the paper (appendix F.3): 300 epochs of 12 steps, 16 videos of 750 snippets a step.
THUMOS14 = Config()
# The synthetic world is smaller: fewer snippets and, for fewer steps, a larger step size. With the published omega of
# 1/3 the attention, random at first, picks the snippets it is then trained on, and some seeds settle on background; a
# larger weight of the class scores keeps them from it.
SYNTHETIC = Config().changed(num_snippets=256, epochs=60, learning_rate=1e-3, cas_weight=0.6, log_every=10)


def main() -> int:
    """Parse the command line, read the data, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in the published layout; default: a synthetic world")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/thumos14 or runs/synthetic)")
    parser.add_argument("--streams", default="rgb,flow", help="feature streams, comma-separated")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--devices", type=int, help="shard the batch over this many devices (default: all)")
    add_options(parser)
    arguments = parser.parse_args()
    out = arguments.out or Path("runs", "thumos14" if arguments.data else "synthetic")

    def command() -> None:
        config = config_from(arguments, THUMOS14 if arguments.data else SYNTHETIC)
        data = arguments.data
        if data is None:
            data = out / "world"
            if not data.exists():
                write_world(data)
        dataset = read_dataset(data, streams=tuple(arguments.streams.split(",")))
        run(dataset, config, out, resume=arguments.resume, devices=arguments.devices)

    again = [word for word in sys.argv if word != "--resume"]
    return run_command(command, hint=shlex.join(["python", *again, "--resume"]))


if __name__ == "__main__":
    sys.exit(main())
