"""A picture of two synchronised videos: strips of poses, and the path through their distances. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from casejax.array_types import Int, Real
from casejax.data.poses import HIPS, SHOULDERS, Poses
from casejax.report.canvas import BLUE, GRID, INK, MUTED, ORANGE, VERMILLION, WIDTH, fold, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # matplotlib is loaded when something is drawn

HEIGHT = 5.6  # inches
MAX_SKELETONS = 10
REACH = (1.6, 2.3)  # torso lengths from the hips to the sides of a skeleton's slot, and to its top and bottom

# Penn Action's joints. The neck and the middle of the hips are not annotated: they are means.
LIMBS = ((1, 3, 5), (2, 4, 6), (7, 9, 11), (8, 10, 12))
TRUNK = ((1, 2), (1, 7), (2, 8), (7, 8))


def synchronised_poses(
    *,
    title: str,
    reference: Poses,
    other: Poses,
    distances: Real[np.ndarray, "n m"],
    matches: Int[np.ndarray, " _"],
    path: Int[np.ndarray, "p 2"] | None = None,
    num_skeletons: int = 8,
) -> Figure:
    """Two videos side by side: what each shows at the same phase, and where the path runs.

    Above, evenly spaced frames of the reference; below, the frames of the other video that stand beside them in
    synchronised playback. Between them the two time axes with a line from every frame to its match. At the right
    the distances between all frames, dark where they are small, with the matches and, if given, the warping path.
    The sides of a skeleton have different colours; masked joints are passed over. The figure is 1200 pixels wide.

    Args:
      title: heading, such as the two videos' names.
      reference: N poses of 13 joints, normalised as by `casejax.data.poses.normalise_pose`.
      other: M such poses.
      distances: of the frames, in whatever space they were matched; at least 0, infinite ones stay blank.
      matches: for each frame of the reference one of the other video, as `kendall.synchronise` gives them.
      path: the frames (i, j) of a warping path, if one is to be drawn.
      num_skeletons: how many frames are drawn as skeletons, at most 10 and no more than there are.

    Raises:
      ImportError: matplotlib is missing.
      ValueError: sizes that disagree, frames out of range, or NaN.
    """
    n, m = len(reference.positions), len(other.positions)
    _check(reference, other, np.asarray(distances), np.asarray(matches), path, num_skeletons)
    figure = new_figure(HEIGHT)
    figure.text(
        0.25 / WIDTH, 1 - 0.3 / HEIGHT, fold(title, 80, 1), size=14, weight="bold", va="center", parse_math=False
    )
    shown = np.unique(np.linspace(0, n - 1, min(num_skeletons, n, MAX_SKELETONS)).round().astype(int))
    colors = _colors(len(shown))

    strips = figure.add_axes((0.25 / WIDTH, 0.1, 0.63, 0.745))
    strips.set(xlim=(0, len(shown)), ylim=(0, 3), xticks=[], yticks=[])
    strips.axis("off")
    slots = np.arange(len(shown)) + 0.5
    top, bottom = _places(n, len(shown)), _places(m, len(shown))
    for i, j in enumerate(matches):
        strips.plot([top[i], bottom[j]], [1.8, 1.2], color=GRID, linewidth=0.6, zorder=1)
    for slot, i, color in zip(slots, shown, colors, strict=True):
        j = int(matches[i])
        leader = [slot, top[i], bottom[j], slot]
        strips.plot(leader, [1.95, 1.8, 1.2, 1.05], color=color, linewidth=1.6, zorder=2)
        _draw_skeleton(strips, reference, int(i), (slot, 2.45))
        _draw_skeleton(strips, other, j, (slot, 0.55))
        label: dict[str, Any] = {"ha": "center", "size": 9, "color": color}
        strips.text(slot, 3.0, str(i), va="top", **label)
        strips.text(slot, 0.0, str(j), va="bottom", **label)
    for ends, height in ((top, 1.8), (bottom, 1.2)):
        strips.plot(ends[[0, -1]], [height, height], color=INK, linewidth=1.2, solid_capstyle="butt", zorder=3)
    place: dict[str, Any] = {"ha": "left", "size": 11, "weight": "bold", "color": INK, "transform": figure.transFigure}
    strips.text(0.25 / WIDTH, 0.86, f"Reference, {n} frames", va="bottom", **place)
    strips.text(0.25 / WIDTH, 0.085, f"Other video, {m} frames", va="top", **place)

    ax = figure.add_axes((0.705, 0.845 - 0.28 * WIDTH / HEIGHT, 0.28, 0.28 * WIDTH / HEIGHT))
    style(ax, "Distances")
    ax.grid(visible=False)
    finite = np.where(np.isfinite(distances), distances, np.nan)
    ax.imshow(np.sqrt(finite), origin="upper", aspect="auto", cmap="Greys_r", interpolation="nearest")
    ax.plot(matches, np.arange(n), "o", color=ORANGE, markersize=3, label="matches", markeredgewidth=0)
    if path is not None:
        ax.plot(path[:, 1], path[:, 0], color=BLUE, linewidth=1.6, label="path")
    for i, color in zip(shown, colors, strict=True):
        ax.plot([matches[i]], [i], "s", color=color, markersize=5)
    ax.set(
        xlim=(-0.5, m - 0.5), ylim=(n - 0.5, -0.5), xlabel="frame of the other video", ylabel="frame of the reference"
    )
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=10, borderpad=0)
    return figure


def _check(
    reference: Poses, other: Poses, distances: np.ndarray, matches: np.ndarray, path: np.ndarray | None, count: int
) -> None:
    n, m = len(reference.positions), len(other.positions)
    for name, poses in (("reference", reference), ("other", other)):
        if poses.positions.shape[1:] != (13, 2) or not len(poses.positions):
            raise ValueError(f"{name} has poses of shape {poses.positions.shape}; need (T, 13, 2) with T >= 1")
        if not np.isfinite(poses.positions).all():
            raise ValueError(f"{name} holds positions that are not finite")
    if distances.shape != (n, m) or matches.shape != (n,):
        raise ValueError(
            f"videos of {n} and {m} frames need distances of shape {(n, m)} and {n} matches, got {distances.shape} "
            f"and {matches.shape}"
        )
    if np.isnan(distances).any() or distances.min() < 0:
        raise ValueError(f"distances must be numbers >= 0, got {distances.min()}")
    if not 0 <= matches.min() <= matches.max() < m:
        raise ValueError(f"matches must be frames from 0 to {m - 1}, got {matches.min()} to {matches.max()}")
    if path is not None and not (len(path) and (path >= 0).all() and (path < (n, m)).all()):
        raise ValueError(f"path must hold frames (i, j) below {(n, m)}, got {path.tolist()[:3]}")
    if count < 1:
        raise ValueError(f"num_skeletons must be at least 1, got {count}")


def _places(frames: int, slots: int) -> np.ndarray:
    """Where each frame stands on a time axis that runs from the middle of the first slot to that of the last."""
    return 0.5 + np.linspace(0, 1, frames) * (slots - 1) if frames > 1 else np.full(1, slots / 2)


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](place) for place in np.linspace(0, 0.85, count)]


def _draw_skeleton(ax: Axes, poses: Poses, frame: int, centre: tuple[float, float]) -> None:
    """One pose in a slot one unit wide and one high; y of the pictures runs down."""
    box = ax.get_window_extent()
    width, height = box.width / np.diff(ax.get_xlim())[0], box.height / np.diff(ax.get_ylim())[0]
    pixels = min(width / REACH[0], height / REACH[1]) / 2  # a torso length
    points = np.asarray(centre) + poses.positions[frame] * pixels * np.array((1 / width, -1 / height))
    there = poses.joints
    style: dict[str, Any] = {"linewidth": 2, "solid_capstyle": "round", "zorder": 4, "clip_on": False}
    middles: dict[int, np.ndarray] = {}
    for pair in (SHOULDERS, HIPS):
        found = [joint for joint in pair if there[joint]]
        if found:
            middles |= dict.fromkeys(pair, points[found].mean(axis=0))
    for chain in LIMBS:  # a masked joint is passed over; a limb without its first hangs from the middle of the pair
        ends = [points[chain[0]]] if there[chain[0]] else [middles[chain[0]]] if chain[0] in middles else []
        line = np.array([*ends, *(points[joint] for joint in chain[1:] if there[joint])]).reshape(-1, 2)
        ax.plot(*line.T, color=BLUE if chain[0] % 2 else VERMILLION, **style)
    spine = [points[0]] if there[0] else []
    spine += [middles[pair[0]] for pair in (SHOULDERS, HIPS) if pair[0] in middles]
    if there[[*SHOULDERS, *HIPS]].all():
        spine = spine[:-1]
        for a, b in TRUNK:
            ax.plot(*points[[a, b]].T, color=MUTED, **style)
    ax.plot(*np.array(spine).reshape(-1, 2).T, color=MUTED, **style)
    if there[0]:
        ax.plot(*points[0], "o", color=INK, markersize=4.5, zorder=5, clip_on=False)
