"""Optical flow between successive pictures, by OpenCV: TV-L1, as published I3D features have it, or the faster DIS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np

from casejax.array_types import Float, UInt8
from casejax.errors import OptionError

FLOWS = ("tvl1", "dis")
FLOW_LIMIT = 20.0
"""Pixels to which a component of the flow is clipped (Carreira & Zisserman, 2017, arXiv 1705.07750)."""


def optical_flow(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]], kind: str = "tvl1", pool: Executor | None = None
) -> list[Float[np.ndarray, "_ _ 2"]]:
    """Where every pixel of a picture is in the next one: (x, y), pixels to the right and down, clipped to ±20.

    Both kinds work on grey pictures. TV-L1 is that of Zach, Pock and Bischof (2007) with OpenCV's default settings, DIS
    that of Kroeger et al. (2016, arXiv 1603.03590) with its medium preset.

    Args:
      pictures: RGB; where two that follow each other differ in size, the flow is 0.
      kind: "tvl1" or "dis".
      pool: of threads, which work on pairs of pictures side by side; the result is the same.

    Returns:
      float32, one less than pictures, each of the size of the earlier picture.

    Raises:
      OptionError: an unknown kind, or an OpenCV without it.

    Example:
      >>> import numpy as np
      >>> from casejax import features
      >>> blocks = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
      >>> picture = blocks.repeat(8, axis=0).repeat(8, axis=1)
      >>> (flow,) = features.optical_flow([picture, np.roll(picture, 2, axis=1)], kind="dis")
      >>> flow.shape, round(float(np.median(flow[..., 0])))  # 2 pixels to the right
      ((128, 128, 2), 2)
    """
    find = partial(_between, _maker(kind))
    pairs = pictures[:-1], pictures[1:]
    return list(map(find, *pairs) if pool is None else pool.map(find, *pairs))


def check_flow(kind: str) -> None:
    """Refuse, before any work, a kind of flow that the installed OpenCV does not have.

    Raises:
      OptionError: with what to install.
    """
    _maker(kind)()


def _between(make: Callable[[], Any], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    import cv2

    if one.shape != other.shape:
        return np.zeros((*one.shape[:2], 2), np.float32)
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)]
    # made for each pair: it keeps its workspace, which two threads must not share, and nothing of an earlier pair
    return np.clip(make().calc(*grey, None), -FLOW_LIMIT, FLOW_LIMIT)


def _maker(kind: str) -> Callable[[], Any]:
    if kind not in FLOWS:
        raise OptionError(f"flow must be one of {', '.join(FLOWS)}, got {kind!r}")
    try:
        import cv2
    except ImportError as error:
        raise OptionError("flow needs OpenCV: pip install 'casejax[video]'; or leave the stream flow out") from error
    if kind == "dis":
        return partial(cv2.DISOpticalFlow.create, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    try:
        return cv2.optflow.DualTVL1OpticalFlow.create
    except AttributeError as error:
        raise OptionError(
            "this OpenCV has no TV-L1 flow, which is in its contrib modules: pip install "
            "opencv-contrib-python-headless in place of the other; or choose --flow dis, or leave the stream flow out"
        ) from error
