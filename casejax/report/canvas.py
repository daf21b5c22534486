"""."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    pass


WIDTH = 12.0  # inches; at 100 dots an inch every picture is 1200 pixels wide


# Okabe and Ito's palette, which stays apart under the common colour blindnesses.
ORANGE, BLUE, GREEN, VERMILLION = "#E69F00", "#0072B2", "#009E73", "#D55E00"


INK, MUTED, GRID, SHADE = "#222222", "#6B6B6B", "#E4E4E4", "#D9F0E8"


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 10, "borderpad": 0, "borderaxespad": 0.3}


def _figure(height: float) -> Figure:
    """An empty white figure, `WIDTH` by `height` inches, that no global state knows of."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'casejax[plots]'") from error
    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _style(ax: Axes, heading: str, pad: int = 7) -> None:
    """A bare frame, a light grid and a heading at the left."""
    ax.set_facecolor("white")
    ax.set_title(heading, loc="left", size=11, weight="bold", pad=pad, parse_math=False)
    ax.grid(visible=True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0, labelsize=10, pad=5)
    for side, spine in ax.spines.items():
        spine.set(visible=side == "bottom", color="#AAAAAA", linewidth=0.8)


def _fold(name: str, width: int = 26, lines: int = 2) -> str:
    """A name on at most two lines, or as told."""
    return "\n".join(textwrap.wrap(name, width, max_lines=lines, placeholder="…", break_on_hyphens=False))


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write `figure` to a `.png` file: whole or not at all, the same bytes for the same figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a picture's name must end in .png, got {path.name}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
