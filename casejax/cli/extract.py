"""`casejax extract`: videos to the features that `casejax train` and `casejax predict` read."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, asks_for_all, run_command, say
from casejax.data.layouts.checks import check_id
from casejax.errors import CheckpointError, DataError, OptionError
from casejax.features import BACKBONES, FLOWS, SUFFIXES, Extractor, extract_videos, find_backbone
from casejax.run.folder import Restored
from casejax.runtime.lock import own_folder


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status: 0, 1 where a video could not be read, 2 for wrong options."""
    words = list(words)
    usage = "casejax extract VIDEO... --weights FILE... --out DIR [options]"
    parser = Parser(
        everything=asks_for_all(words), prog="casejax extract", usage=usage, description=COMMANDS["extract"]
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, folders with them, and globs")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the features")
    parser.add_argument("--fps", type=float, metavar="X", help="pictures a second (25)")
    parser.add_argument("--stride", type=int, metavar="N", help="pictures from one row to the next (16)")
    add_extractor_options(parser)
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> int:
        videos = find_video_files(parsed.videos)
        with own_folder(parsed.out):
            return _extract(given_extractor(parsed, fps=parsed.fps, stride=parsed.stride), videos, parsed.out)

    return run_command(command)


def add_extractor_options(parser: Parser, when: str = "") -> None:
    """Add the flags of `given_extractor`; `when` says where they act."""
    add = parser.add_argument_group(f"features of videos{when and ', '}{when}").add_argument
    add("--weights", nargs="+", type=Path, metavar="FILE", help="of the backbone, a file a stream (docs/features.md)")
    add("--backbone", choices=BACKBONES, default="i3d", help="network that makes features (i3d)")
    add("--video-streams", metavar="A,B", help="streams to make (all that there are weights for)")
    add("--flow", choices=FLOWS, default="tvl1", help="kind of optical flow: as published, or the faster dis (tvl1)")
    add("--batch", type=int, metavar="N", help="windows at a time (what free memory holds, 16 at most)")
    add("--bfloat16", action="store_true", help="convolutions in bfloat16")


def given_extractor(parsed: argparse.Namespace, *, fps: float | None = None, stride: int | None = None) -> Extractor:
    """The extractor that the flags name.

    Raises:
      DataError, OptionError: as `Extractor.load`.
    """
    stage(f"reading the weights of {parsed.backbone}")
    return Extractor.load(
        parsed.weights or (),
        backbone=parsed.backbone,
        streams=parsed.video_streams and parsed.video_streams.split(","),
        fps=fps,
        stride=stride,
        flow=parsed.flow,
        batch=parsed.batch,
        dtype="bfloat16" if parsed.bfloat16 else "float32",
    )


def extractor_like(restored: Restored, parsed: argparse.Namespace) -> Extractor:
    """An extractor that the flags name, with the timing of a run, for the streams of its network.

    Raises:
      CheckpointError: the run was trained on features that are known to be made otherwise, or have other dimensions.
      OptionError: rows of the run that cannot be made of windows, or options as `Extractor.load` refuses them.
    """
    data, timing = restored.meta["data"], restored.timing
    usual = find_backbone(parsed.backbone).timing
    own = usual if timing.same(usual) else timing
    if own.rescaled or own.first_frame or own.frames != usual.frames or own.stride != int(own.stride):
        raise OptionError(
            f"{restored.folder} was trained on {timing.describe()}, which {parsed.backbone} with windows of "
            f"{usual.frames:g} pictures cannot make; name features in place of videos"
        )
    if parsed.video_streams is None:
        parsed.video_streams = ",".join(data["streams"])
    extractor = given_extractor(parsed, fps=own.fps, stride=int(own.stride))
    there = dict(zip(extractor.streams, extractor.dims, strict=True))
    wanted = dict(zip(data["streams"], data["dims"], strict=True))
    if there != wanted:
        raise CheckpointError(
            f"{restored.folder} was trained on {wanted}, these weights of {parsed.backbone} make {there}; name the "
            "backbone and the weights that made the features of training"
        )
    restored.check_provenance(extractor.stated(), "what --weights and the options make")
    return extractor


def find_video_files(places: Iterable[str]) -> dict[str, Path]:
    """Video files by their id, the name without its ending; of folders, all whose ending is one of a video.

    Raises:
      DataError: nothing there, two files of one id, or an id that cannot be the name of a file.
    """
    found: dict[str, Path] = {}
    for place in places:
        for path in _expand(place):
            check_id(path.stem, path)
            if found.setdefault(path.stem, path).resolve() != path.resolve():
                raise DataError(f"{path} and {found[path.stem]} would both be {path.stem!r}; rename one of them")
    return found


def _expand(place: str) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise DataError(f"{place}: no video in it; the endings of videos are {', '.join(SUFFIXES)}")
        return inside
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(place, recursive=True))
    if not matches:
        raise DataError(f"{place}: no such file, folder or glob; name videos")
    return matches


def _extract(extractor: Extractor, videos: dict[str, Path], out: Path) -> int:
    streams = ", ".join(f"{name} {dim}" for name, dim in zip(extractor.streams, extractor.dims, strict=True))
    stage(f"{extractor.backbone.name}: {streams}; {extractor.timing.describe()}; {extractor.batch} windows at a time")
    if left := [name for name in extractor.backbone.dims if name not in extractor.streams]:
        stage(f"without {', '.join(left)}: train and predict on {', '.join(extractor.streams)} alone")
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("extracting", total=len(videos))
        done: dict[str, float] = {}

        def progress(video: str, share: float) -> None:
            done[video] = share
            bar.update(task, completed=sum(done.values()), description=video)
            if share == 1 and not console.is_terminal:
                stage(f"{video}: {len(done)} of {len(videos)}")

        broken = extract_videos(extractor, videos, out, progress)
    for message in broken.values():
        say(f"error: {message}")
    stage(f"features of {len(videos) - len(broken)} of {len(videos)} videos are in {out}")
    return 1 if broken else 0
