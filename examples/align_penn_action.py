"""Learning to align videos of the same action from Penn Action's annotated poses, by six methods.

Run:     python examples/align_penn_action.py --data DIR     DIR/labels/0001.mat ... as published
         python examples/align_penn_action.py                invented motion, no data needed
Prints:  Kendall's tau of the clock control, of raw poses, of the best features without learning, and of SpeedNet,
         Shuffle-and-Learn, TCN, D3TW*, TCC and GTA, under the published protocol and on frames t >= 15 alone.
Writes:  OUT/tables.txt, OUT/results.json, OUT/<method>/checkpoints, OUT/pictures/<action>.png
Resume:  the same command with --resume.
"""

import argparse
import sys
from pathlib import Path

from casejax.alignment.data.motion import make_motion
from casejax.alignment.train.benchmark import run_benchmark
from casejax.alignment.train.methods import METHODS
from casejax.alignment.train.trainer import AlignConfig
from casejax.cli.options import parse_seeds, run_command, use_compilation_cache
from casejax.data.penn_action import read_penn_action
from casejax.errors import OptionError

LEFT_OUT = ("jump_rope", "strum_guitar")  # periodic; left out by everybody who aligns Penn Action


def main() -> int:
    """Parse the command line, read the poses, run."""
    default = AlignConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Penn Action's folder, or its labels; default: invented motion")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/penn_action or runs/motion)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated, out of %(default)s")
    parser.add_argument("--actions", help="comma-separated; default: all but " + " and ".join(LEFT_OUT))
    parser.add_argument("--seeds", type=parse_seeds, help="such as 0 or 0-2 (default: 0-2, and 0 for invented motion)")
    parser.add_argument("--shared", action="store_true", help="one network for all actions instead of one for each")
    parser.add_argument("--steps", type=int, default=default.steps, help="training steps (%(default)s)")
    parser.add_argument("--num-context", type=int, default=default.num_context, help="frames seen (%(default)s)")
    parser.add_argument("--context-stride", type=int, default=default.context_stride, help="between (%(default)s)")
    parser.add_argument("--hidden", type=int, default=default.hidden, help="width of the embedder (%(default)s)")
    parser.add_argument("--learning-rate", type=float, help="of Adam; default: each method's own")
    parser.add_argument("--devices", type=int, help="spread the networks over so many devices (default: all that fit)")
    parser.add_argument("--compilation-cache", type=Path, help="folder for compiled programs, for the next run")
    arguments = parser.parse_args()
    out = arguments.out or Path("runs", "penn_action" if arguments.data else "motion")

    def command() -> None:
        use_compilation_cache(arguments.compilation_cache)
        methods = arguments.methods.split(",")
        for method in methods:
            if method not in METHODS:
                raise OptionError(f"--methods {method}: there is no such method; choose from {', '.join(METHODS)}")
        tracks = make_motion() if arguments.data is None else read_penn_action(arguments.data)
        known = {track.action for track in tracks}
        wanted = arguments.actions.split(",") if arguments.actions else sorted(known - set(LEFT_OUT))
        for action in wanted:
            if action not in known:
                raise OptionError(
                    f"--actions {action}: there is no such action; choose from {', '.join(sorted(known))}"
                )
        tracks = [track for track in tracks if track.action in wanted]
        config = AlignConfig(
            steps=arguments.steps,
            num_context=arguments.num_context,
            context_stride=arguments.context_stride,
            hidden=arguments.hidden,
            learning_rate=arguments.learning_rate,
        )
        run_benchmark(
            tracks,
            config,
            out,
            methods=methods,
            seeds=arguments.seeds or ((0, 1, 2) if arguments.data else (0,)),
            shared=arguments.shared,
            resume=arguments.resume,
            devices=arguments.devices,
        )

    again = [word for word in sys.argv if word != "--resume"]
    return run_command(command, ["python", *again, "--resume"])


if __name__ == "__main__":
    sys.exit(main())
