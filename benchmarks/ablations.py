"""The ablations of the CASE paper as commands, and what its variants and their parts are worth.

Run:     python benchmarks/ablations.py --table 4                    on the embedded world, minutes on 2 CPU cores
         python benchmarks/ablations.py --table 5 6 --figure 3 --data DIR --seeds 0-4 --epochs 45 --learning-rate 1e-3
         python benchmarks/ablations.py --table variants factors     the variants; what changes what, one by one

Tables 4, 5, 6, 7, 10, 11 and 12 and figures 3, 4 and 8 are the paper's. Every row runs over --seeds; mean and standard
deviation of the mAP averaged over tIoU 0.1:0.7 stand beside the figure of the paper, for THUMOS14 with I3D features.
The last column is the difference to the first row, paired by seed. Every option of the method is a flag that all rows
share; a row's own options override it.

Rows and seeds of one shape train side by side in one program; a run that several rows share is trained once. Finished
runs are kept in OUT/runs.json and are not run again, so a stopped command goes on where it was. Beside it every table
leaves a .json and, with matplotlib, a .png.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from casejax import plots, report
from casejax.data.formats import read_dataset
from casejax.data.records import Dataset
from casejax.data.synthetic import make_world
from casejax.evaluate.detection import CASE
from casejax.train.config import Config
from casejax.train.ensemble import Member, train_ensemble
from casejax.train.options import add_options, config_from, parse_seeds, run_command
from casejax.train.scoring import evaluate_scores, make_test_scorer
from casejax.train.variants import OFFICIAL, SYNTHETIC, VARIANTS, variant

BASELINE = {"snippet_weight": 0.0, "cluster_weight": 0.0, "transformed_weight": 0.0}
CLASSES_ONLY = BASELINE | {"attention_weight": 0.0, "cas_weight": 1.0, "test_cas_weight": 1.0}
COMPONENTS = [
    ("baseline", BASELINE),
    ("+ SCC", {"cluster_weight": 0.0, "transformed_weight": 0.0, "prior": False}),  # Q^C does not exist yet: Eq. 10
    ("+ SCC + CCC", {"transformed_weight": 0.0}),
    ("+ SCC + CCC (T)", {}),
]


@dataclass(frozen=True)
class Row:
    """One line of a table: options, and the paper's figures for it, in % (`mAP`) or nats."""

    name: str
    options: dict[str, Any]
    paper: dict[str, float] = field(default_factory=dict)


def rows_of(names: list[tuple[str, dict[str, Any]]], paper: list[dict[str, float]]) -> list[Row]:
    """Rows from their names and options, and the paper's figures beside them."""
    return [Row(name, options, figures) for (name, options), figures in zip(names, paper, strict=True)]


TABLES: dict[str, tuple[str, list[Row]]] = {
    "4": (
        "Table 4: core components",
        rows_of(
            COMPONENTS,
            [
                {"mAP": 42.1, "0.3": 53.8, "0.5": 31.9, "0.7": 11.9},
                {"mAP": 43.2, "0.3": 55.3, "0.5": 33.7, "0.7": 12.4},
                {"mAP": 43.9, "0.3": 56.1, "0.5": 34.9, "0.7": 12.8},
                {"mAP": 46.2, "0.3": 59.2, "0.5": 37.7, "0.7": 13.7},
            ],
        ),
    ),
    "5": (
        "Table 5: labels of SCC with and without optimal transport",
        [
            Row("soft, no transport", {"transport": False}, {"mAP": 41.2, "H(mean P^S)": 2.77}),
            Row("hard, no transport", {"transport": False, "hard_labels": True}, {"mAP": 40.8, "H(mean P^S)": 0.01}),
            Row("soft, transport", {}, {"mAP": 46.2, "H(mean P^S)": 2.76}),
            Row("hard, transport", {"hard_labels": True}, {"mAP": 44.7, "H(mean P^S)": 2.75}),
        ],
    ),
    "6": (
        "Table 6 and appendix C.3: prior of SCC, marginal of CCC",
        [
            Row("CASE", {}, {"mAP": 46.2}),
            Row("Eq. 10 in SCC: no prior", {"prior": False}, {"mAP": 45.4}),
            Row("Eq. 9 in CCC: equal clusters", {"cluster_marginal": "equal"}, {"mAP": 44.0}),
            Row("P^A for the rank (C.3)", {"rank": "attention"}, {"mAP": 45.1}),
            Row("true rank", {"rank": "true"}),
            Row("true rank, sigma 0.3", {"rank": "true", "prior_std": 0.3}),
            Row("P^A for the rank, sigma 0.3", {"rank": "attention", "prior_std": 0.3}),
        ],
    ),
    "7": (
        "Table 7: foreground probability in inference",
        [
            Row("P^A", {"transformed_weight": 0.0}, {"mAP": 43.9}),
            Row("P^T", {"transformed_weight": 1.0}, {"mAP": 44.1}),
            Row("P^M", {"transformed_weight": 0.5}, {"mAP": 46.2}),
        ],
    ),
    "10": (
        "Table 10: components; the paper's ActivityNet figures are for its own data",
        rows_of(
            COMPONENTS,
            [
                {"mAP": 42.1, "ActivityNet v1.2": 25.6, "ActivityNet v1.3": 24.7},
                {"mAP": 43.2, "ActivityNet v1.2": 26.5, "ActivityNet v1.3": 25.4},
                {"mAP": 43.9, "ActivityNet v1.2": 27.0, "ActivityNet v1.3": 25.7},
                {"mAP": 46.2, "ActivityNet v1.2": 27.9, "ActivityNet v1.3": 26.8},
            ],
        ),
    ),
    "11": (
        "Table 11: the baseline",
        [
            Row("class branch", CLASSES_ONLY, {"mAP": 32.0}),
            Row("+ attention, plain cross-entropy", BASELINE | {"gce_exponent": 0.0}, {"mAP": 41.7}),
            Row("+ generalized cross-entropy", BASELINE, {"mAP": 42.1}),
        ],
    ),
    "12": (
        "Table 12: two-stream co-labelling",
        [
            Row("baseline without", BASELINE | {"co_label_selection": False}, {"mAP": 38.3}),
            Row("baseline with", BASELINE, {"mAP": 42.1}),
            Row("baseline with, clusters without", {"co_label_clusters": False}, {"mAP": 45.6}),
            Row("both with", {}, {"mAP": 46.2}),
        ],
    ),
    "fig3": (
        "Figure 3: number of clusters K",
        [Row("baseline", BASELINE, {"mAP": 42.1})]
        + [Row(f"K = {k}", {"num_clusters": k}, {"mAP": 46.2} if k == 16 else {}) for k in (2, 4, 8, 16, 32, 64, 128)],
    ),
    "fig4": (
        "Figure 4: entropy of the labels during training",
        [Row("Eq. 12: prior", {}), Row("Eq. 10: no prior", {"prior": False})],
    ),
    "fig8": ("Figure 8: P^A and Q^C during training", [Row("CASE", {})]),
}
FACTORS: list[tuple[str, dict[str, Any]]] = [
    ("omega 1 in training", {}),
    ("omega 1/3: official", {"cas_weight": 1 / 3}),
    ("omega 0.6", {"cas_weight": 0.6}),
    ("omega from 1 to 1/3 over 10 epochs", {"cas_weight": 1 / 3, "warmup_epochs": 10.0}),
    ("no SCC, no CCC", BASELINE),
    ("P^A alone in inference", {"transformed_weight": 0.0}),
    ("P^T alone in inference", {"transformed_weight": 1.0}),
    ("omega 0.4 in inference", {"test_cas_weight": 0.4}),
    ("Q^A of T / 4 snippets", {"foreground_divisor": 4}),
    ("plain cross-entropy for P^A", {"gce_exponent": 0.0}),
    ("true rank, sigma 0.3", {"rank": "true", "prior_std": 0.3}),
    ("converged transport", {"sinkhorn_iters": 100, "sinkhorn_tolerance": 1e-3}),
    ("probabilities fused", {"fuse": "probabilities"}),
    ("Q^C as a running mean, 0.9", {"cluster_momentum": 0.9}),
    ("Q^C of the whole train split", {"test_cluster_labels": "train"}),
    ("differentiable directions", {"projected": False}),
    ("prototypes of unit embeddings", {"prototype_features": "unit"}),
    ("clusters do not train the encoder", {"cluster_gradient": False, "prototype_gradient": False}),
    ("true tIoU in NMS", {"nms_plus_one": False}),
    ("soft NMS", {"nms": "soft"}),
    ("hard NMS", {"nms": "hard"}),
    ("outer ratio 0.25, score weight 0.15", {"outer_ratio": 0.25, "score_weight": 0.15}),
]
CURVES = {
    "fig4": {"entropy_snippet_labels": "H(Q^S)", "entropy_cluster_labels": "H(Q^C)"},
    "fig8": {
        f"{key}_{which}": f"{name}, {which}"
        for key, name in (("attention", "P^A"), ("cluster_foreground", "Q^C"))
        for which in ("max", "mean", "min")
    },
}
COLUMNS = {
    "0.3": lambda run: 100 * run["mAP"]["0.30"],
    "0.5": lambda run: 100 * run["mAP"]["0.50"],
    "0.7": lambda run: 100 * run["mAP"]["0.70"],
    "mAP": lambda run: 100 * run["average_mAP"]["0.1:0.7"],
    "H(mean P^S)": lambda run: run["metrics"][-1]["entropy_mean_assignment"],
}


def rows_for(table: str) -> tuple[str, list[Row]]:
    """Heading and rows of a table by name."""
    if table == "variants":
        named = [Row(name, choices(config)) for name, config in VARIANTS.items()]
        return "The variants, and the baseline of the published program", [
            Row("baseline", choices(OFFICIAL) | BASELINE),
            *named,
        ]
    if table == "factors":
        rows = [Row(name, choices(OFFICIAL) | {"cas_weight": 1.0} | options) for name, options in FACTORS]
        return "`official` with omega 1 in training, and one change at a time", rows
    return TABLES[table]


def choices(config: Config) -> dict[str, Any]:
    """The options by which a variant differs from any other, and its name."""
    flat = [each.flat() for each in VARIANTS.values()]
    mine = config.flat()
    return {"variant": config.variant} | {
        name: value for name, value in mine.items() if any(other[name] != value for other in flat)
    }


class Runs:
    """Finished runs by their configuration and data, kept in a file."""

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path = path
        self._data = {
            "source": Path(dataset.source).name,
            "dims": list(dataset.dims),
            "snippets": [int(split.features.lengths.sum()) for split in (dataset.train, dataset.test)],
            "sums": [float(split.features.streams[0].sum()) for split in (dataset.train, dataset.test)],
        }
        self._done: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def key(self, config: Config) -> str:
        """Name of a run: a digest of all that decides its outcome."""
        decides = config.changed(variant="official", log_every=1, checkpoint_every=1).as_dict()
        text = json.dumps([decides, self._data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def get(self, config: Config) -> dict[str, Any] | None:
        """The run of a configuration, if it is done."""
        return self._done.get(self.key(config))

    def put(self, config: Config, result: dict[str, Any]) -> None:
        """Keep a run."""
        self._done[self.key(config)] = result
        report.write_json(self.path, self._done)


def evaluate(member: Member, dataset: Dataset, config: Config) -> dict[str, Any]:
    """Figures of one run on the test split, with the curves of its training."""
    scored = make_test_scorer(member.graphdef, dataset, config)(member.state.params, member.state.cluster_labels)
    _, detection, classification = evaluate_scores(scored.scores, dataset, config.inference)
    figures = report.summary(detection, classification, CASE)
    return figures | {"config": config.as_dict(), "metrics": list(member.metrics)}


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

        for served, member in train_ensemble(dataset, missing, side_by_side=side_by_side, on_progress=show):
            for index in served:
                runs.put(missing[index], evaluate(member, dataset, missing[index]))
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
    table.add_column("to the first, paired", justify="right")
    first = [COLUMNS["mAP"](run) for run in found[0]]
    for row, runs in zip(rows, found, strict=True):
        cells = []
        for name in ("mAP", *extra):
            values = [COLUMNS[name](run) for run in runs] if name in COLUMNS else []
            cells += [
                spread(values, 2 if name.startswith("H") else 1) if values else "-",
                f"{row.paper[name]:g}" if name in row.paper else "-",
            ]
        paired = [COLUMNS["mAP"](run) - base for run, base in zip(runs, first, strict=True)]
        table.add_row(row.name, *cells, "" if runs is found[0] else spread(paired))
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
    report.write_json(out / f"{name}.json", {"heading": heading, "rows": content})
    try:
        if name in CURVES:
            series = {
                f"{label} ({row.name})" if len(rows) > 1 else label: [
                    [(line["step"], line[key]) for line in run["metrics"]] for run in runs
                ]
                for row, runs in zip(rows, found, strict=True)
                for key, label in CURVES[name].items()
            }
            figure = plots.evolution(heading, series)
        else:
            figure = plots.comparison(
                heading,
                [(row.name, entry["mAP"], row.paper.get("mAP")) for row, entry in zip(rows, content, strict=True)],
            )
        plots.save(figure, out / f"{name}.png")
    except ImportError as error:
        console.print(f"no picture: {error}", markup=False)


def main() -> int:
    """Parse the command line, train what is missing, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = [name for name in TABLES if not name.startswith("fig")]
    parser.add_argument("--table", nargs="+", default=[], choices=[*tables, "variants", "factors"])
    parser.add_argument("--figure", nargs="+", default=[], choices=["3", "4", "8"])
    parser.add_argument("--data", type=Path, help="folder in the published layout; default: the synthetic world")
    parser.add_argument("--world", type=int, default=0, help="seed of the synthetic world")
    parser.add_argument("--streams", default="rgb,flow", help="feature streams, comma-separated")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2), help="such as 0,1,2 or 0-4 (default: 0-2)")
    parser.add_argument("--variant", default="official", choices=VARIANTS, help="what the rows start from")
    parser.add_argument(
        "--side-by-side", type=int, metavar="X", help="runs vectorised at a time (default: all; CPU: 1)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs", "ablations"), help="folder of the results")
    add_options(parser)
    arguments = parser.parse_args()
    names = arguments.table + [f"fig{number}" for number in arguments.figure]
    if not names:
        parser.error("name at least one --table or --figure")

    def command() -> None:
        console = Console(width=None if sys.stdout.isatty() else 140)
        start = variant(arguments.variant)
        base = config_from(arguments, start if arguments.data else start.changed(**SYNTHETIC))
        if arguments.data:
            dataset = read_dataset(arguments.data, streams=tuple(arguments.streams.split(",")))
        else:
            dataset = make_world(seed=arguments.world)
        runs = Runs(arguments.out / "runs.json", dataset)
        wanted = {
            name: (
                heading,
                rows,
                [[base.changed(**row.options, seed=seed) for seed in arguments.seeds] for row in rows],
            )
            for name in names
            for heading, rows in [rows_for(name)]
        }
        configs = [config for _, _, table in wanted.values() for row in table for config in row]
        train_missing(configs, runs, dataset, console, arguments.side_by_side)
        console.print(
            f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}; "
            f"{dataset.source}, variant {arguments.variant}, {base.train.epochs} epochs, "
            f"T = {base.method.num_snippets}, learning rate {base.train.learning_rate:g}, "
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
