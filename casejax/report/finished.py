"""What a finished run left in its folder, read for a report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casejax.report.analysis import NAME, Analysis, read_analysis
from casejax.report.comparison import Finished, read_finished
from casejax.runtime.reading import read_json, read_json_lines, read_table


@dataclass(frozen=True)
class Run:
    """A run, or the first of several that differ in their seed.

    Attributes:
      name: as it was named.
      results: what `results.json` has.
      classes: the rows of `average_precision.csv`, by column; empty without mAP.
      metrics: the lines of `metrics.jsonl`; empty of a network that was converted.
      analysis: None where the file is not there.
      finished: figures of all seeds; None without mAP.
    """

    name: str
    results: dict[str, Any]
    classes: list[dict[str, str]]
    metrics: list[dict[str, Any]]
    analysis: Analysis | None
    finished: Finished | None


def read_run(folder: Path) -> Run:
    """Read the folder of a run, of an evaluation (`RUN/eval`), or the first of `seed-N` in it.

    Raises:
      DataError: no results, or a file that cannot be read.
    """
    seeds = sorted(folder.glob("seed-*/results.json"), key=lambda path: _number(path.parent.name))
    own = seeds[0].parent if seeds else folder
    results = _read(own / "results.json")
    table, log = own / "average_precision.csv", own / "metrics.jsonl"
    log = log if log.is_file() else own.parent / "metrics.jsonl"
    rows = [cells for _, cells in read_table(table)] if os.path.lexists(table) else []
    classes = [dict(zip(rows[0], cells, strict=False)) for cells in rows[1:] if cells]
    metrics = read_json_lines(log) if log.is_file() else []
    analysis = read_analysis(own / NAME) if os.path.lexists(own / NAME) else None
    finished = read_finished(folder) if "judged" in results else None
    return Run(str(folder), results, classes, metrics, analysis, finished)


def _read(path: Path) -> dict[str, Any]:
    missing = "name the folder of a finished run, of casejax eval, or one with seed-N in it"
    found: dict[str, Any] = read_json(path, dict, missing=missing, remedy="evaluate the run again (casejax eval)")
    return found


def _number(name: str) -> int:
    digits = name.removeprefix("seed-")
    return int(digits) if digits.isdecimal() else 0
