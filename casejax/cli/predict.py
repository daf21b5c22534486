"""`casejax predict`: the segments of a trained network in features of any videos."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from casejax.cli.extract import add_extractor_options, extractor_like, find_video_files
from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, add_options, asks_for_all, parse_for_run, run_command
from casejax.cli.sources import add_timing_options, given_arrangement, given_timing
from casejax.data.layouts import Found, find_videos, read_durations, read_provenance, read_timing
from casejax.errors import DataError, DataWarning, OptionError
from casejax.features import SUFFIXES, sample_frames
from casejax.inference.evaluate import default_console
from casejax.inference.predict import Localizer
from casejax.inference.predictions import (
    Segment,
    draw_timeline,
    print_segments,
    write_results,
    write_segments,
)
from casejax.run.config import Config
from casejax.run.folder import Restored

BEST = 5
"""Segments of a video in the table, unless --top says how many."""
FRAMES = 8
"""Frames of a video above its timeline."""
MANY = 20
"""Videos in the table, where all are written to a file."""


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    words = list(words)
    usage = "casejax predict RUN FEATURES... [options]\n       casejax predict RUN VIDEO... --weights FILE... [options]"
    parser = Parser(
        everything=asks_for_all(words), prog="casejax predict", usage=usage, description=COMMANDS["predict"]
    )
    add_flags(parser)
    parser.add_helps()
    if asks_for_all(words) or {"-h", "--help"} & set(words):
        add_options(parser, Config.of("case"), only=lambda each: each.of_inference)
        parser.parse_args(words)

    def command() -> None:
        restored, parsed = parse_for_run(parser, words)
        _predict(Localizer(restored), parsed)

    return run_command(command)


def add_flags(parser: Parser) -> None:
    """Add what the command takes, options of inference apart."""
    add = parser.add_argument
    add("run", type=Path, help="folder of a run")
    add("features", nargs="+", help="files of features, folders with them, or with a folder a stream, globs; or videos")
    add("--json", type=Path, metavar="FILE", help="write the segments there, in the ActivityNet results format")
    add("--csv", type=Path, metavar="FILE", help="write them there as video,label,start,end,score")
    add("--pictures", type=Path, metavar="DIR", help="draw a timeline of every video there")
    add("--top", type=int, metavar="N", help=f"the best N segments of each video (all; {BEST} in the table)")
    add("--min-score", type=float, metavar="X", help="leave out segments with a lower score")
    add("--durations", type=Path, metavar="CSV", help="table of video,duration, in seconds; segments end there")
    add_timing_options(parser)
    add_extractor_options(parser, "where videos are named")


class Source(NamedTuple):
    """A video to find segments in.

    Attributes:
      id: its name.
      read: gives its features as `Localizer` takes them, and its duration in seconds where it is known.
      file: the video itself, where it is at hand.
    """

    id: str
    read: Callable[[], tuple[Any, float | None]]
    file: Path | None = None


def _predict(localizer: Localizer, parsed: argparse.Namespace) -> None:
    _check_outputs(parsed)
    if (timing := given_timing(parsed)) is not None:
        localizer.restored.check_timing(timing, "the option")
    files = [place for place in parsed.features if Path(place).suffix.lower() in SUFFIXES]
    videos, durations = _find_features(localizer, [each for each in parsed.features if each not in files], parsed)
    sources = [*(_of_features(video, durations) for video in videos), *_of_videos(localizer, files, parsed)]
    if len({source.id for source in sources}) < len(sources):
        raise DataError("a video and features are both called the same; predict them one after the other")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # they are said
        found = _find(localizer, sources, parsed)
    if parsed.json is not None:
        write_results(parsed.json, found, localizer.classes)
    if parsed.csv is not None:
        write_segments(parsed.csv, found)
    written = [str(path) for path in (parsed.json, parsed.csv) if path is not None]
    print_segments(default_console(), found, best=parsed.top or BEST, videos=MANY if written else len(found))
    if written:
        count = sum(map(len, found.values()))
        stage(f"{count} segments of {len(found)} videos are in {' and '.join(written)}")


def _find_features(
    localizer: Localizer, places: Sequence[str], parsed: argparse.Namespace
) -> tuple[list[Found], Mapping[str, float]]:
    """The features that are named, checked, and the durations that are stated."""
    durations = {} if parsed.durations is None else read_durations(parsed.durations)
    if not places:
        return [], durations
    videos = find_videos(places, localizer.streams, localizer.dims, arrangement=given_arrangement(parsed))
    _check_stated(localizer.restored, videos)
    without = [video for video in videos if video.id not in durations]
    if localizer.timing.rescaled and without:
        raise DataError(
            f"{without[0].sources[0]}: its rows divide the duration, which is not stated; name a table of all "
            f"durations with --durations (missing for {len(without)} of {len(videos)} videos)"
        )
    localizer.check_times({video.id: video.length for video in videos}, durations)
    return videos, durations


def _of_features(video: Found, durations: Mapping[str, float]) -> Source:
    def read() -> tuple[Any, float | None]:
        arrays = video.read()
        return arrays[0] if len(arrays) == 1 else arrays, durations.get(video.id)

    return Source(video.id, read)


def _of_videos(localizer: Localizer, files: Sequence[str], parsed: argparse.Namespace) -> list[Source]:
    """Video files, whose features are made as those of training were."""
    if not files:
        return []
    extractor = extractor_like(localizer.restored, parsed)

    def read(path: Path) -> tuple[Any, float | None]:
        made = extractor(path)
        return dict(zip(extractor.streams, made.rows, strict=True)), made.seconds

    return [Source(video, partial(read, path), path) for video, path in find_video_files(files).items()]


def _find(localizer: Localizer, videos: Sequence[Source], parsed: argparse.Namespace) -> dict[str, tuple[Segment, ...]]:
    """The segments to show of every video, the best first; pictures are drawn on the way."""
    errors = Console(stderr=True)
    found: dict[str, tuple[Segment, ...]] = {}
    for video in track(videos, "predicting", console=errors, disable=not errors.is_terminal, transient=True):
        features, duration = video.read()
        prediction = localizer(features, duration=duration, video=video.id)
        if parsed.pictures is not None:
            end = float(prediction.snippet_times[-1, 1])
            frames = [] if video.file is None else sample_frames(video.file, end, FRAMES)
            draw_timeline(parsed.pictures / f"{video.id}.png", prediction, frames)
        kept = (s for s in prediction.segments if parsed.min_score is None or s.score >= parsed.min_score)
        found[video.id] = tuple(kept)[: parsed.top]
    return found


def _check_outputs(parsed: argparse.Namespace) -> None:
    """Refuse, before any work, what could not be written or shown after it."""
    if parsed.top is not None and parsed.top < 1:
        raise OptionError(f"--top {parsed.top} leaves no segment; pass 1 or more")
    for flag, path in (("--json", parsed.json), ("--csv", parsed.csv)):
        if path is not None and path.is_dir():
            raise OptionError(f"{flag} {path} is a folder; name a file")
    if parsed.json is not None and parsed.json == parsed.csv:
        raise OptionError(f"--json and --csv both name {parsed.json}; name two files")
    if parsed.pictures is not None:
        if find_spec("matplotlib") is None:
            raise OptionError("--pictures needs matplotlib: pip install 'casejax[plots]'")
        if parsed.pictures.exists() and not parsed.pictures.is_dir():
            raise OptionError(f"--pictures {parsed.pictures} is a file; name a folder")


def _check_stated(restored: Restored, videos: Sequence[Found]) -> None:
    """Refuse features that `features.json` beside them says are of another timing or network than those of training."""
    for root in dict.fromkeys(video.root for video in videos):
        if (stated := read_timing(root)) is not None:
            restored.check_timing(stated, str(root / "features.json"))
            restored.check_provenance(read_provenance(root), str(root / "features.json"))
