"""The ablations of the CASE paper as commands, and what its variants and their parts are worth.

Run:     python benchmarks/ablations.py --table 4                    on the embedded world, minutes on 2 CPU cores
         python benchmarks/ablations.py --table 5 6 --figure 3 --data DIR --seeds 0-4 --epochs 45 --learning-rate 1e-3
         python benchmarks/ablations.py --table variants factors     the variants; what changes what, one by one

         python benchmarks/ablations.py --table 1             parameters and multiply-accumulates, nothing is trained
         python benchmarks/ablations.py --table 2 --methods co2net aicl --data DIR  without and with the head

Tables 1, 2, 4, 5, 6, 7, 10, 11 and 12 and figures 3, 4 and 8 are the paper's. Every row runs over --seeds; mean and
standard deviation of the mAP averaged over tIoU 0.1:0.7 stand beside the figure of the paper, for THUMOS14 with I3D
features. The last column is the difference to the first row, in table 2 to the method alone, paired by seed. Every
option of the method is a flag that all rows share; a row's own options override it.

Rows and seeds of one shape train side by side in one program; a run that several rows share is trained once. Finished
runs are kept in OUT/runs.json and are not run again, so a stopped command goes on where it was. Beside it every table
leaves a .json and, with matplotlib, a .png.
"""

import hashlib
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pictures
from ablation_tables import COLUMNS, CURVES, TABLES, Row, rows_for
from model_sizes import print_sizes
from rich.console import Console
from rich.table import Table

from casejax.cli.main import SYNTHETIC
from casejax.cli.options import Parser, add_options, given_options, parse, parse_seeds, run_command
from casejax.data.layouts.published import read_dataset
from casejax.data.synthetic import make_world
from casejax.evaluate.protocols import CASE
from casejax.inference.evaluate import evaluate_scores
from casejax.inference.scoring import make_test_scorer
from casejax.methods import METHODS, VARIANTS
from casejax.records import Dataset
from casejax.report import canvas
from casejax.report import tables as report
from casejax.run.config import Config
from casejax.runtime import files
from casejax.train.ensemble import Member, train_ensemble
from casejax.train.loop import train


def marks_of(dataset: Dataset) -> dict[str, Any]:
    """What one data set is told from another by."""
    splits = (dataset.train, dataset.test)
    return {
        "source": Path(dataset.source).name,
        "dims": list(dataset.dims),
        "snippets": [int(split.features.lengths.sum()) for split in splits],
        "sums": [float(split.features.streams[0].sum()) for split in splits],
    }


class Runs:
    """Finished runs by their configuration and data, kept in a file."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path = path
        self._data = marks_of(dataset)
        self._done: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def key(self, config: Config) -> str:
        """Name of a run: a digest of all that decides its outcome."""
        decides = replace(config.changed(log_every=1, checkpoint_every=1), variant="official").as_dict()
        del decides["dataset"]
        text = json.dumps([decides, self._data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def get(self, config: Config) -> dict[str, Any] | None:
        """The run of a configuration, if it is done."""
        return self._done.get(self.key(config))

    def put(self, config: Config, result: dict[str, Any]) -> None:
        """Keep a run."""
        self._done[self.key(config)] = result
        files.write_json(self.path, self._done)


def evaluate(member: Member, dataset: Dataset, config: Config) -> dict[str, Any]:
    """Figures of one run on the test split, with the curves of its training."""
    scored = make_test_scorer(member.graphdef, dataset, config)(member.state.params, member.state.cluster_labels)
    _, detection, classification = evaluate_scores(scored.scores, dataset, config.localization)
    figures = report.summary(detection, classification, CASE)
    return figures | {"config": config.as_dict(), "metrics": list(member.metrics)}


def train_alone(config: Config, dataset: Dataset, runs: Runs) -> Member:
    """One run with a folder of its own, for options that an ensemble cannot take."""
    folder = runs.path.parent / runs.key(config)
    trained = train(dataset, config, folder, resume=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return Member(trained.graphdef, jax.device_get(trained.state), tuple(json.loads(line) for line in lines))


def train_missing(
    configs: list[Config], runs: Runs, dataset: Dataset, console: Console, side_by_side: int | None
) -> None:
    """Train and evaluate the configurations that have no run yet."""
    missing = list({runs.key(config): config for config in configs if runs.get(config) is None}.values())
    if not missing:
        return
    began = time.perf_counter()
    with console.status("training") as status:

        def show(done: int, total: int) -> None:
            seconds = time.perf_counter() - began
            status.update(f"{done} of {total} steps, {seconds:.0f} s, {seconds / done * (total - done):.0f} s to go")

        together = [config for config in missing if not config.flat().get("pseudo_labels")]
        for served, member in train_ensemble(dataset, together, side_by_side=side_by_side, on_progress=show):
            for index in served:
                runs.put(together[index], evaluate(member, dataset, together[index]))
    for config in missing:
        if config.flat().get("pseudo_labels"):
            runs.put(config, evaluate(train_alone(config, dataset, runs), dataset, config))
    console.print(f"{len(missing)} runs in {time.perf_counter() - began:.0f} s", highlight=False)


def spread(values: list[float], digits: int = 1) -> str:
    """Mean and, of more than one, standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def print_table(heading: str, rows: list[Row], found: list[list[dict[str, Any]]], console: Console) -> None:
    """Print every row over its seeds, beside the paper's figures and paired with the first row."""
    extra = list(dict.fromkeys(name for row in rows for name in row.paper if name != "mAP"))
    console.print(f"\n{heading}", style="bold", markup=False)
    table = Table("", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("mAP 0.1:0.7", *extra):
        table.add_column(name, justify="right")
        table.add_column("paper", justify="right")
    table.add_column("paired", justify="right")
    first = [COLUMNS["mAP"](run) for run in found[0]]
    for n, (row, runs) in enumerate(zip(rows, found, strict=True)):
        cells = []
        for name in ("mAP", *extra):
            values = [COLUMNS[name](run) for run in runs] if name in COLUMNS else []
            cells += [
                spread(values, 2 if name.startswith("H") else 1) if values else "-",
                f"{row.paper[name]:g}" if name in row.paper else "-",
            ]
        others = [COLUMNS["mAP"](run) for run in found[n - 1]] if row.above else first
        paired = [COLUMNS["mAP"](run) - other for run, other in zip(runs, others, strict=True)]
        alone = n == 0 or (rows[-1].above and not row.above)
        table.add_row(row.name, *cells, "" if alone else spread(paired))
    console.print(table)


def write_table(
    name: str, heading: str, rows: list[Row], found: list[list[dict[str, Any]]], out: Path, console: Console
) -> None:
    """Write a table's figures, and its picture where matplotlib is at hand."""
    content = [
        {
            "row": row.name,
            "options": row.options,
            "paper": row.paper,
            "mAP": [COLUMNS["mAP"](run) for run in runs],
            "runs": [{k: v for k, v in run.items() if k not in ("metrics", "config")} for run in runs],
        }
        for row, runs in zip(rows, found, strict=True)
    ]
    files.write_json(out / f"{name}.json", {"heading": heading, "rows": content})
    try:
        if name in CURVES:
            series = {
                f"{label} ({row.name})" if len(rows) > 1 else label: [
                    [(line["step"], line[key]) for line in run["metrics"]] for run in runs
                ]
                for row, runs in zip(rows, found, strict=True)
                for key, label in CURVES[name].items()
            }
            figure = pictures.evolution(heading, series)
        else:
            figure = pictures.comparison(
                heading,
                [(row.name, entry["mAP"], row.paper.get("mAP")) for row, entry in zip(rows, content, strict=True)],
            )
        canvas.save(figure, out / f"{name}.png")
    except ImportError as error:
        console.print(f"no picture: {error}", markup=False)


def main() -> int:
    """Parse the command line, train what is missing, print and write the tables."""
    parser = Parser(everything=True, description=__doc__)
    tables = [name for name in TABLES if not name.startswith("fig")]
    parser.add_argument("--table", nargs="+", default=[], choices=["1", *tables, "variants", "factors"])
    parser.add_argument("--figure", nargs="+", default=[], choices=["3", "4", "8"])
    methods = [name for name, method in METHODS.items() if method.can_be_clustered]
    parser.add_argument("--methods", nargs="+", choices=methods, help="those of table 2 to train (default: all)")
    parser.add_argument("--data", type=Path, help="folder in the published layout; default: the synthetic world")
    parser.add_argument("--world", type=int, default=0, help="seed of the synthetic world")
    parser.add_argument("--streams", default="rgb,flow", help="feature streams, comma-separated")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2), help="such as 0,1,2 or 0-4 (default: 0-2)")
    parser.add_argument("--variant", default="official", choices=VARIANTS, help="what the rows start from")
    parser.add_argument(
        "--side-by-side", type=int, metavar="X", help="runs vectorised at a time (default: all; CPU: 1)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs", "ablations"), help="folder of the results")
    parser.add_helps()
    case = Config.of("case")
    add_options(parser, case)
    arguments = parse(parser, sys.argv[1:], case)
    names = arguments.table + [f"fig{number}" for number in arguments.figure]
    if not names:
        parser.error("name at least one --table or --figure")

    wanted_methods = arguments.methods or methods
    options = (SYNTHETIC if arguments.data is None else {}) | given_options(arguments, case)

    def command() -> None:
        console = Console(width=None if sys.stdout.isatty() else 140)
        if "1" in names:
            print_sizes(console)
            names.remove("1")
        if not names:
            return
        base = Row("", {}).config(arguments.variant, options)
        if arguments.data:
            dataset = read_dataset(arguments.data, streams=tuple(arguments.streams.split(",")))
        else:
            dataset = make_world(seed=arguments.world)
        runs = Runs(arguments.out / "runs.json", dataset)
        wanted = {
            name: (
                heading,
                rows,
                [[row.config(arguments.variant, options | {"seed": seed}) for seed in arguments.seeds] for row in rows],
            )
            for name in names
            for heading, every in [rows_for(name)]
            for rows in [[row for row in every if name != "2" or row.method.split("+")[0] in wanted_methods]]
        }
        configs = [config for _, _, table in wanted.values() for row in table for config in row]
        train_missing(configs, runs, dataset, console, arguments.side_by_side)
        console.print(
            f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}; "
            f"{dataset.source}, variant {arguments.variant}, {base.schedule.epochs} epochs, "
            f"T = {base.schedule.num_snippets}, learning rate {base.schedule.learning_rate:g}, "
            f"seeds {','.join(map(str, arguments.seeds))}, last step, %",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        for name, (heading, rows, table) in wanted.items():
            found = [[runs.get(config) or {} for config in row] for row in table]
            print_table(heading, rows, found, console)
            write_table(name, heading, rows, found, arguments.out, console)
        console.print(f"\nfigures and pictures are in {arguments.out}", highlight=False, markup=False)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
