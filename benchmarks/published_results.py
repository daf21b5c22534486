"""The mAP of published detections, ours beside the one their authors printed.

    python benchmarks/published_results.py detections.npz
    python benchmarks/published_results.py detections.json --truth gt.json --published .467,.417,.358 --tious .1,.2,.3

An .npz file has all in it: `video`, `label`, `segment` (n, 2) and `score` of the detections; `truth_video`,
`truth_label` and `truth_segment` (m, 2) of the ground truth; `tiou` and `mean_ap`, the printed table in fractions.
Videos and classes are indices, times have any one unit. A .json file has detections in the ActivityNet results format;
it needs the annotations, the printed values and, where they are not those of the protocol, the tIoU thresholds.

Ours is rounded to as many digits as the printed value has. Exit status: 0 where all values agree, 1 where one does not,
2 for input that cannot be used. Published detections are their authors' own; none come with this program.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from casejax.cli.options import run_command
from casejax.errors import DataError
from casejax.evaluate.protocols import CASE, PROTOCOLS, Protocol, judge
from casejax.inference.judging import judge_file, read_truth
from casejax.records import SegmentTable

ARRAYS = ("video", "label", "segment", "score", "truth_video", "truth_label", "truth_segment", "tiou", "mean_ap")


class Comparison(NamedTuple):
    """A printed table and what we measure on the same detections."""

    description: str
    tious: np.ndarray
    published: np.ndarray
    ours: np.ndarray

    @property
    def digits(self) -> int:
        """How many digits the printed values have."""
        return next((d for d in range(1, 12) if np.allclose(self.published, self.published.round(d), 0, 1e-12)), 12)

    @property
    def agrees(self) -> np.ndarray:
        """(K,) bool, whether ours rounds to what was printed."""
        return np.isclose(self.ours.round(self.digits), self.published, 0, 1e-9)


def read_npz(path: Path) -> tuple[SegmentTable, SegmentTable, np.ndarray, np.ndarray]:
    """Detections, ground truth, tIoU thresholds and printed mAP of an .npz file as described above.

    Raises:
      DataError: no such file, an array that is missing, or shapes that do not belong together.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive]
            if missing:
                raise DataError(f"{path}: lacks {', '.join(missing)}; it needs the arrays {', '.join(ARRAYS)}")
            columns = [archive[name] for name in ARRAYS]
        tables = [SegmentTable.from_rows(*columns[:4]), SegmentTable.from_rows(*columns[4:7])]
        tious, published = (np.asarray(each, np.float64).reshape(len(columns[7])) for each in columns[7:])
    except DataError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {error}; write the arrays {', '.join(ARRAYS)} with numpy.savez") from error
    for table, what in zip(tables, ("video or label", "truth_video or truth_label"), strict=True):
        if min(table.video.min(initial=0), table.label.min(initial=0)) < 0:
            raise DataError(f"{path}: a negative index in {what}; number videos and classes from 0")
    return tables[0], tables[1], tious, published


def compare_npz(path: Path) -> Comparison:
    """Judge what an .npz file has, as the program of ActivityNet and CASE does."""
    predictions, truth, tious, published = read_npz(path)
    videos = [str(v) for v in range(1 + max(t.video.max(initial=-1) for t in (predictions, truth)))]
    classes = [str(c) for c in range(1 + max(t.label.max(initial=-1) for t in (predictions, truth)))]
    protocol = replace(CASE, ground_truth=path.name, num_videos=None, without=(), tious=tuple(tious.tolist()))
    result = judge(predictions, truth, classes, protocol, videos=videos)
    description = protocol.describe(len(np.unique(truth.video)), len(truth.score), selection="of its authors")
    return Comparison(f"{len(predictions.score):,} detections; {description}", tious, published, result.mean_ap)


def compare_json(path: Path, truth: Path, protocol: Protocol, published: Sequence[float]) -> Comparison:
    """Judge a results file under a protocol."""
    if len(published) != len(protocol.tious):
        raise DataError(
            f"--published: {len(published)} values for the {len(protocol.tious)} tIoU thresholds "
            f"{', '.join(f'{tiou:g}' for tiou in protocol.tious)}; give one for each, or --tious"
        )
    judged = judge_file(path, read_truth(truth), protocol, num_resamples=1)
    counts = judged.interval.num_videos, int(judged.detection.num_ground_truth.sum())
    description = f"{len(judged.parsed.table.score):,} detections; {protocol.describe(*counts)}"
    return Comparison(description, np.array(protocol.tious), np.array(published), judged.detection.mean_ap)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print both, threshold by threshold, and how many agree."""
    console.print(comparison.description, soft_wrap=True, highlight=False, markup=False)
    table = Table("tIoU", box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for name in ("published", "ours", "exactly", "agrees"):
        table.add_column(name, justify="right")
    digits = comparison.digits
    for tiou, printed, ours, same in zip(
        comparison.tious, comparison.published, comparison.ours, comparison.agrees, strict=True
    ):
        table.add_row(
            f"{tiou:g}", f"{printed:.{digits}f}", f"{ours:.{digits}f}", f"{ours:.6f}", "yes" if same else "no"
        )
    console.print(table)
    console.print(
        f"{comparison.agrees.sum()} of {len(comparison.agrees)} values agree to the printed digit", highlight=False
    )


def main(words: Sequence[str] | None = None) -> int:
    """Compare one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detections", type=Path, help=".npz or .json")
    parser.add_argument("--truth", type=Path, help="annotations of a .json file")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="case", help="of a .json file (case)")
    parser.add_argument("--published", type=_numbers, help="printed mAP of a .json file, fractions, comma-separated")
    parser.add_argument("--tious", type=_numbers, help="its tIoU thresholds (those of the protocol)")
    parsed = parser.parse_args(words)
    found: list[Comparison] = []

    def command() -> None:
        if parsed.detections.suffix != ".json":
            found.append(compare_npz(parsed.detections))
        elif parsed.truth is None or parsed.published is None:
            raise DataError(f"{parsed.detections}: needs --truth and --published, see --help")
        else:
            protocol = PROTOCOLS[parsed.protocol]
            protocol = replace(protocol, tious=parsed.tious) if parsed.tious else protocol
            found.append(compare_json(parsed.detections, parsed.truth, protocol, parsed.published))

    status = run_command(command)
    if status:
        return status
    print_comparison(found[0], Console(width=None if sys.stdout.isatty() else 100))
    return 0 if found[0].agrees.all() else 1


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
