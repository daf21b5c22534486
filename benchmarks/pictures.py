"""Pictures of the tables in `docs/`: methods side by side, and quantities during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from casejax.report.canvas import BLUE, GREEN, INK, LEGEND, MUTED, ORANGE, SHADE, VERMILLION, fold, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison(title: str, rows: Sequence[tuple[str, Sequence[float], float | None]]) -> Figure:
    """Several methods over several seeds: a bar at the mean, a dot a seed, a mark where a paper has it.

    Args:
      title: heading.
      rows: name, one figure a seed, and the published figure or None; from the top down.
    """
    figure = new_figure(1.1 + 0.42 * len(rows))
    ax = figure.add_subplot()
    figure.subplots_adjust(left=0.24, right=0.97, bottom=0.5 / figure.get_figheight() + 0.02, top=0.9)
    style(ax, title)
    place = np.arange(len(rows))
    ax.barh(place, [np.mean(values) for _, values, _ in rows], height=0.6, color=SHADE, label="mean")
    marked = False
    for y, (_, values, paper) in zip(place, rows, strict=True):
        ax.plot(values, np.full(len(values), y), "o", color=GREEN, markersize=5, label="seed" if y == 0 else None)
        if paper is not None:
            ax.plot([paper], [y], "d", color=VERMILLION, markersize=7, label=None if marked else "paper")
            marked = True
    ax.set_yticks(place, [fold(name, 34) for name, _, _ in rows])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("mAP 0.1:0.7, %")
    ax.grid(visible=False, axis="y")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, **LEGEND)
    return figure


def evolution(title: str, series: Mapping[str, Sequence[Sequence[tuple[float, float]]]]) -> Figure:
    """Quantities during training, each as the mean over seeds in the band from the least to the greatest.

    Args:
      title: heading.
      series: for each name one list of (step, value) a seed, all of the same steps.
    """
    figure = new_figure(4.3)
    ax = figure.add_subplot()
    figure.subplots_adjust(left=0.06, right=0.72, bottom=0.13, top=0.9)
    style(ax, title)
    colors = (ORANGE, BLUE, GREEN, VERMILLION, INK, MUTED)
    for i, (name, seeds) in enumerate(series.items()):
        steps = [step for step, _ in seeds[0]]
        values = np.asarray([[value for _, value in seed] for seed in seeds])
        color, line = colors[i % len(colors)], "-" if i < len(colors) else "--"
        ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, linewidth=0)
        ax.plot(steps, values.mean(axis=0), line, color=color, linewidth=1.6, label=name)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), **LEGEND)
    return figure
