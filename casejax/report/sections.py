"""The sections of a report page. What a method or a run does not have is left out with one sentence."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from casejax.errors import DataError
from casejax.evaluate import (
    KINDS,
    average_precision_of_groups,
    diagnose,
    gain_without,
    kinds_by_rank,
    quantile_groups,
)
from casejax.report import charts, pictures
from casejax.report.analysis import NAME, Analysis
from casejax.report.charts import Spec
from casejax.report.comparison import Finished, differences, paired
from casejax.report.finished import Run

NO_ANALYSIS = f"{NAME} is not in the folder, so this is left out: casejax eval RUN --data DIR writes it."


@dataclass
class Page:
    """HTML and the charts that it places."""

    parts: list[str] = field(default_factory=list)
    charts: list[Spec] = field(default_factory=list)

    def heading(self, level: int, text: str, name: str = "") -> None:
        """A heading, which opens a place to link to."""
        self.parts.append(f'<h{level} id="{html.escape(name)}">{html.escape(text)}</h{level}>')

    def say(self, text: str, kind: str = "") -> None:
        """A paragraph."""
        self.parts.append(f'<p class="{kind}">{html.escape(text)}</p>')

    def draw(self, *specs: Spec | None) -> None:
        """Charts side by side where there is room."""
        shown = [spec for spec in specs if spec is not None]
        places = [f'<div class="chart" data-chart="{len(self.charts) + i}"></div>' for i in range(len(shown))]
        self.charts += shown
        self.parts.append(f'<div class="{"charts" if len(shown) > 1 else "wide"}">{"".join(places)}</div>')

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[Any]], *, sortable: bool = False, caption: str = ""
    ) -> None:
        """A table; numbers are shown with one decimal, None as a dash."""
        cell = "<button>{}</button>" if sortable else "{}"
        names = "".join(f'<th scope="col">{cell.format(html.escape(name))}</th>' for name in head)
        body = "".join(
            "<tr>" + "".join(f'<td data-value="{_value(x)}">{html.escape(_shown(x))}</td>' for x in row) + "</tr>"
            for row in rows
        )
        self.parts.append(
            f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
        )
        if caption:
            self.say(caption, "soft")


def describe_run(page: Page, run: Run, name: str, *, videos: Sequence[str], timelines: int, tiou: float | None) -> None:
    """All sections of one run; `name` is what links to it."""
    page.heading(2, run.name, name)
    page.say(f"{run.results.get('method', '')}; seed {run.results.get('seed')}, step {run.results.get('step')}")
    _result(page, run, name)
    _classes(page, run, name)
    _training(page, run, name)
    _timelines(page, run, name, videos, timelines)
    _clusters(page, run, name)
    _map(page, run, name)
    _errors(page, run, name, tiou)


def compare_runs(page: Page, runs: Sequence[Finished], others: Sequence[str]) -> None:
    """Runs side by side, with differences from the first over the seeds that both have."""
    page.heading(2, "Comparison", "comparison")
    for name in others:
        page.say(f"{name} has no mAP, so it is not compared.", "missing")
    if len(runs) < 2:
        page.say("Fewer than two runs have an mAP, so none are compared.", "missing")
        return
    shared = [c for c in next(iter(runs[0].figures.values())) if all(c in next(iter(r.figures.values())) for r in runs)]
    rows: list[list[Any]] = []
    for run in runs:
        values = np.stack([run.values(column) for column in shared])
        rows.append([run.name, len(run.figures), *(100 * values.mean(axis=1))])
        if values.shape[1] > 1:
            rows.append([f"{run.name}, sd", len(run.figures), *(100 * values.std(axis=1, ddof=1))])
    page.table(["mAP, %", "seeds", *shared], rows, caption="Mean over the seeds of each run; sd: standard deviation.")
    rows = []
    for run in runs[1:]:
        gaps = [paired(runs[0], run, column) for column in shared]
        if differing := differences(runs[0].judged, run.judged):
            page.say(
                f"{run.name} was judged otherwise than {runs[0].name}: {differing}. No difference is taken.", "warning"
            )
        elif gaps[0] is None:
            page.say(f"{run.name} shares no seed with {runs[0].name}, so no difference is paired.", "missing")
        else:
            rows.append([run.name, len(gaps[0].seeds), *(100 * gap.mean for gap in gaps if gap)])
            if len(gaps[0].seeds) > 1:
                rows.append([f"{run.name}, sd", len(gaps[0].seeds), *(100 * gap.deviation for gap in gaps if gap)])
    if rows:
        page.table(
            [f"minus {runs[0].name}", "seeds", *shared],
            rows,
            caption="Paired over the seeds that both have; points of mAP.",
        )
    places = [(run.name, seed, run.figures[seed][shared[-1]]) for run in runs for seed in sorted(run.figures)]
    page.draw(charts.paired_seeds(places, shared[-1]))


def _result(page: Page, run: Run, name: str) -> None:
    page.heading(3, "Result", f"{name}-result")
    results, trained = run.results, run.results.get("trained", {})
    for key in ("warning", *(["caveats"] if results.get("caveats") else [])):
        for text in np.atleast_1d(results.get(key, [])):
            page.say(str(text), "warning")
    if "mAP" not in trained:
        page.say("No test video has annotated times, so there is no mAP.", "missing")
        return
    page.say(results["protocol"], "soft")
    columns = [*trained["mAP"], *trained["average_mAP"]]
    rows: list[list[Any]] = []
    for label, key in (("untrained", "untrained"), ("trained", "trained")):
        if key in results:
            own = results[key]["mAP"] | results[key]["average_mAP"]
            rows.append([label, *(_percent(own.get(column)) for column in columns)])
    told = ""
    interval = trained.get("interval")
    if interval:
        ends = interval["mAP"] | interval["average_mAP"]
        for i, which in enumerate(("low", "high")):
            rows.append([which, *(_percent(ends[column][i]) for column in columns)])
        told = f"Low and high: {100 * interval['level']:g} % percentile interval from {interval['resamples']} "
        told += "resamples of the test videos; it knows nothing of the next seed."
    page.table(["mAP, %", *columns], rows, caption=told)
    if "classification_mAP" in trained:
        accuracy, mean_ap = (_percent(trained[f"classification_{each}"]) for each in ("accuracy", "mAP"))
        page.say(f"Video labels: accuracy {_shown(accuracy)} %, mAP {_shown(mean_ap)} %.")
    tious = [float(key) for key in trained["mAP"]]
    band = list(interval["mAP"].values()) if interval else []
    page.draw(charts.precision_by_tiou(tious, list(trained["mAP"].values()), band))


def _classes(page: Page, run: Run, name: str) -> None:
    page.heading(3, "Classes", f"{name}-classes")
    if not run.classes:
        page.say("There is no average_precision.csv, so there are no figures by class.", "missing")
        return
    head = list(run.classes[0])
    rows = []
    for row in run.classes:
        counts = [int(row[key]) for key in head[1:3]]
        rows.append([row["class"], *counts, *(_percent(row[key] or None) for key in head[3:])])
    shown = ["class", "annotated", "found", *(key.removeprefix("AP@") for key in head[3:])]
    page.table(shown, rows, sortable=True, caption="AP by tIoU, %. A click on a heading sorts.")


def _training(page: Page, run: Run, name: str) -> None:
    page.heading(3, "Training", f"{name}-training")
    losses = {key: label for key, label in pictures.LOSSES.items()}
    known = {key for line in run.metrics for key in line if key.startswith("loss")}
    losses |= {key: (key.removeprefix("loss_").replace("_", " "), "") for key in sorted(known - set(losses))}
    groups = (("Losses", losses), ("Entropies, nats", pictures.ENTROPIES), ("Marginal errors", pictures.ERRORS))
    drawn = [charts.training(heading, run.metrics, names) for heading, names in groups]
    if not any(drawn):
        page.say("There is no metrics.jsonl, so there are no curves of training.", "missing")
        return
    page.draw(*drawn)
    if drawn[1] is None:
        page.say("The method has no self-labels, so there are no entropies and marginal errors.", "missing")


def _timelines(page: Page, run: Run, name: str, videos: Sequence[str], count: int) -> None:
    page.heading(3, "Timelines", f"{name}-timelines")
    if run.analysis is None:
        page.say(NO_ANALYSIS, "missing")
        return
    known = {str(video): v for v, video in enumerate(run.analysis.videos)}
    if unknown := [video for video in videos if video not in known]:
        first = ", ".join(list(known)[:3])
        raise DataError(f"{run.name}: no test video {unknown[0]}; it has {len(known)}, such as {first}")
    by_length = np.argsort(run.analysis.duration, kind="stable")
    spread = np.unique(np.linspace(0, len(by_length) - 1, count + 2)[1:-1].round().astype(int))
    chosen = [known[video] for video in videos] or by_length[spread[:count]].tolist()
    if run.analysis.curves is None:
        page.say("The method gives segments and no scores of snippets, so there are no curves.", "missing")
    for v in chosen:
        page.heading(4, f"{run.analysis.videos[v]}, {run.analysis.duration[v]:.0f} s")
        page.draw(_timeline(run.analysis, v))


def _timeline(analysis: Analysis, v: int) -> Spec:
    truth, found = (table.take(table.video == v) for table in (analysis.truth, analysis.found))
    found = found.take(np.argsort(-found.score, kind="stable"))
    names = analysis.classes.tolist()
    curves, scores = {}, {}
    if analysis.curves is not None and analysis.curve_names is not None:
        rows = analysis.rows(v)
        curves = {str(n): column for n, column in zip(analysis.curve_names, analysis.curves[rows].T, strict=True)}
        if analysis.class_scores is not None and analysis.top_classes is not None:
            shown = zip(analysis.top_classes[v].tolist(), analysis.class_scores[rows].T, strict=True)
            scores = {names[c]: column for c, column in shown}
            curves = {name: values for name, values in curves.items() if name != pictures.BEST_CLASS}
    start, end = analysis.covered[v].tolist()
    return charts.timeline(
        duration=float(analysis.duration[v]),
        truth=[(names[c], *times) for c, times in zip(truth.label, truth.segment.tolist(), strict=True)],
        found=[
            (names[c], *times, score)
            for c, times, score in zip(found.label, found.segment.tolist(), found.score.tolist(), strict=True)
        ],
        heading=analysis.heading or "",
        covered=(start, end),
        curves=curves,
        scores=scores,
    )


def _clusters(page: Page, run: Run, name: str) -> None:
    page.heading(3, "Clusters", f"{name}-clusters")
    analysis = run.analysis
    if analysis is None:
        page.say(NO_ANALYSIS, "missing")
        return
    if analysis.cluster_foreground is None:
        page.say("The method has no clusters.", "missing")
        return
    foreground, sizes = analysis.cluster_foreground, analysis.cluster_size
    page.say(
        f"{foreground.shape[1]} clusters; {int((foreground[0] > 0.5).sum())} of the first stream are above one half."
    )
    same = bool((foreground == foreground[0]).all()) and (sizes is None or len(sizes) == 1)
    for s in range(1 if same else len(foreground)):
        if not same:
            page.heading(4, str(analysis.streams[s]) if s < len(analysis.streams) else f"embedding {s + 1}")
        place = min(s, 0 if sizes is None else len(sizes) - 1)
        held = analysis.cluster_truth
        page.draw(
            charts.clusters(foreground[s], None if sizes is None else sizes[place]),
            None if held is None else charts.composition(held[place], foreground[s], analysis.classes.tolist()),
        )


def _map(page: Page, run: Run, name: str) -> None:
    page.heading(3, "Embedding", f"{name}-map")
    analysis = run.analysis
    if analysis is None:
        page.say(NO_ANALYSIS, "missing")
        return
    if analysis.points is None or analysis.point_labels is None or analysis.explained is None:
        page.say("No embedding was kept, so there is no map.", "missing")
        return
    page.say(
        "Unit embeddings of test snippets on their two principal axes, in the colours of what is annotated there; "
        "diamonds are the clusters' prototypes. A click on a name of the legend shows it alone.",
        "soft",
    )
    labels = analysis.point_labels
    for s, points in enumerate(analysis.points):
        own = len(analysis.points) == len(analysis.streams)
        heading = str(analysis.streams[s]) if own else f"embedding {s + 1}"
        heading += f", {100 * analysis.explained[s]:.0f} % of the variance"
        prototypes = None if analysis.prototypes is None else analysis.prototypes[s]
        page.draw(charts.embedding_map(points, labels, analysis.classes.tolist(), prototypes, heading))


def _errors(page: Page, run: Run, name: str, tiou: float | None) -> None:
    page.heading(3, "Errors", f"{name}-errors")
    analysis = run.analysis
    if analysis is None:
        page.say(NO_ANALYSIS, "missing")
        return
    truth, found = (table.take(analysis.timed[table.video]) for table in (analysis.truth, analysis.found))
    if not len(truth.score):
        page.say("No test video has annotated times, so errors are not known.", "missing")
        return
    classes = analysis.classes.tolist()
    at = 0.5 if tiou is None else tiou
    diagnosis = diagnose(found, truth, classes, tiou=at, least_tiou=min(0.1, at))
    counts = np.bincount(truth.label, minlength=len(classes))
    page.say(
        f"In the manner of DETAD (Alwassel et al., 2018), in seconds, at tIoU {at:g}. G: the number of instances of a "
        "class. Double detection: another one has found the instance. Wrong label: the right time of another class. "
        f"Localization and confusion: tIoU from {min(0.1, at):g} on with the own class, or with another alone. "
        "Background: none of these.",
        "soft",
    )
    gains = gain_without(diagnosis, truth, classes)
    gain = charts.bars("mAP gained without these errors", list(gains), [100 * x for x in gains.values()], "points")
    shares = kinds_by_rank(diagnosis.kind, diagnosis.matches.ranked.label, counts)
    page.draw(charts.kinds(shares, KINDS), gain)
    length = truth.segment[:, 1] - truth.segment[:, 0]
    many = np.bincount(truth.video, minlength=len(analysis.videos))[truth.video].astype(float)
    coverage = 100 * length / analysis.duration[truth.video]
    drawn = []
    for heading, values, unit in (
        ("AP by length", length, " s"),
        ("AP by instances a video", many, ""),
        ("AP by coverage of the video", coverage, " %"),
    ):
        group, edges = quantile_groups(values)
        scored = average_precision_of_groups(diagnosis, truth, group, num_groups=len(edges))
        names = [f"to {edge:.3g}{unit} ({n})" for edge, n in zip(edges, scored.size, strict=True)]
        drawn.append(charts.bars(heading, names, list(100 * scored.average_precision), "AP_N, %", color=charts.GREEN))
    page.draw(*drawn)
    page.say(
        "Groups of about equal size, their number of instances in brackets; AP_N makes unlike sizes comparable.", "soft"
    )


def _percent(value: Any) -> float | None:
    return None if value is None else 100 * float(value)


def _value(x: Any) -> str:
    return "" if x is None else f"{x:.6g}" if isinstance(x, float) else html.escape(str(x))


def _shown(x: Any) -> str:
    return "–" if x is None else f"{x:.1f}" if isinstance(x, float) else str(x)
