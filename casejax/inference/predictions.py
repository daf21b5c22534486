"""What was found in videos: the records, and the table, files and pictures that show them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from casejax.array_types import Float
from casejax.evaluate.results import results_dict
from casejax.records import SegmentTable, SnippetScores
from casejax.report import canvas, pictures
from casejax.runtime.files import write_json, write_text


class Segment(NamedTuple):
    """A stretch of a video in which a class is found.

    Attributes:
      label: name of the class.
      start: seconds from the start of the video.
      end: the same.
      score: the higher, the surer; comparable within a class, no probability.
    """

    label: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video.

    Attributes:
      video: its name.
      duration: seconds, as stated, else up to the end of the last row of features.
      segments: those found, by descending score, within [0, duration].
      video_scores: probability of each class to be in the video.
      snippet_scores: of T snippets, with a leading axis of 1: the rows of features where inference is on whole videos,
        else the T that rows are resampled to.
      snippet_times: (T, 2) seconds, start and end of what each snippet stands for.
    """

    video: str
    duration: float
    segments: tuple[Segment, ...]
    video_scores: dict[str, float]
    snippet_scores: SnippetScores
    snippet_times: Float[np.ndarray, "t 2"]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; snippet scores are left out."""
        return {
            "video": self.video,
            "duration": self.duration,
            "segments": [segment._asdict() for segment in self.segments],
            "video_scores": self.video_scores,
        }


def write_results(path: Path, found: Mapping[str, Sequence[Segment]], classes: Sequence[str]) -> None:
    """Write the segments of videos, by name, in the ActivityNet results format; whole or not at all.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from casejax import inference
      >>> inference.write_results(Path("a.json"), {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]}, ["Dive"])
      >>> json.loads(Path("a.json").read_text())["results"]
      {'a': [{'label': 'Dive', 'score': 0.9, 'segment': [1.0, 3.0]}]}
    """
    index = {name: c for c, name in enumerate(classes)}
    rows = [(v, index[s.label], (s.start, s.end), s.score) for v, own in enumerate(found.values()) for s in own]
    columns = zip(*rows, strict=True) if rows else ((), (), (), ())
    write_json(path, results_dict(SegmentTable.from_rows(*columns), list(found), classes))


def write_segments(path: Path, found: Mapping[str, Sequence[Segment]]) -> None:
    """Write the segments of videos, by name, as CSV: video,label,start,end,score; whole or not at all.

    Example:
      >>> from pathlib import Path
      >>> from casejax import inference
      >>> inference.write_segments(Path("a.csv"), {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]})
      >>> print(Path("a.csv").read_text())
      video,label,start,end,score
      a,Dive,1.0,3.0,0.9
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", *Segment._fields])
    writer.writerows((video, *segment) for video, own in found.items() for segment in own)
    write_text(path, text.getvalue())


def print_segments(console: Console, found: Mapping[str, Sequence[Segment]], *, best: int, videos: int) -> None:
    """Print the best segments of videos as a table.

    Args:
      console: where to print.
      found: segments by the name of the video, the best first.
      best: segments of each video.
      videos: that are printed; the others are counted.

    Example:
      >>> from rich.console import Console
      >>> from casejax import inference
      >>> found = {"a": [inference.Segment("Dive", 1.0, 3.0, 0.9)]}
      >>> inference.print_segments(Console(width=60), found, best=1, videos=1)
      video  label   start     end  score
      a      Dive   0:01.0  0:03.0  0.900
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("video", overflow="fold")
    table.add_column("label", overflow="fold")
    for name in ("start", "end", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = list(found.items())[:videos]
    for video, own in shown:
        if not own:
            table.add_row(_plain(video), "no segment")
        for i, (label, start, end, score) in enumerate(own[:best]):
            table.add_row(_plain("" if i else video), _plain(label), clock(start), clock(end), f"{score:.3f}")
        if len(own) > best:
            table.add_row("", f"and {len(own) - best} more")
    console.print(table)
    if len(found) > len(shown):
        console.print(f"and {len(found) - len(shown)} more videos", highlight=False)


def draw_timeline(path: Path, prediction: Prediction, frames: Sequence[np.ndarray] = ()) -> None:
    """Draw a video over time: foreground probabilities and the strongest segments, as a PNG file.

    Args:
      path: of the file.
      prediction: what is drawn.
      frames: RGB pictures of the video to show above, from the middles of as many equal parts of it.

    Raises:
      ImportError: matplotlib is missing; the message says how to install it.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> import casejax
      >>> from casejax import inference
      >>> localizer = casejax.Localizer.load("run")
      >>> prediction = localizer(np.ones((40, 16), np.float32))
      >>> inference.draw_timeline(Path("a.png"), prediction)
      >>> Path("a.png").read_bytes()[1:4]
      b'PNG'
    """
    heading, curves = pictures.score_curves(prediction.snippet_scores, 0)
    start, end = float(prediction.snippet_times[0, 0]), float(prediction.snippet_times[-1, 1])
    labels = dict.fromkeys(segment.label for segment in prediction.segments)
    own = {label: [s for s in prediction.segments if s.label == label] for label in labels}
    figure = pictures.timeline(
        title=prediction.video,
        duration=end,
        covered=(start, end),
        ground_truth=None,
        heading=heading,
        curves=curves,
        predictions=[
            (label, np.asarray([(s.start, s.end) for s in found]), np.asarray([s.score for s in found]))
            for label, found in own.items()
        ],
        frames=frames,
    )
    canvas.save(figure, path)


def clock(seconds: float) -> str:
    """A time as minutes and seconds, such as 1:07.4."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 / 10:04.1f}"


def _plain(text: str) -> str:
    """Text that rich prints as it is."""
    return text.replace("[", r"\[")
