"""What are the clusters of CASE made of, and are they judged rightly? Annotated times of the snippets say so.

Run:     python benchmarks/clusters.py motion --penn LABELS --world 0 --seed 0 --rows paper-head corrected
         python benchmarks/clusters.py world --rows corrected --row "k16=--num-clusters 16"

Families and rows are those of `evidence.py`; rows must be of method `case` with its clusters trained. One run of each
row is trained and nothing is kept; annotated times are read after training alone. The table has, a row each:

- annotated: snippets of the test split that an instance covers, %.
- Q^A: foreground labels on the train split, at the places of inference, that an instance covers, %.
- clusters: those that hold 1 % of the test snippets or more.
- purity: largest share that a class, or what is no class, has in a cluster, mean by mass, %. One cluster of everything
  would have 100 % - annotated, or the share of a class if that is larger.
- shares: standard deviation by mass of the shares of annotated snippets in the clusters, %; 0 for clusters of a kind.
- AUC: area under the ROC curve of annotated against other test snippets, by P^A, by P^T, and by P^T if every cluster
  were judged by its true share of annotated snippets in the train split: how good clusters are apart from the judge.
- r: Pearson correlation by mass of Q^C and this true share, over clusters.
- P^A and P^T: mean and standard deviation over test snippets; ECE: expected calibration error, ten bins of equal width.
- mAP: mean over tIoU 0.1:0.7 with P^A, P^T or P^M in inference, %.

A snippet belongs to clusters by P^S as inference has it, in shares.

Printed by the first command with --hidden 128 --num-snippets 128 --test-num-snippets 256 on a CPU (one seed: no spread):

| row | annotated | Q^A | clusters | purity | shares | AUC P^A | AUC P^T | AUC true shares | r | P^A | ECE | P^T | ECE | mAP P^A | mAP P^T | mAP P^M |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| paper-head | 32.9 | 62.0 | 16 of 16 | 67.1 | 17.3 | 0.722 | 0.736 | 0.817 | 0.58 | 0.39 ± 0.19 | 0.070 | 0.19 ± 0.17 | 0.143 | 32.8 | 32.4 | 36.7 |
| corrected | 32.9 | 62.0 | 52 of 64 | 67.8 | 23.3 | 0.717 | 0.770 | 0.845 | 0.72 | 0.34 ± 0.25 | 0.084 | 0.32 ± 0.24 | 0.041 | 36.2 | 40.5 | 40.2 |

Purity is hardly above 67.1, that of one cluster of everything: what is no class is the largest part of nearly every
cluster. Clusters differ in how much of them is annotated, and Q^C misses part of that: with true shares, P^T would have an
AUC greater by 0.08.
"""  # noqa: E501

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ablation_tables import Row
from evidence import choose_rows
from evidence_runs import FAMILIES, MEAN, ROWS, class_places, decides_figures, make_dataset, parse_row, plan
from flax import nnx

from casejax.cli.options import Parser, add_options, asks_for_all, given_options, parse, run_command
from casejax.errors import DataError, OptionError
from casejax.evaluate.classification import area_under_roc
from casejax.inference.evaluate import evaluate_scores, usual_protocol
from casejax.inference.scoring import make_test_scorer, score_videos
from casejax.methods.case.inference import clustered_foreground
from casejax.methods.case.objective import group_selection, stream_groups
from casejax.methods.contract import Outputs
from casejax.records import Dataset, Split
from casejax.run.config import Config
from casejax.train.ensemble import Member, train_ensemble

COLUMNS = (
    *("annotated", "Q^A", "clusters", "purity", "shares"),
    *("AUC P^A", "AUC P^T", "AUC true shares", "r"),
    *("P^A", "ECE", "P^T", "ECE"),
    *(f"mAP {by}" for by in ("P^A", "P^T", "P^M")),
)


# Statistics


class Composition(NamedTuple):
    """What K clusters are made of.

    Attributes:
      mass: (K,) share of the snippets that each holds; they sum to 1.
      purity: (K,) largest share of one label in each.
      annotated: (K,) share of annotated snippets in each; 0 in a cluster without mass.
    """

    mass: np.ndarray
    purity: np.ndarray
    annotated: np.ndarray


def compose(assignment: np.ndarray, labels: np.ndarray) -> Composition:
    """The composition of clusters from P^S (N, K), whose rows sum to 1, and classes (N,), -1 for no class."""
    mass = np.stack([assignment[labels == label].sum(axis=0) for label in np.unique(labels)])
    held = np.maximum(mass.sum(axis=0), 1e-12)
    annotated = assignment[labels >= 0].sum(axis=0)
    return Composition(mass.sum(axis=0) / len(labels), mass.max(axis=0) / held, annotated / held)


def weighted_deviation(x: np.ndarray, weights: np.ndarray) -> float:
    """The standard deviation of x, weighted."""
    return float(np.sqrt(np.average((x - np.average(x, weights=weights)) ** 2, weights=weights)))


def weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's correlation of x and y, weighted; NaN where one of them is constant."""
    deviations = weighted_deviation(x, weights) * weighted_deviation(y, weights)
    if deviations < 1e-12:
        return float("nan")
    x, y = (each - np.average(each, weights=weights) for each in (x, y))
    return float(np.average(x * y, weights=weights) / deviations)


def calibration_error(probability: np.ndarray, true: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error: mean over snippets of what their bin's probability and share of hits differ by.

    Guo et al., On calibration of modern neural networks, 2017, Eq. 5.

    Args:
      probability: (N,), in [0, 1].
      true: (N,) bool.
      bins: of equal width; a probability on a border belongs to the bin above.
    """
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.bincount(index, probability - true, minlength=bins)
    return float(np.abs(gaps).sum() / len(probability))


# From a trained network to a row of the table


class Look(NamedTuple):
    """What the network says of a split, V videos of T snippets.

    Attributes:
      assignment: (V, T, K) P^S as P^T has it; S K clusters where streams have clusters of their own.
      attention: (V, T) P^A, one array a stream.
      cas: (V, T, C) class logits, one array a stream.
    """

    assignment: np.ndarray
    attention: tuple[np.ndarray, ...]
    cas: tuple[np.ndarray, ...]


def make_look(member: Member, config: Config) -> Callable[[Split, int], Look]:
    """A function of a split and the number of snippets T to `Look`."""
    shape = np.shape(member.state.cluster_labels)[:2]
    # P^T is linear in Q^C: with the Q^C that calls one cluster alone foreground, P^T is the P^S of this cluster.
    alone = jnp.eye(np.prod(shape)).reshape(-1, *shape)
    labels = jnp.stack([alone, 1 - alone], axis=-1)

    @jax.jit
    def look(params: Any, features: tuple[jax.Array, ...], rows: jax.Array | None = None) -> Look:
        outputs = nnx.merge(member.graphdef, params)(features, **({} if rows is None else {"rows": rows}))
        one = jax.vmap(lambda q: clustered_foreground(outputs, q, settings=config.settings).transformed, out_axes=-1)
        assignment = one(labels)
        if config.settings.head.co_label_clusters:
            assignment = assignment.reshape(*assignment.shape[:2], *shape).sum(axis=2)
        return Look(assignment, outputs.attention, outputs.cas)

    def of(split: Split, places: int) -> Look:
        return score_videos(
            partial(look, member.state.params), split.features, num_snippets=places, compact=config.may_be_compact
        )

    return of


def judgement(cluster_labels: np.ndarray, config: Config) -> np.ndarray:
    """(K,) the first column of Q^C (S, K, 2), a number for each cluster of `Look`."""
    first = np.asarray(cluster_labels)[..., 0]
    return first[0] if config.settings.head.co_label_clusters else first.reshape(-1)


def foreground_of(look: Look, labels: np.ndarray, config: Config) -> np.ndarray:
    """(V, T) Q^A, mean over the streams."""
    base = config.settings.base
    outputs = Outputs(tuple(map(jnp.asarray, look.cas)), (), tuple(map(jnp.asarray, look.attention)))
    groups = stream_groups(len(look.cas), together=base.co_label_selection)
    found = [
        group_selection(outputs, group, jnp.asarray(labels), cas_weight=base.cas_weight, settings=base)[1]
        for group in groups
    ]
    return np.mean(found, axis=0)


def places_of(config: Config) -> int:
    """Snippets T of a video in inference."""
    return config.localization.test_num_snippets or config.schedule.num_snippets


def figures_of(member: Member, dataset: Dataset, config: Config) -> dict[str, Any]:
    """All figures of one run, fractions."""
    places = places_of(config)
    look = make_look(member, config)
    state, protocol = member.state, usual_protocol(config, dataset)
    mean_ap = {}
    for name, weight in (("P^A", 0.0), ("P^T", 1.0), ("P^M", config.flat()["transformed_weight"])):
        own = config.changed(transformed_weight=weight)
        scored = make_test_scorer(member.graphdef, dataset, own)(state.params, state.cluster_labels)
        detection = evaluate_scores(scored.scores, dataset, own.localization, protocol=protocol).detection
        if detection is None:
            raise DataError(f"{dataset.source}: no test video has annotated times to judge by")
        mean_ap[name] = detection.average(0.1, 0.7)

    found, truths = {}, {}
    for split in (dataset.train, dataset.test):
        found[split.name] = look(split, places)
        truths[split.name] = class_places(dataset, split, places, whole=False)
    real, labels = truths["train"]
    foreground = foreground_of(found["train"], dataset.train.multi_hot(dataset.classes), config)[real]
    precision = foreground[labels[real] >= 0].sum() / foreground.sum()
    truth = compose(found["train"].assignment[real], labels[real])

    real, labels = truths["test"]
    annotated = labels[real] >= 0
    assignment = found["test"].assignment[real]
    test = compose(assignment, labels[real])
    probability = {
        "P^A": np.mean(found["test"].attention, axis=0)[real],
        "P^T": np.asarray(scored.scores.transformed)[real],
    }
    return {
        "annotated": annotated.mean(),
        "foreground precision": precision,
        "clusters": (int((test.mass >= 0.01).sum()), len(test.mass)),
        "purity": np.average(test.purity, weights=test.mass),
        "shares": weighted_deviation(test.annotated, test.mass),
        "auc": {name: area_under_roc(each, annotated) for name, each in probability.items()}
        | {"true": area_under_roc(assignment @ truth.annotated, annotated)},
        "correlation": weighted_correlation(judgement(scored.cluster_labels, config), truth.annotated, truth.mass),
        "probability": {
            name: (each.mean(), each.std(), calibration_error(each, annotated)) for name, each in probability.items()
        },
        "mAP": mean_ap,
    }


def cells(figures: dict[str, Any]) -> Iterator[str]:
    """The cells of a row, as `COLUMNS`."""
    yield from (f"{100 * figures[name]:.1f}" for name in ("annotated", "foreground precision"))
    yield "{} of {}".format(*figures["clusters"])
    yield from (f"{100 * figures[name]:.1f}" for name in ("purity", "shares"))
    yield from (f"{figures['auc'][name]:.3f}" for name in ("P^A", "P^T", "true"))
    yield f"{figures['correlation']:.2f}"
    for mean, deviation, error in figures["probability"].values():
        yield from (f"{mean:.2f} ± {deviation:.2f}", f"{error:.3f}")
    yield from (f"{100 * figures['mAP'][name]:.1f}" for name in ("P^A", "P^T", "P^M"))


def check_row(row: Row, config: Config) -> None:
    """Whether a row has clusters to look at.

    Raises:
      OptionError: it has not, or does not resample test videos.
    """
    if config.method.name != "case":
        raise OptionError(f"row {row.name}: method {config.method.name}; only the clusters of case are looked at")
    if not config.flat()["snippet_weight"]:
        raise OptionError(f"row {row.name}: snippet_weight 0 trains no clusters; give it a weight or leave it out")
    if config.localization.test_sampling != "resampled":
        raise OptionError(
            f"row {row.name}: test_sampling {config.localization.test_sampling}; clusters are looked at in videos of "
            "equally many snippets, so give --test-sampling resampled"
        )


def print_table(
    family: str, rows: list[Row], world: int, seed: int, shared: dict[str, Any], folder: Path | None
) -> str:
    """Train a run of each row, and the table in Markdown."""
    runs = plan(family, rows, [world], [seed], shared, Path())
    for row, run in zip(rows, runs, strict=True):
        check_row(row, run.config)
    dataset = make_dataset(family, folder, world)
    lines, since = {}, time.perf_counter()
    for served, member in train_ensemble(dataset, [run.config for run in runs]):
        for index in served:
            found = figures_of(member, dataset, runs[index].config)
            lines[index] = f"| {runs[index].row} | {' | '.join(cells(found))} |"
            print(f"{family}, {runs[index].row}: {time.perf_counter() - since:.0f} s", flush=True)
            since = time.perf_counter()
    schedule = runs[0].config.schedule
    places = places_of(runs[0].config)
    head = (
        f"{family}: {FAMILIES[family].says}; world {world}, seed {seed}, {schedule.epochs} epochs, "
        f"T = {schedule.num_snippets} and in inference {places}, hidden {runs[0].config.flat()['hidden']}; mAP {MEAN}"
    )
    rule = " | ".join(["---"] * (1 + len(COLUMNS)))
    return "\n".join([head, "", f"| row | {' | '.join(COLUMNS)} |", f"| {rule} |", *(lines[i] for i in sorted(lines))])


def main() -> int:
    """Parse the command line, train, print the table."""
    parser = Parser(everything=asks_for_all(sys.argv), description=__doc__)
    parser.add_argument("family", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--penn", type=Path, metavar="LABELS", help="Penn Action's root or its folder labels")
    parser.add_argument("--thumos14", type=Path, metavar="FOLDER", help="gt.json and split_*.txt, as published")
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--rows", nargs="*", default=None, metavar="NAME", help=f"built-in rows, of {names}")
    parser.add_argument("--row", action="append", default=[], metavar="NAME=FLAGS", help="a row of one's own")
    parser.add_argument("--world", type=int, default=0, metavar="N", help="seed of the world (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the runs (0)")
    parser.add_helps()
    case = Config.of("case", "corrected")
    add_options(parser, case, only=decides_figures)

    def command() -> None:
        arguments = parse(parser, sys.argv[1:], case)
        wanted = ["paper-head", "corrected"] if arguments.rows is None else arguments.rows
        rows, _ = choose_rows(wanted, [parse_row(text) for text in arguments.row], None)
        flag = FAMILIES[arguments.family].folder
        folder = getattr(arguments, flag) if flag else None
        shared = given_options(arguments, case)
        print("\n" + print_table(arguments.family, rows, arguments.world, arguments.seed, shared, folder) + "\n")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
