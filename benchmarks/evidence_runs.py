"""What `evidence.py` runs: families of worlds, rows of options, and their runs, each with a result of its own."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ablation_tables import BASELINE, Row
from ablations import marks_of

from casejax.cli.main import SYNTHETIC, UNTRIMMED_MOTION
from casejax.cli.options import Parser, add_options, configured, given_options, parse
from casejax.data import make_surrogate_features, make_untrimmed_motion, make_world, read_penn_action
from casejax.errors import DataError, OptionError
from casejax.evaluate import bootstrap_detections
from casejax.evaluate.classification import area_under_roc
from casejax.inference.evaluate import evaluate_scores, usual_protocol
from casejax.inference.scoring import make_test_scorer
from casejax.methods import VARIANTS, find
from casejax.records import Dataset, SnippetScores, Split
from casejax.run.config import Config, Option
from casejax.runtime import files
from casejax.train.ensemble import Member, train_ensemble

ROWS = (
    Row("baseline-official", BASELINE, variant="official"),
    Row("official", {}, variant="official"),
    Row("paper", {}, variant="paper"),
    Row("paper-head", {"cas_weight": 1.0, "nms": "soft"}, variant="paper"),
    Row("no-clustering", BASELINE, variant="corrected"),
    Row("attention-alone", {"transformed_weight": 0.0}, variant="corrected"),
    Row("corrected", {}, variant="corrected"),
)
"""The built-in rows: `no-clustering` is `corrected` without the clustering head, `attention-alone` leaves it out of
inference, `paper-head` is `corrected` with the head as the paper has it."""

MEAN = "0.1:0.7"


@dataclass(frozen=True)
class Family:
    """Worlds of one kind.

    Attributes:
      says: what they are.
      make: the folder the family needs and a seed, to a world.
      options: of the schedule, which flags override.
      folder: the flag that names the folder; None if none is needed.
    """

    says: str
    make: Callable[[Path | None, int], Dataset]
    options: Mapping[str, Any]
    folder: str | None = None


@cache
def tracks_of(labels: Path) -> Any:
    """Penn Action's tracks, read once for all worlds."""
    return read_penn_action(labels)


FAMILIES = {
    "motion": Family(
        "real motion: untrimmed videos composed of Penn Action's labels",
        lambda labels, seed: make_untrimmed_motion(tracks_of(labels), seed=seed),
        UNTRIMMED_MOTION,
        "penn",
    ),
    "thumos": Family(
        "surrogate features for THUMOS14's annotations",
        lambda folder, seed: make_surrogate_features(folder, seed=seed),
        {"num_snippets": 320, "epochs": 45, "learning_rate": 1e-3},
        "thumos14",
    ),
    "world": Family("the embedded world", lambda _, seed: make_world(seed=seed), SYNTHETIC),
}


def make_dataset(family: str, folder: Path | None, world: int) -> Dataset:
    """A world of a family.

    Raises:
      OptionError: no folder, where the family needs one.
    """
    if folder is None and FAMILIES[family].folder:
        raise OptionError(f"family {family} needs --{FAMILIES[family].folder} FOLDER to make world {world}")
    return FAMILIES[family].make(folder, world)


def decides_figures(option: Option) -> bool:
    """Whether an option is one of a row: not the seed, which the table varies, nor where and how a run is kept."""
    return option.group != "training"


def parse_row(text: str) -> Row:
    """A row from NAME=FLAGS.

    Raises:
      OptionError: no name that a file can have, or flags that its method does not have or that have no effect.
    """
    name, equals, flags = text.partition("=")
    if not equals or not re.fullmatch(r"\w[\w.+-]*", name):
        raise OptionError(f"--row {text!r}: write NAME=FLAGS with a name of letters, digits, '.', '+', '-' and '_'")
    words = shlex.split(flags)
    chosen = Parser()
    chosen.add_argument("--method", default="case")
    chosen.add_argument("--variant", choices=VARIANTS)
    first, _ = chosen.parse_known_args(words)
    variant = first.variant or ("corrected" if "corrected" in find(first.method).variants else "official")
    start = Config.of(first.method, variant)
    add_options(chosen, start, only=decides_figures)
    given = given_options(parse(chosen, words, start), start)
    configured(start, given)
    return Row(name, given, method=first.method, variant=variant)


# Runs


class Run(NamedTuple):
    """One run of a row: where its result is, or will be."""

    row: str
    world: int
    seed: int
    config: Config
    path: Path


def plan(
    family: str, rows: Sequence[Row], worlds: Sequence[int], seeds: Sequence[int], shared: Mapping[str, Any], out: Path
) -> list[Run]:
    """Every run of a table."""
    options = {**FAMILIES[family].options, **shared}
    return [
        Run(row.name, world, seed, row.config("corrected", {**options, "seed": seed}), place / f"seed-{seed}.json")
        for row in rows
        for world in worlds
        for place in [out / family / f"world-{world}" / row.name]
        for seed in seeds
    ]


def read_result(run: Run) -> dict[str, Any] | None:
    """The result of a run, if there is one.

    Raises:
      DataError: a file that cannot be read, or the result of other options.
    """
    if not run.path.exists():
        return None
    try:
        result = json.loads(run.path.read_text(encoding="utf-8"))
        done = Config.from_dict(result["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run.path}: cannot be read ({error}); remove it, and it is run again") from error
    was, wanted = (_decides(config) for config in (done, run.config))
    if was != wanted:
        name = next(name for name in {**was, **wanted} if was.get(name) != wanted.get(name))
        raise DataError(
            f"{run.path}: was run with {name} {was.get(name)}, row {run.row} has {wanted.get(name)}; remove it, give "
            "the row another name, or use another --out"
        )
    return result


def _decides(config: Config) -> dict[str, Any]:
    """The options that decide the outcome of a run; one that came later is as it was then."""
    acting = {each.name: each.value for each in config.options() if each.acts}
    return {"method": config.method.name, **acting, "log_every": None, "checkpoint_every": None}


def run_missing(family: str, runs: Sequence[Run], folder: Path | None, side_by_side: int | None) -> None:
    """Train and evaluate the runs without a result, world by world, those of one shape in one program."""
    for world in dict.fromkeys(run.world for run in runs):
        missing = [run for run in runs if run.world == world and read_result(run) is None]
        if not missing:
            continue
        dataset = make_dataset(family, folder, world)
        marks = marks_of(dataset)
        for run in runs:
            if run.world == world and run not in missing:
                _check_data(run, marks)
        since = time.perf_counter()
        members = train_ensemble(dataset, [run.config for run in missing], side_by_side=side_by_side)
        for served, member in members:
            done = [missing[index] for index in served]
            for run in done:
                files.write_json(run.path, {"data": marks, **judged(member, dataset, run)})
            names, now = ", ".join(run.row for run in done), time.perf_counter()
            print(f"{family}, world {world}, seed {done[0].seed}, {names}: {now - since:.0f} s", flush=True)
            since = now


def _check_data(run: Run, marks: dict[str, Any]) -> None:
    found = json.loads(run.path.read_text(encoding="utf-8"))["data"]
    if found != json.loads(json.dumps(marks)):
        raise DataError(
            f"{run.path}: is of other data ({found['source']}, snippets {found['snippets']}) than {marks['source']}, "
            f"snippets {marks['snippets']}; use another --out"
        )


def judged(member: Member, dataset: Dataset, run: Run) -> dict[str, Any]:
    """Figures of one run on the test split, fractions; `resampled` are means over tIoU of resamples of its videos."""
    config, test = run.config, dataset.test
    scores = make_test_scorer(member.graphdef, dataset, config)(member.state.params, member.state.cluster_labels).scores
    protocol = usual_protocol(config, dataset)
    found = evaluate_scores(scores, dataset, config.localization, protocol=protocol)
    if found.detection is None:
        raise DataError(f"{dataset.source}: no test video has annotated times to judge by")
    resampled = bootstrap_detections(
        found.detections,
        test.ground_truth(dataset.classes),
        dataset.classes,
        videos=[video.id for video in test.videos],
        protocol=protocol,
        seed=run.world,
    ).mean_ap.mean(axis=1)
    return {
        "config": config.as_dict(),
        "mAP": {f"{tiou:.2f}": float(ap) for tiou, ap in zip(protocol.tious, found.detection.mean_ap, strict=True)},
        "average_mAP": {MEAN: found.detection.average(0.1, 0.7)},
        "auc": snippet_auc(scores, dataset, config),
        "loss": member.metrics[-1]["loss"],
        "resampled": np.round(resampled, 5).tolist(),
    }


def snippet_auc(scores: SnippetScores, dataset: Dataset, config: Config) -> dict[str, float | None]:
    """How well P^A and P^T tell annotated from other test snippets, over the places that were scored."""
    real, annotated = annotated_places(dataset, np.shape(scores.fused)[1], config.localization.test_sampling == "whole")
    trained = config.flat().get("snippet_weight", 0.0) > 0
    by = {"attention": scores.attention, "transformed": scores.transformed if trained else None}
    return {
        name: None if each is None else area_under_roc(np.asarray(each)[real], annotated[real])
        for name, each in by.items()
    }


def annotated_places(dataset: Dataset, places: int, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """(V, T) which places of the test videos hold a snippet, and which hold one whose middle an instance covers."""
    real, labels = class_places(dataset, dataset.test, places, whole)
    return real, labels >= 0


def class_places(dataset: Dataset, split: Split, places: int, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """(V, T) which places of a split hold a snippet of a video with annotated times, and the class it belongs to.

    The class is that of the first instance that covers the middle of the snippet; -1 where there is none.
    """
    lengths = split.features.lengths[:, None]
    snippets = np.arange(places)[None] if whole else np.arange(places)[None] * lengths // places
    middles = (snippets + 0.5) * dataset.row_seconds(split)[:, None] + dataset.timing.offset
    index = {name: c for c, name in enumerate(dataset.classes)}
    labels = np.full((len(split.videos), places), -1)
    for own, video, middle in zip(labels, split.videos, np.broadcast_to(middles, labels.shape), strict=True):
        for (start, end), name in reversed(list(zip(video.segments, video.segment_labels, strict=True))):
            own[(start <= middle) & (middle < end)] = index[name]
    return (snippets < lengths) & split.timed[:, None], labels
