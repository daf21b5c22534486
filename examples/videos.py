"""From video files to segments: features, training on weak labels, segments, and pictures with frames of the video.

Run:     python examples/videos.py --backbone i3d --weights i3d-kinetics-400.ckpt --clips FOLDER
         python examples/videos.py --backbone efficientnet_lite0 --weights efficientnet-lite0-57934424.pth
Reads:   FOLDER/*.mp4, clips of one kind each, of which "untrimmed" videos are joined: a kind is named by its file.
         Without --clips, three kinds of moving shapes are drawn.
Writes:  OUT/videos/*.mp4, OUT/labels.csv (what the videos contain; for those for testing also when), OUT/features,
         OUT/run, OUT/segments.csv, OUT/pictures/VIDEO.png
Prints:  mAP on the videos for testing. So few videos say that the chain works, not how well.

Each step is the command that it prints, so that any of them can be tried again by hand.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from casejax.cli import main as casejax
from casejax.errors import DataError
from casejax.features import BACKBONES, SUFFIXES, read_frames, write_video
from casejax.runtime.files import write_text

FPS, SIDE = 25, 256
TEST_SHARE = 0.25


def main() -> int:
    """Parse the command line; make the videos; run the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", required=True, help="of the backbone, a file a stream")
    parser.add_argument("--backbone", choices=BACKBONES, default="i3d", help="default: i3d")
    parser.add_argument("--clips", type=Path, help="folder with one clip of each kind; default: drawn shapes")
    parser.add_argument("--videos", type=int, default=16, help="videos to join (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of an action, and of what lies around it")
    parser.add_argument("--epochs", type=int, default=60, help="of training (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/videos"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of what is joined (%(default)s)")
    arguments = parser.parse_args()
    out = arguments.out
    try:
        make_videos(out, arguments.clips, arguments.videos, arguments.seconds, arguments.seed)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    weights = ["--weights", *arguments.weights, "--backbone", arguments.backbone]
    features, run = out / "features", out / "run"
    sizes = ["--epochs", arguments.epochs, "--num-snippets", 32, "--hidden", 64, "--learning-rate", "3e-3"]
    tests = sorted((out / "videos").glob("test_*.mp4"))
    for words in (
        ["extract", out / "videos", *weights, "--out", features],
        ["train", "--features", features, "--labels", out / "labels.csv", *sizes, "--out", run],
        ["predict", run, *tests, *weights, "--csv", out / "segments.csv", "--pictures", out / "pictures", "--top", 5],
    ):
        words = [str(word) for word in words]
        print("$ casejax", shlex.join(words), flush=True)
        if status := casejax.main(words):
            return status
    return 0


def make_videos(out: Path, clips: Path | None, count: int, seconds: float, seed: int) -> None:
    """Join clips into untrimmed videos, and write what they contain: times of those for testing alone."""
    rng = np.random.default_rng(seed)
    kinds = {name: list(pictures) for name, pictures in read_clips(clips)}
    lines = ["video,label,split,start,end,duration"]
    num_tests = max(round(TEST_SHARE * count), 1)
    for v in range(count):
        split = "test" if v < num_tests else "train"
        name = f"{split}_{v:02d}"
        # those for testing are of kinds that training has too
        own = list(kinds)[(v if split == "test" else v - num_tests) % len(kinds)]
        pictures, instances = join(rng, kinds, own, seconds)
        duration = len(pictures) / FPS
        write_video(out / "videos" / f"{name}.mp4", pictures, fps=FPS)
        if split == "train":
            lines.append(f"{name},{own},train,,,")
        else:
            lines += [f"{name},{own},test,{start},{end},{duration}" for start, end in instances]
    write_text(out / "labels.csv", "\n".join(lines) + "\n")


def join(
    rng: np.random.Generator, kinds: dict[str, list[np.ndarray]], own: str, seconds: float
) -> tuple[list[np.ndarray], list[tuple[float, float]]]:
    """Two pieces of one kind, with grey noise before, between and after them; their times."""
    shape = kinds[own][0].shape
    pictures: list[np.ndarray] = []
    instances: list[tuple[float, float]] = []
    for part in range(5):
        length = max(round(FPS * seconds * rng.uniform(0.6, 1.4)), 1)
        if part % 2:
            source = kinds[own]
            first = rng.integers(0, max(len(source) - length, 0) + 1)
            piece = [source[min(first + i, len(source) - 1)] for i in range(length)]
            instances.append((len(pictures) / FPS, (len(pictures) + length) / FPS))
        else:
            coarse = rng.integers(60, 180, (length // 8 + 1, *(side // 16 + 1 for side in shape[:2]), 1))
            piece = [
                coarse[i // 8].repeat(16, axis=0).repeat(16, axis=1)[: shape[0], : shape[1]].repeat(3, axis=2)
                for i in range(length)
            ]
        pictures += [picture.astype(np.uint8) for picture in piece]
    return pictures, instances


def read_clips(folder: Path | None) -> Iterator[tuple[str, Sequence[np.ndarray]]]:
    """Pictures of every kind, by its name."""
    if folder is None:
        for kind in ("circle", "stripes", "square"):
            yield kind, [draw(kind, i) for i in range(10 * FPS)]
        return
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        raise DataError(f"{folder}: has {len(paths)} video files; put one of each of two kinds or more there")
    for path in paths:
        yield path.stem, list(read_frames(path, fps=FPS, short_side=SIDE))


def draw(kind: str, i: int) -> np.ndarray:
    """A picture of a shape that moves: round and round, sideways, or larger and smaller."""
    y, x = np.mgrid[:SIDE, : SIDE * 5 // 4] / SIDE - 0.5
    phase = 2 * np.pi * i / 40
    if kind == "circle":
        inside = np.hypot(x - 0.2 * np.cos(phase), y - 0.2 * np.sin(phase)) < 0.15
        colour = (230, 60, 40)
    elif kind == "stripes":
        inside = np.sin(40 * x + 2 * phase) > 0
        colour = (40, 90, 220)
    else:
        inside = np.maximum(abs(x), abs(y)) < 0.2 + 0.1 * np.sin(phase)
        colour = (60, 190, 80)
    return np.where(inside[:, :, None], np.asarray(colour, np.uint8), np.uint8(30))


if __name__ == "__main__":
    sys.exit(main())
