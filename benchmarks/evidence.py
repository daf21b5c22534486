"""Does a part of the method earn its place? Rows of options over worlds and seeds, paired, with tests and intervals.

Run:     python benchmarks/evidence.py motion --penn LABELS           real motion, composed of Penn Action's labels
         python benchmarks/evidence.py thumos --thumos14 FOLDER       surrogate features for THUMOS14's annotations
         python benchmarks/evidence.py world                          the embedded world
         python benchmarks/evidence.py motion --penn LABELS --rows corrected --row "k64=--num-clusters 64" --worlds 3 4

A row of one's own is NAME="FLAGS", flags as for `casejax train`; it starts from `corrected`, or from --method and
--variant among its flags. Flags outside of rows are shared by all rows. Every run is a file OUT/FAMILY/world-W/ROW/
seed-S.json, written whole; what is there is not run again, so a stopped command goes on where it was. Seed s draws the
same parameters, videos and snippets in every row. The last step is evaluated, never a selected one. A run of motion or
thumos takes two to three minutes of one core, the built-in rows of a world, 25 runs, half an hour on 2 cores.

The table has, a row each: mAP averaged over tIoU 0.1:0.7 and its standard deviation over seeds (within worlds), by
world, and at some tIoU; differences to the reference, paired over worlds and seeds, with their standard deviation,
pairs ahead, the sign test and an interval by bootstrap over videos and seeds; the area under the ROC curve of annotated
against other test snippets, by attention P^A and through the clusters, P^T. It is written to OUT/FAMILY.md as well.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ablation_tables import Row
from evidence_runs import FAMILIES, MEAN, ROWS, Run, decides_figures, parse_row, plan, read_result, run_missing

from casejax.cli.options import Parser, add_options, asks_for_all, given_options, parse, parse_seeds, run_command
from casejax.errors import OptionError
from casejax.evaluate.paired import resample_seeds, sign_test
from casejax.run.config import Config
from casejax.runtime import files

TIOUS = ("0.10", "0.30", "0.50", "0.70")


def print_table(family: str, runs: Sequence[Run], reference: str) -> str:
    """The table of a family in Markdown."""
    results = {(run.row, run.world, run.seed): read_result(run) or {} for run in runs}
    rows, worlds, seeds = (list(dict.fromkeys(run[k] for run in runs)) for k in range(3))
    first = runs[0].config.schedule
    lines = [
        f"{family}: {FAMILIES[family].says}; worlds {_listed(worlds)}, seeds {_listed(seeds)}, {first.epochs} epochs, "
        f"T = {first.num_snippets}, learning rate {first.learning_rate:g}, last step, %; {platform.machine()}, "
        f"{os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}",
        "",
        f"| row | mAP {MEAN} | by world | {' | '.join(f'{float(t):g}' for t in TIOUS)} | to {reference} | by world | "
        "ahead | sign test | 95 % | AUC P^A | AUC P^T |",
        f"| {' | '.join(['---'] * (10 + len(TIOUS)))} |",
    ]
    for row in rows:
        own = {w: [results[row, w, s] for s in seeds] for w in worlds}
        values = np.asarray([[100 * each["average_mAP"][MEAN] for each in own[w]] for w in worlds])
        every = [each for w in worlds for each in own[w]]
        cells = [
            f"{values.mean():.1f}{_sd(np.sqrt(values.var(axis=1, ddof=1).mean()) if len(seeds) > 1 else None)}",
            ", ".join(f"{mean:.1f}" for mean in values.mean(axis=1)),
            *(f"{100 * np.mean([each['mAP'][t] for each in every]):.1f}" for t in TIOUS),
            *(
                compared(own, {w: [results[reference, w, s] for s in seeds] for w in worlds})
                if row != reference
                else [""] * 5
            ),
            *(_auc([each["auc"][by] for each in every]) for by in ("attention", "transformed")),
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compared(own: dict[int, list[dict[str, Any]]], other: dict[int, list[dict[str, Any]]]) -> Iterator[str]:
    """Paired differences of a row to the reference, by world: mean and deviation, by world, ahead, p, interval."""
    gaps = [
        [100 * (a["average_mAP"][MEAN] - b["average_mAP"][MEAN]) for a, b in zip(own[w], other[w], strict=True)]
        for w in own
    ]
    flat = np.concatenate(gaps)
    yield f"{flat.mean():+.1f}{_sd(flat.std(ddof=1) if len(flat) > 1 else None)}"
    yield ", ".join(f"{np.mean(each):+.1f}" for each in gaps)
    yield f"{(flat > 0).sum()} of {len(flat)}"
    yield f"{sign_test(flat):.2g}"
    resampled = [
        resample_seeds(
            np.asarray([a["resampled"] for a in own[w]]) - np.asarray([b["resampled"] for b in other[w]]), seed=w
        )
        for w in own
    ]
    low, high = np.quantile(100 * np.mean(resampled, axis=0), [0.025, 0.975])
    yield f"{low:+.1f} to {high:+.1f}"


def _sd(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {deviation:.1f}"


def _auc(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else "-"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def choose_rows(wanted: list[str] | None, own: Sequence[Row], reference: str | None) -> tuple[list[Row], str]:
    """The rows of a table, and the one that the others are compared with."""
    known = {row.name: row for row in (*ROWS, *own)}
    if len(known) < len(ROWS) + len(own):
        raise OptionError(f"--row: names must differ from each other and from {', '.join(row.name for row in ROWS)}")
    for name in (*(wanted or ()), *([reference] if reference else [])):
        if name not in known:
            raise OptionError(f"row {name}: there is none of that name; choose of {', '.join(known)}, or add --row")
    chosen = [*(wanted if wanted is not None else [row.name for row in ROWS]), *(row.name for row in own)]
    reference = reference or ("no-clustering" if "no-clustering" in chosen else chosen[0])
    names = chosen if reference in chosen else [reference, *chosen]
    return [known[name] for name in names], reference


def main() -> int:
    """Parse the command line, run what is missing, print the tables."""
    parser = Parser(everything=asks_for_all(sys.argv), description=__doc__)
    parser.add_argument("families", nargs="+", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--penn", type=Path, metavar="LABELS", help="Penn Action's root or its folder labels")
    parser.add_argument("--thumos14", type=Path, metavar="FOLDER", help="gt.json and split_*.txt, as published")
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--rows", nargs="*", default=None, metavar="NAME", help=f"built-in rows to run ({names})")
    parser.add_argument("--row", action="append", default=[], metavar="NAME=FLAGS", help="a row of one's own")
    parser.add_argument("--reference", metavar="NAME", help="the row to compare with (no-clustering)")
    add_seeds = partial(parser.add_argument, nargs="+", type=parse_seeds, metavar="N")
    add_seeds("--worlds", default=[(0,)], help="seeds of the worlds, such as 0 1 2 or 0-2 (0)")
    add_seeds("--seeds", default=[tuple(range(5))], help="seeds of the runs (0-4)")
    parser.add_argument("--side-by-side", type=int, metavar="X", help="runs vectorised at a time (all; CPU: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs", "evidence"), help="folder of the results")
    parser.add_helps()
    case = Config.of("case", "corrected")
    add_options(parser, case, only=decides_figures)

    def command() -> None:
        arguments = parse(parser, sys.argv[1:], case)
        rows, reference = choose_rows(arguments.rows, [parse_row(text) for text in arguments.row], arguments.reference)
        shared = given_options(arguments, case)
        for family in dict.fromkeys(arguments.families):
            flag = FAMILIES[family].folder
            worlds, seeds = (dict.fromkeys(sum(each, ())) for each in (arguments.worlds, arguments.seeds))
            runs = plan(family, rows, list(worlds), list(seeds), shared, arguments.out)
            run_missing(family, runs, getattr(arguments, flag) if flag else None, arguments.side_by_side)
            table = print_table(family, runs, reference)
            files.write_text(arguments.out / f"{family}.md", table + "\n")
            print(f"\n{table}\n")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
