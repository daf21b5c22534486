"""A student beside its teacher: the same worlds and seeds, weakly taught, with time stamps and with segments; paired.

Run:     python benchmarks/student.py motion --penn LABELS --worlds 3 --seeds 0-4
         python benchmarks/student.py thumos --thumos14 FOLDER --worlds 2
         python benchmarks/student.py world --worlds 1 --rows weak second segments
         python benchmarks/student.py world --worlds 0 --rows weak --row "sure=--keep 0.7"

Families of worlds are those of `evidence.py`. The teacher of a world and seed is CASE, `corrected`, with the options
that it has there; `weak` learns from what it finds in the training videos, `second` from what `weak` finds, `points`
from one time stamp an instance beside the teacher, `segments` from annotated segments, which is the ceiling. A row of
one's own starts from `weak`. Every run leaves OUT/FAMILY/world-W/ROW/seed-S.json and is not run again while that is
there; networks are in folders beside it. The last step is evaluated. The table has mAP over tIoU 0.1:0.7 and 0.3:0.7
in %, and paired differences to the teacher.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from evidence_runs import FAMILIES, Run, judged, make_dataset, read_result

from casejax.cli.options import Parser, add_options, configured, given_options, parse, parse_seeds, run_command
from casejax.errors import OptionError
from casejax.records import Dataset
from casejax.run.config import Config
from casejax.run.folder import Restored, restore_run
from casejax.runtime import files
from casejax.train import train
from casejax.train.ensemble import Member

TEACHER = "teacher"
ROWS: dict[str, dict[str, Any]] = {
    "weak": {},
    "second": {},
    "points": {"supervision": "points"},
    "segments": {"supervision": "segments"},
}
EPOCHS = {"motion": 20, "thumos": 20, "world": 45}
"""Of the student, by family; steps are about 500 everywhere."""


def configuration(family: str, row: str, options: Mapping[str, Any], seed: int) -> Config:
    """The options of one run."""
    if row == TEACHER:
        return Config.of("case", "corrected", **{**FAMILIES[family].options, "seed": seed})
    start = {"num_snippets": 256, "epochs": EPOCHS[family], "log_every": 25, "checkpoint_every": 10**6}
    return Config.of("student", **{**start, **options, "seed": seed})


def parse_row(text: str) -> tuple[str, dict[str, Any]]:
    """A row from NAME=FLAGS.

    Raises:
      OptionError: no name, or flags that the student does not have.
    """
    name, equals, flags = text.partition("=")
    if not equals or not name.replace("-", "_").isidentifier() or name in (TEACHER, *ROWS):
        raise OptionError(f"--row {text!r}: write NAME=FLAGS with a name of its own, of letters, digits and '-'")
    parser, start = Parser(), Config.of("student")
    add_options(parser, start)
    given = given_options(parse(parser, shlex.split(flags), start), start)
    configured(start, given)
    return name, given


def taught_by(run: Run) -> Restored | None:
    """The run whose instances another one learns; a second round comes after the first."""
    if run.row == TEACHER or run.config.settings.supervision == "segments":
        return None
    own = run.path.with_suffix("")
    return restore_run(own.parents[1] / ("weak" if run.row == "second" else TEACHER) / own.name)


def run_one(run: Run, dataset: Dataset) -> None:
    """Train and judge one run, unless its result is there."""
    if read_result(run) is not None:
        return
    place = run.path.with_suffix("")
    trained = train(dataset, run.config, place, resume=True, teacher=taught_by(run))
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    found = judged(Member(trained.graphdef, trained.state, tuple(lines)), dataset, run)
    files.write_json(run.path, {**found, "train_seconds": round(trained.seconds, 1)})
    averages = ", ".join(f"{100 * average(found, low):.1f}" for low in (0.1, 0.3))
    print(f"{run.row}, world {run.world}, seed {run.seed}: {averages}, trained in {trained.seconds:.0f} s", flush=True)


def average(result: Mapping[str, Any], low: float) -> float:
    """Mean mAP over tIoU from `low` to 0.7."""
    return float(np.mean([value for tiou, value in result["mAP"].items() if low - 1e-6 <= float(tiou) <= 0.7 + 1e-6]))


def print_table(family: str, runs: Sequence[Run]) -> str:
    """The table of what has been run, in Markdown; a seed counts where the teacher's result is there too."""
    results = {(run.row, run.world, run.seed): read_result(run) for run in runs}
    rows, keys = dict.fromkeys(run.row for run in runs), dict.fromkeys((run.world, run.seed) for run in runs)
    lines = [
        f"{family}: {FAMILIES[family].says}",
        "",
        "| row | worlds, runs | mAP 0.1:0.7 | to teacher | mAP 0.3:0.7 | to teacher | ahead | 0.3 | 0.5 | 0.7 | s |",
        f"| {' | '.join(['---'] * 11)} |",
    ]
    for row in rows:
        pairs = [(results[row, *key], results[TEACHER, *key], key) for key in keys]
        own = [(a, b, key) for a, b, key in pairs if a is not None and b is not None]
        if not own:
            continue
        cells = [row, f"{len({key[0] for _, _, key in own})}, {len(own)}"]
        for low in (0.1, 0.3):
            values = 100 * np.asarray([[average(a, low), average(b, low)] for a, b, _ in own])
            gaps = values[:, 0] - values[:, 1]
            cells += [_mean(values[:, 0]), "" if row == TEACHER else f"{_mean(gaps, '+')}"]
        cells.append("" if row == TEACHER else f"{(gaps > 0).sum()} of {len(gaps)}")
        cells += [f"{100 * np.mean([a['mAP'][t] for a, _, _ in own]):.1f}" for t in ("0.30", "0.50", "0.70")]
        cells.append(f"{np.mean([a['train_seconds'] for a, _, _ in own]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: np.ndarray, sign: str = "") -> str:
    return f"{values.mean():{sign}.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def main() -> int:
    """Parse the command line, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--penn", type=Path, metavar="LABELS", help="Penn Action's root or its folder labels")
    parser.add_argument("--thumos14", type=Path, metavar="FOLDER", help="gt.json and split_*.txt, as published")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--row", action="append", default=[], metavar="NAME=FLAGS", help="a row of one's own")
    add_seeds = partial(parser.add_argument, nargs="+", type=parse_seeds, metavar="N")
    add_seeds("--worlds", default=[(0,)], help="seeds of the worlds (0)")
    add_seeds("--seeds", default=[tuple(range(5))], help="seeds of the runs (0-4)")
    parser.add_argument("--out", type=Path, default=Path("runs", "student-evidence"))
    given = parser.parse_args()

    def command() -> None:
        names = ["weak", *given.rows] if "second" in given.rows else given.rows
        rows = {TEACHER: {}, **{name: ROWS[name] for name in names}, **dict(map(parse_row, given.row))}
        flag, runs = FAMILIES[given.family].folder, []
        for world in sum(given.worlds, ()):
            dataset = None
            for seed in sum(given.seeds, ()):
                own = [
                    Run(
                        row,
                        world,
                        seed,
                        configuration(given.family, row, options, seed),
                        given.out / given.family / f"world-{world}" / row / f"seed-{seed}.json",
                    )
                    for row, options in rows.items()
                ]
                runs += own
                if all(read_result(run) is not None for run in own):
                    continue
                dataset = dataset or make_dataset(given.family, getattr(given, flag) if flag else None, world)
                for run in own:
                    run_one(run, dataset)
        table = print_table(given.family, runs)
        files.write_text(given.out / f"{given.family}.md", table + "\n")
        print(f"\n{table}\n")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
