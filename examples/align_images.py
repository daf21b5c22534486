"""Learning to align videos of the same action from their pictures, as GTA was published.

Run:     python examples/align_images.py --data DIR --weights resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5
         python examples/align_images.py                invented videos and a small network, no data needed
Reads:   DIR/train/ACTION/VIDEO/0001.png ... and DIR/test/ACTION/VIDEO/0001.png ..., PNG or JPEG; with phases.txt beside
         the pictures, a whole number a line, phases are measured too. With --finegym the annotations' own folder.
Prints:  Kendall's tau of the clock control, of the backbone and of each method, under the published protocol and on
         frames t >= 15 alone; accuracy on phases and progression where there are phases.
Writes:  OUT/tables.txt, OUT/results.json, OUT/<method>/checkpoints, with --activations OUT/pictures/<action>.png
Resume:  the same command with --resume.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from casejax.alignment.data import read_finegym_folder, read_frame_videos, reorganise_videos, write_blob_videos
from casejax.alignment.train import METHODS, ImageConfig, run_image_benchmark
from casejax.alignment.train.image_trainer import SMALL, TRAINED
from casejax.cli.options import run_command, use_compilation_cache


def main() -> int:
    """Parse the command line, list the videos, run."""
    default = ImageConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of videos as folders of pictures; default: invented videos")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/images or runs/blobs)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--weights", type=Path, help="Keras' .h5 file of ResNet50V2; default: random weights")
    parser.add_argument("--train", choices=TRAINED, help=f"what of the backbone is trained ({default.trained})")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["gta"], help="default: gta")
    parser.add_argument("--steps", type=int, help=f"training steps, 0 for none ({default.steps})")
    parser.add_argument("--size", type=int, help=f"height and width of pictures ({default.size})")
    parser.add_argument("--learning-rate", type=float, help=f"of Adam ({default.learning_rate})")
    parser.add_argument("--seed", type=int, default=0, help="of everything (%(default)s)")
    parser.add_argument("--activations", type=int, default=0, metavar="N", help="draw what is looked at in N frames")
    parser.add_argument("--finegym", type=Path, metavar="DIR", help="order the sets by FineGym's files there")
    parser.add_argument("--gym", choices=("gym99", "gym288"), default="gym99", help="FineGym's list (%(default)s)")
    parser.add_argument("--fps", type=float, default=25.0, help="of the pictures, for FineGym (%(default)s)")
    parser.add_argument("--compilation-cache", type=Path, help="folder for compiled programs, for the next run")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs", "images" if arguments.data else "blobs")

    def command() -> None:
        use_compilation_cache(arguments.compilation_cache)
        data = arguments.data or out / "world" / str(arguments.seed)
        if arguments.data is None:
            write_blob_videos(data, seed=arguments.seed)
        videos = read_frame_videos(data)
        if arguments.finegym is not None:
            events = read_finegym_folder(arguments.finegym, name=arguments.gym)
            videos = reorganise_videos(videos, events, frames_per_second=arguments.fps)
        given = {
            "trained": arguments.train,
            "steps": arguments.steps,
            "size": arguments.size,
            "learning_rate": arguments.learning_rate,
        }
        config = default if arguments.data else SMALL
        run_image_benchmark(
            videos,
            replace(config, **{name: value for name, value in given.items() if value is not None}),
            out,
            methods=arguments.methods,
            seed=arguments.seed,
            weights=arguments.weights,
            elements=arguments.finegym is not None,
            activations=arguments.activations,
            resume=arguments.resume,
        )

    again = [word for word in sys.argv if word != "--resume"]
    return run_command(command, ["python", *again, "--resume"])


if __name__ == "__main__":
    sys.exit(main())
