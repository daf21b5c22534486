"""Pictures of a video, of a training run and of the clusters; without matplotlib, an ImportError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casejax.array_types import Float, Real, UInt8
from casejax.records import Dataset, SegmentTable, SnippetScores
from casejax.report.canvas import (
    BLUE,
    GREEN,
    INK,
    LEGEND,
    MUTED,
    ORANGE,
    SHADE,
    VERMILLION,
    WIDTH,
    fold,
    new_figure,
    save,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # matplotlib is loaded when something is drawn

LANE = 0.36  # inches, height of one class's lane of segments
PICTURE = 0.9  # inches, height of a frame of the video
CROWDED = 400  # with more snippets than these, the curves get a row each
MAX_LANES = 8  # classes drawn as predictions
SCORE_FRACTION = 0.2  # detections below this fraction of the video's best score are not drawn


ATTENTION, CLUSTERS, FUSED = "$P^A$ attention", "$P^T$ clusters", "$P^M$ fused"
BEST_CLASS = "highest class score"
COLORS = {ATTENTION: ORANGE, CLUSTERS: BLUE, FUSED: INK, BEST_CLASS: VERMILLION}
"""Of the curves of a timeline, by their names."""

# Keys of `metrics.jsonl` with their names and colours, a panel each.
LOSSES = {
    "loss": ("total", INK),
    "loss_video": ("video", BLUE),
    "loss_attention": ("attention", ORANGE),
    "loss_snippet": ("snippets", GREEN),
    "loss_cluster": ("clusters", VERMILLION),
}
ENTROPIES = {
    "entropy_snippet_labels": ("$H(Q^S)$", BLUE),
    "entropy_cluster_labels": ("$H(Q^C)$", VERMILLION),
    "entropy_mean_assignment": ("$H$ of mean assignment", GREEN),
}
ERRORS = {"snippet_column_error": ("$Q^S$", BLUE), "cluster_column_error": ("$Q^C$", VERMILLION)}
_Lane = tuple[str, np.ndarray, np.ndarray]  # class name, (n, 2) seconds, (n,) scores
_Curve = tuple[str, str, np.ndarray]  # name, colour, (T,) values


def draw_pictures(
    folder: Path,
    dataset: Dataset,
    scores: SnippetScores,
    detections: SegmentTable,
    cluster_labels: np.ndarray | None,
    metrics: Sequence[Mapping[str, Any]],
    *,
    whole: bool = False,
    timelines: int = 4,
) -> list[Path]:
    """Draw the curves of a run, its clusters, and the timelines of a few test videos.

    Args:
      folder: where the PNG files go.
      dataset: for ground truth and names.
      scores: of the test split, NumPy arrays with a leading axis of videos.
      detections: of the test split.
      cluster_labels: (S, K, 2) Q^C; None of a network without clusters.
      metrics: the lines of metrics.jsonl.
      whole: whether videos were scored as they are, their scores padded to the longest; else they were resampled.
      timelines: videos to draw, spread evenly over the lengths.

    Returns:
      The files written.

    Raises:
      ImportError: matplotlib is missing; the message says how to install it.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data, report
      >>> from casejax.records import SnippetScores
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> scores = SnippetScores(fused=np.ones((6, 8, 2)), video=np.ones((6, 2)), attention=np.ones((6, 8)))
      >>> found = world.test.ground_truth(world.classes)
      >>> files = report.draw_pictures(Path("pictures"), world, scores, found, None, [], timelines=1)
      >>> [file.suffix for file in files]
      ['.png', '.png']
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"curves": training_curves(metrics)}
    if cluster_labels is not None:
        streams = dataset.streams if len(cluster_labels) == len(dataset.streams) else ("all streams",)
        figures["clusters"] = cluster_foreground(cluster_labels[:, :, 0], streams)
    lengths, seconds = dataset.test.features.lengths, dataset.row_seconds(dataset.test)
    by_length = np.argsort(lengths, kind="stable")
    spread = np.unique(np.linspace(0, len(lengths) - 1, timelines + 2)[1:-1].round().astype(int))
    for v in by_length[spread[:timelines]]:
        video = dataset.test.videos[v]
        start, end = dataset.timing.offset, float(dataset.timing.offset + lengths[v] * seconds[v])
        heading, curves = score_curves(scores, v, int(lengths[v]) if whole else None)
        figures[f"timeline_{video.id}"] = timeline(
            title=video.id,
            duration=max(end, video.duration or 0.0),
            covered=(start, end),
            ground_truth=[
                (name, video.segments[[label == name for label in video.segment_labels]]) for name in video.labels
            ],
            heading=heading,
            curves=curves,
            predictions=[
                (dataset.classes[c], found.segment, found.score)
                for c in np.unique(detections.label[detections.video == v])
                for found in [detections.take((detections.video == v) & (detections.label == c))]
            ],
        )
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save(figure, path)
    return paths


def score_curves(
    scores: SnippetScores, video: int | np.integer, length: int | None = None, *, merge: bool = True
) -> tuple[str, dict[str, np.ndarray]]:
    """The curves that a timeline shows of one video: the foreground probabilities, or what a method has in their place.

    Args:
      scores: NumPy arrays with a leading axis of videos.
      video: which of them.
      length: its snippets, where scores are padded behind them; default all.
      merge: whether equal curves are one.

    Returns:
      What the curves are, and each by its name, (T,).

    Example:
      >>> import numpy as np
      >>> from casejax import report
      >>> from casejax.records import SnippetScores
      >>> scores = SnippetScores(fused=np.zeros((1, 4, 2)), video=np.zeros((1, 2)), attention=np.ones((1, 4)))
      >>> report.score_curves(scores, 0)
      ('Foreground probability', {'$P^A$ attention': array([1., 1., 1., 1.])})
    """
    shown = [
        (name, np.asarray(values)[video, :length])
        for name, values in ((ATTENTION, scores.attention), (CLUSTERS, scores.transformed), (FUSED, scores.foreground))
        if values is not None
    ]
    if not shown:
        return "Class scores", {BEST_CLASS: np.asarray(scores.fused)[video, :length].max(axis=1)}
    curves: dict[str, np.ndarray] = {}
    for name, values in shown:
        if not merge or not any(np.array_equal(values, other) for other in curves.values()):
            curves[name] = values
    return "Foreground probability", curves


def timeline(
    *,
    title: str,
    duration: float,
    ground_truth: Sequence[tuple[str, Real[np.ndarray, "_ 2"]]] | None,
    curves: Mapping[str, Float[np.ndarray, " t"]],
    predictions: Sequence[tuple[str, Real[np.ndarray, "_ 2"], Float[np.ndarray, " _"]]],
    heading: str = "Foreground probability",
    covered: tuple[float, float] | None = None,
    frames: Sequence[UInt8[np.ndarray, "_ _ 3"]] = (),
) -> Figure:
    """One video over time: annotated segments, foreground probabilities and detections, as in CASE's Fig. 5.

    Detections are thinned to stay readable: of each class the strongest that do not overlap, of the
    video those with at least `SCORE_FRACTION` of its best score, in at most `MAX_LANES` classes. A
    bar's opacity is its score relative to the best. Annotated time is shaded behind the curves, which
    share one axis up to `CROWDED` snippets and get a row each beyond. The figure is 1200 pixels wide.
    A duration that is not positive and curves of different lengths raise a `ValueError`.

    Args:
      title: heading, usually the video's name.
      duration: length of the video, seconds.
      ground_truth: (class name, (n, 2) seconds), one entry a class; may be empty. None of a video that nothing is known
        of, and then there is no lane for it.
      curves: (T,) values of the snippets by their name, as `score_curves` gives them, each of its colour in `COLORS`.
      predictions: (class name, (m, 2) seconds, (m,) scores), one entry a class; may be empty.
      heading: what the curves are. The axis is [0, 1] where all values are.
      covered: seconds from which to which the T snippets stand evenly; default the whole video.
      frames: RGB pictures of the video to show above, from the middles of as many equal parts of it.

    Example:
      >>> import numpy as np
      >>> from casejax import report
      >>> annotated, found = ("Dive", np.array([[1.0, 3.0]])), ("Dive", np.array([[1.2, 3.1]]), np.array([0.9]))
      >>> curves = {"$P^A$ attention": np.linspace(0, 1, 8)}
      >>> figure = report.timeline(
      ...     title="a", duration=5.0, ground_truth=[annotated], curves=curves, predictions=[found]
      ... )
      >>> report.save(figure, "a.png")
    """
    drawn = [(name, COLORS.get(name, INK), np.asarray(values)) for name, values in curves.items()]
    shapes = [values.shape for _, _, values in drawn]
    start, end = covered or (0.0, duration)
    if not 0 < duration < np.inf:
        raise ValueError(f"duration must be a positive number of seconds, got {duration}")
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0][0] == 0:
        raise ValueError(f"the curves must share one shape (T,) with T >= 1, got {shapes}")
    truth = [(name, np.asarray(s), np.ones(len(s))) for name, s in ground_truth or () if len(s)]
    found, note = _strongest(predictions, annotated=[name for name, _, _ in truth])

    rows = [drawn] if shapes[0][0] <= CROWDED else [[curve] for curve in drawn]
    headings = ["Ground truth", heading, *[""] * (len(rows) - 1), "Predictions"]
    heights = [LANE * max(len(truth), 1), *[2.4 / len(rows)] * len(rows), LANE * max(len(found), 1)]
    if ground_truth is None:
        headings, heights = headings[1:], heights[1:]
    if len(frames):
        headings, heights = ["Pictures", *headings], [PICTURE, *heights]
    gaps = [0.42 if above else 0.14 for above in headings]
    total = 0.45 + sum(gaps) + sum(heights) + 0.6
    figure = new_figure(total)
    bold: dict[str, Any] = {"size": 14, "weight": "bold", "va": "center", "parse_math": False}
    figure.text(0.25 / WIDTH, 1 - 0.3 / total, fold(title, 80, 1), **bold)
    texts = [figure.text(0, 0, fold(name), size=10, parse_math=False) for name, _, _ in [*truth, *found]]
    left = 0.5 + max([0.35, *(text.get_window_extent().width / figure.dpi for text in texts)])
    for text in texts:  # they were there to be measured
        text.remove()
    panels: list[Axes] = []
    for i, (above, height) in enumerate(zip(headings, heights, strict=True)):
        bottom = 0.6 + sum(heights[i + 1 :]) + sum(gaps[i + 1 :])
        box = (left / WIDTH, bottom / total, 1 - (left + 0.3) / WIDTH, height / total)
        panels.append(figure.add_axes(box, sharex=panels[0] if panels else None))
        style(panels[-1], above)
        panels[-1].tick_params(axis="x", labelbottom=above == "Predictions")

    if len(frames):
        _draw_frames(panels[0], frames, duration, (WIDTH - left - 0.3) / len(frames) / PICTURE)
    if ground_truth is not None:
        _draw_lanes(panels[headings.index("Ground truth")], truth, GREEN, "none annotated")
    middle = panels[-1 - len(rows) : -1]
    for panel, row in zip(middle, rows, strict=True):
        _draw_curves(panel, row, np.linspace(start, end, shapes[0][0] + 1), truth)
    handles = [curve for panel in middle for curve in panel.patches]
    middle[0].legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, **LEGEND)
    _draw_lanes(panels[-1], found, VERMILLION, "none found")
    panels[-1].set_title(note, loc="right", size=10, color=MUTED)
    panels[-1].set(xlabel="seconds", xlim=(0, duration))
    return figure


def _draw_frames(ax: Axes, frames: Sequence[np.ndarray], duration: float, shape: float) -> None:
    """Pictures side by side over the whole axis, each cut to `shape`, its width over its height."""
    part = duration / len(frames)
    for i, frame in enumerate(frames):
        height, width = frame.shape[:2]
        high, wide = min(height, round(width / shape)), min(width, round(height * shape))
        top, left = (height - high) // 2, (width - wide) // 2
        shown = frame[top : top + max(high, 1), left : left + max(wide, 1)]
        ax.imshow(
            shown, extent=((i + 0.02) * part, (i + 0.98) * part, 0, 1), aspect="auto", interpolation="antialiased"
        )
    ax.set(ylim=(0, 1), yticks=[])
    ax.grid(visible=False)


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """A training run: losses, entropies and marginal errors of the self-labels, as in CASE's Fig. 4.

    A key that no line has is skipped, and so is a panel without any. From 100 lines on, running
    means are drawn over the pale values.

    Args:
      metrics: the lines of `metrics.jsonl`, each with `step` and any of the keys of `LOSSES`,
        `ENTROPIES` (nats) and `ERRORS`; `log_num_clusters`, nats, adds the bound of the entropies.

    Example:
      >>> from casejax import report
      >>> metrics = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
      >>> report.save(report.training_curves(metrics), "curves.png")
    """
    figure = new_figure(4.3)
    lines = [line for line in metrics if "step" in line]
    keys = {key for line in lines for key in line}
    groups = [("Losses", LOSSES, 5), ("Entropies, nats", ENTROPIES, 5), ("Marginal errors", ERRORS, 3)]
    groups = [group for group in groups if keys & group[1].keys()]
    if not groups:
        figure.text(0.5, 0.5, "no metrics", size=12, color=MUTED, ha="center", va="center")
        return figure
    grid = figure.add_gridspec(1, len(groups), width_ratios=[weight for _, _, weight in groups])
    grid.update(left=0.055, right=0.985, bottom=0.14, top=0.77, wspace=0.2)
    for i, (heading, names, _) in enumerate(groups):
        ax = figure.add_subplot(grid[0, i])
        style(ax, heading, pad=46)
        ax.set_xlabel("step")
        ax.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10], integer=True)
        for key, (label, color) in names.items():
            if key in keys:
                _draw_series(ax, [line for line in lines if key in line], key, label, color)
        bounds = [line["log_num_clusters"] for line in lines if "log_num_clusters" in line]
        if names is ENTROPIES and bounds:
            ax.axhline(bounds[0], color=MUTED, linestyle="--", linewidth=1.2, label=r"$\ln K$")
        if names is ERRORS and np.isfinite(ax.dataLim.minposy):  # a log axis needs a positive value
            ax.set_yscale("log", nonpositive="mask")
        elif ax.dataLim.ymin >= 0:
            ax.set_ylim(bottom=0)
        columns = -(-len(ax.get_legend_handles_labels()[0]) // 2)
        below_heading = 1 + 44 / 72 * figure.dpi / ax.bbox.height
        ax.legend(loc="upper left", bbox_to_anchor=(0, below_heading), ncols=columns, **LEGEND)
    return figure


def cluster_foreground(probabilities: Float[np.ndarray, "*s k"], stream_names: Sequence[str]) -> Figure:
    """The clusters' foreground probabilities, highest first, one panel a stream; one for all where they are equal.

    Args:
      probabilities: (S, K) or (K,) Q^C of foreground, in [0, 1].
      stream_names: S names, such as ("rgb", "flow"); another number of them is a `ValueError`.

    Example:
      >>> import numpy as np
      >>> from casejax import report
      >>> figure = report.cluster_foreground(np.array([[0.9, 0.1]]), ("rgb",))
      >>> len(figure.axes)
      1
    """
    rows = np.atleast_2d(np.asarray(probabilities, np.float64))
    if rows.ndim != 2 or len(rows) != len(stream_names) or rows.shape[1] == 0:
        raise ValueError(f"need (S, K) and S names, got {np.shape(probabilities)} and {list(stream_names)}")
    if len(rows) > 1 and (rows == rows[0]).all():
        rows, stream_names = rows[:1], [" and ".join(stream_names)]
    figure = new_figure(3.6)
    grid = figure.add_gridspec(1, len(rows), left=0.055, right=0.985, bottom=0.17, top=0.84, wspace=0.1)
    count = rows.shape[1]
    room = 11 / (0.09 * len(str(count - 1)) + 0.06)  # labels that fit across the picture
    step = int(np.ceil(count * len(rows) / room))
    for s, (row, name) in enumerate(zip(rows, stream_names, strict=True)):
        order = np.argsort(-row, kind="stable")
        ax = figure.add_subplot(grid[0, s])
        style(ax, name, pad=10)
        above = f"{int((row > 0.5).sum())} of {count} above one half"
        ax.set_title(above, loc="right", size=10, color=MUTED, pad=10)
        ax.bar(np.arange(count), row[order], color=np.where(row[order] > 0.5, ORANGE, BLUE))
        ax.axhline(0.5, color=INK, linestyle="--", linewidth=1)
        ax.set(xlim=(-0.6, count - 0.4), ylim=(0, 1))
        ax.grid(visible=False, axis="x")
        ax.set_xticks(np.arange(count)[::step], [str(k) for k in order[::step]])
        ax.set_xlabel("cluster" if step == 1 else f"cluster (one in {step} is named)")
        ax.tick_params(axis="y", labelleft=s == 0)
    figure.axes[0].set_ylabel("foreground probability")
    return figure


def _strongest(predictions: Sequence[_Lane], annotated: Sequence[str]) -> tuple[list[_Lane], str]:
    """The detections worth showing, `annotated` classes first, and a note on what is shown."""
    best = max((float(np.max(scores)) for _, _, scores in predictions if len(scores)), default=0.0)
    lanes = []
    for name, segments, scores in predictions:
        kept: list[int] = []
        for i in np.argsort(-np.asarray(scores), kind="stable"):
            start, end = segments[i]
            apart = all(end <= segments[j][0] or start >= segments[j][1] for j in kept)
            if apart and (best <= 0 or scores[i] >= SCORE_FRACTION * best):
                kept.append(int(i))
        if kept:
            lanes.append((name, np.asarray(segments)[kept], np.asarray(scores)[kept]))
    lanes.sort(key=lambda lane: -lane[2][0])
    lanes, hidden = lanes[:MAX_LANES], len(lanes[MAX_LANES:])
    if not lanes:
        return [], ""
    order = {name: i for i, name in enumerate(annotated)}
    lanes.sort(key=lambda lane: order.get(lane[0], len(order)))
    note = f"opacity is the score, {min(scores[-1] for _, _, scores in lanes):.2f} to {best:.2f}"
    return lanes, note + (f"; weaker classes left out: {hidden}" if hidden else "")


def _draw_lanes(ax: Axes, lanes: Sequence[_Lane], color: str, empty: str) -> None:
    """Segments as bars, a lane a class from the top, as opaque as their scores."""
    from matplotlib.colors import to_rgb

    best = max((scores[0] for _, _, scores in lanes), default=1.0)
    for y, (_, segments, scores) in enumerate(lanes):
        # Opacity over white, so that no grid line shines through; the edge keeps short segments visible.
        opacity = np.clip(scores / best if best > 0 else scores * 0, SCORE_FRACTION, 1)
        paint = 1 - opacity[:, None] * (1 - np.array(to_rgb(color)))
        start, end = segments.T
        ax.barh([y] * len(start), end - start, 0.62, start, color=paint, edgecolor=paint, linewidth=0.6)
    ax.set_ylim(max(len(lanes), 1) - 0.5, -0.5)
    names = [fold(name) for name, _, _ in lanes]
    ax.set_yticks(range(len(lanes)), names, parse_math=False, linespacing=1.05)
    ax.grid(visible=False, axis="y")
    if not lanes:
        ax.text(0.5, 0.5, empty, transform=ax.transAxes, color=MUTED, size=10, ha="center", va="center")


def _draw_curves(ax: Axes, curves: list[_Curve], edges: np.ndarray, truth: list[_Lane]) -> None:
    """Values as steps, a step a snippet between its edges, before shaded annotations; filled where crowded."""
    low = min(0.0, *(float(values.min()) for _, _, values in curves))
    high = max(1.0, *(float(values.max()) for _, _, values in curves))
    for _, segments, _ in truth:
        spans = [(start, end - start) for start, end in segments]
        ax.broken_barh(spans, (low, high - low), facecolor=SHADE, edgecolor=SHADE, linewidth=0.6, zorder=0.4)
    for name, color, values in curves:
        filled = len(values) > CROWDED
        width = 0.6 if filled else 1.8 if color == INK else 1.3
        baseline = 0 if filled else None
        ax.stairs(values, edges, baseline=baseline, fill=filled, label=name, color=color, linewidth=width)
    ax.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    if (low, high) == (0, 1):
        ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


def _draw_series(ax: Axes, lines: Sequence[Mapping[str, Any]], key: str, label: str, color: str) -> None:
    """One metric over steps; of many lines, the running mean over the pale values."""
    steps = [line["step"] for line in lines]
    values = np.array([line[key] for line in lines], np.float64)
    values[~np.isfinite(values)] = np.nan
    if len(values) >= 100:
        ax.plot(steps, values, color=color, linewidth=0.8, alpha=0.25)
        window = np.ones(len(values) // 40 * 2 + 1)
        values = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    ax.plot(steps, values, color=color, linewidth=1.6, label=label, marker="o" if len(values) == 1 else None)
