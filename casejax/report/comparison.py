"""Finished runs side by side, with paired differences over the seeds that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from casejax.errors import DataError
from casejax.runtime.reading import check_form, read_json

FORM = {
    "method": str,
    "seed": int,
    "judged": dict,
    "selection": str,
    "trained": {"mAP": dict, "average_mAP": dict},
}
"""What results.json looks like where it has an mAP."""


class Finished(NamedTuple):
    """The results of a run, or of runs that differ in their seed.

    Attributes:
      name: the folder.
      method: with the options that were set.
      selection: how the model of the first seed was selected.
      judged: how: what the numbers depend on, by name.
      figures: by seed, the mAP of every column, fractions.
    """

    name: str
    method: str
    selection: str
    judged: dict[str, Any]
    figures: dict[int, dict[str, float]]

    def values(self, column: str) -> np.ndarray:
        """(seeds,) figures of one column, by ascending seed."""
        return np.asarray([self.figures[seed][column] for seed in sorted(self.figures)])


class Difference(NamedTuple):
    """A figure of one run minus that of another, paired over seeds; fractions, the deviation NaN of a single seed."""

    seeds: tuple[int, ...]
    mean: float
    deviation: float


def read_finished(folder: Path) -> Finished:
    """The results in the folder of a run, or in its folders `seed-N`.

    Raises:
      DataError: no results, or none with an mAP.
    """
    places = sorted(folder.glob("seed-*/results.json")) or [folder / "results.json"]
    found = [(path, _read(path)) for path in places]
    judged = [each["judged"] for _, each in found]
    for (path, _), other in zip(found, judged, strict=True):
        if differing := differences(judged[0], other):
            raise DataError(f"{path}: judged otherwise than {found[0][0]}: {differing}; evaluate both alike")
    figures = {}
    for path, each in found:
        if int(each["seed"]) in figures:
            raise DataError(f"{path}: seed {each['seed']} is there twice; name a folder with each seed once")
        figures[int(each["seed"])] = each["trained"]["mAP"] | each["trained"]["average_mAP"]
    return Finished(str(folder), found[0][1]["method"], found[0][1]["selection"], judged[0], figures)


def _read(path: Path) -> dict[str, Any]:
    missing = "name the folder of a finished run, or one with seed-N in it"
    results: dict[str, Any] = read_json(path, dict, missing=missing, remedy="run casejax eval again")
    if not FORM.keys() <= results.keys():
        raise DataError(f"{path}: has no mAP; evaluate the run on videos with annotated times (casejax eval)")
    check_form(results, FORM, str(path), remedy="run casejax eval again")
    for name in ("mAP", "average_mAP"):
        for column, value in results["trained"][name].items():
            check_form(value, float, f"{path}: {column!r} of {name!r}", remedy="run casejax eval again")
    return results


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two ways of judging differ in, with both values; empty where they agree."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return "; ".join(f"{name} {one.get(name)} and {other.get(name)}" for name in names)


def paired(first: Finished, other: Finished, column: str) -> Difference | None:
    """The figures of `other` minus those of `first` over the seeds that both have; None without any."""
    seeds = tuple(sorted(first.figures.keys() & other.figures.keys()))
    if not seeds:
        return None
    gaps = np.asarray([other.figures[seed][column] - first.figures[seed][column] for seed in seeds])
    return Difference(seeds, float(gaps.mean()), float(gaps.std(ddof=1)) if len(seeds) > 1 else float("nan"))


def print_comparison(console: Console, runs: Sequence[Finished]) -> None:
    """Print a row a run, mean and standard deviation over its seeds, then differences from the first; %.

    Runs that were judged otherwise than the first are named, with what differs, and have no difference.
    """
    columns = _columns(runs)
    numbers = {run.name: f"({n})" for n, run in enumerate(runs, 1)}
    for run in runs:
        seeds = ", ".join(map(str, sorted(run.figures)))
        console.print(
            f"{numbers[run.name]} {run.name}: {run.method}; seed {seeds}; model selection: {run.selection}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    table = _table("mAP, %", columns)
    for run in runs:
        values = np.stack([run.values(column) for column in columns])
        deviation = values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
        _add_rows(table, numbers[run.name], values.mean(axis=1), deviation, "")
    console.print(table)
    first, rows = runs[0], _table("minus (1)", columns)
    for run in runs[1:]:
        gaps = [gap for column in columns if (gap := paired(first, run, column))]
        if differing := differences(first.judged, run.judged):
            text = f"was judged otherwise than (1), so their figures are not comparable: {differing}"
            console.print(f"{numbers[run.name]} {text}", soft_wrap=True, highlight=False, markup=False)
        elif not gaps:
            console.print(f"{numbers[run.name]} shares no seed with (1)", highlight=False, markup=False)
        else:
            deviation = np.asarray([gap.deviation for gap in gaps]) if len(gaps[0].seeds) > 1 else None
            _add_rows(rows, numbers[run.name], np.asarray([gap.mean for gap in gaps]), deviation, "+")
    if rows.row_count:
        console.print(rows)
        console.print("differences are paired over the seeds that both have", highlight=False)


def _add_rows(table: Table, name: str, mean: np.ndarray, deviation: np.ndarray | None, sign: str) -> None:
    """A row of means and, of several seeds, one of standard deviations; %."""
    table.add_row(name, *(f"{100 * value:{sign}.1f}" for value in mean))
    if deviation is not None:
        table.add_row(" sd", *(f"{100 * value:.1f}" for value in deviation), style="dim")


def comparison_summary(runs: Sequence[Finished]) -> dict[str, Any]:
    """What `print_comparison` prints, as plain values; fractions."""
    columns = _columns(runs)
    against = {}
    for run in runs[1:]:
        gaps = {column: paired(runs[0], run, column) for column in columns}
        against[run.name] = {
            "judged otherwise": differences(runs[0].judged, run.judged),
            "difference": {
                column: {
                    "seeds": list(gap.seeds),
                    "mean": gap.mean,
                    "sd": gap.deviation if len(gap.seeds) > 1 else None,
                }
                for column, gap in gaps.items()
                if gap is not None and not differences(runs[0].judged, run.judged)
            },
        }
    return {
        "runs": [
            {
                "run": run.name,
                "method": run.method,
                "selection": run.selection,
                "judged": run.judged,
                "mAP": run.figures,
            }
            for run in runs
        ],
        "from_first": against,
    }


def _columns(runs: Sequence[Finished]) -> list[str]:
    """The figures that all runs have, averages last."""
    every = [set(next(iter(run.figures.values()))) for run in runs]
    return [name for name in next(iter(runs[0].figures.values())) if all(name in each for each in every)]


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title, box=None, pad_edge=False, padding=(0, 0, 0, 2))
    for name in columns:
        table.add_column(name.removesuffix("0") if ":" not in name else name, justify="right")
    return table
