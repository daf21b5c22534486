"""The look of all pictures: one width, one palette, one frame, and the way a picture becomes a file."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casejax.runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # matplotlib is loaded when something is drawn

WIDTH = 12.0  # inches; at 100 dots an inch every picture is 1200 pixels wide

# Okabe and Ito's palette: its colours stay apart under the common kinds of colour blindness.
ORANGE, BLUE, GREEN, VERMILLION = "#E69F00", "#0072B2", "#009E73", "#D55E00"
INK, MUTED, GRID, SHADE = "#222222", "#6B6B6B", "#E4E4E4", "#D9F0E8"

LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 10, "borderpad": 0, "borderaxespad": 0.3}
"""Options of every legend."""


def new_figure(height: float) -> Figure:
    """An empty white figure, `WIDTH` by `height` inches, which is not known to pyplot.

    Raises:
      ImportError: matplotlib is missing; the message says how to install it.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'casejax[plots]'") from error
    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(ax: Axes, heading: str, pad: int = 7) -> None:
    """Give a panel its bare frame, light grid and heading at the left, `pad` points above the frame."""
    ax.set_facecolor("white")
    ax.set_title(heading, loc="left", size=11, weight="bold", pad=pad, parse_math=False)
    ax.grid(visible=True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0, labelsize=10, pad=5)
    for side, spine in ax.spines.items():
        spine.set(visible=side == "bottom", color="#AAAAAA", linewidth=0.8)


def fold(name: str, width: int = 26, lines: int = 2) -> str:
    """A name on a few lines of `width` characters, with an ellipsis where it does not fit."""
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder="…", break_on_hyphens=False))


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a `.png` file: whole or not at all, the same bytes for the same figure.

    Raises:
      ValueError: a name with another ending.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import report
      >>> report.save(report.cluster_foreground(np.array([[0.9, 0.1]]), ("rgb",)), "clusters.png")
      >>> Path("clusters.png").read_bytes()[1:4]
      b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"a picture's name must end in .png, got {Path(path).name}")
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # one sees that: letters of no font here are boxes
        FigureCanvasAgg(figure).print_png(drawn, metadata={"Software": None})
    write_bytes(path, drawn.getvalue())
