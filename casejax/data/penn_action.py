"""Read Penn Action's pose annotations: a folder `labels` with one MATLAB file a video.

A file holds `action` and `pose` (the viewpoint) as text; `x`, `y` and `visibility` with a row a frame and a column
a joint; `bbox` with a row a frame; `train`, +1 or -1; `dimensions`, (height, width, frames); `nframes`. The
published files store whole numbers unsigned wherever they fit, so that differences would wrap around, and two of
them lack the last row of `bbox`. What is read here is float32 and complete.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casejax.array_types import Bool, Float
from casejax.data.matlab import read_matlab
from casejax.errors import DataError

JOINTS = (
    "head",
    "left shoulder",
    "right shoulder",
    "left elbow",
    "right elbow",
    "left wrist",
    "right wrist",
    "left hip",
    "right hip",
    "left knee",
    "right knee",
    "left ankle",
    "right ankle",
)
"""The annotated joints, in the order of their columns. The sides are those the files name: seen from the front,
"left" stands at the left of the picture, which is the person's right."""

_FIELDS = ("action", "pose", "x", "y", "visibility", "train", "bbox", "dimensions", "nframes")
_AGAIN = "fetch the file again or remove it"


@dataclass(frozen=True, eq=False)
class PoseTrack:
    """The annotated poses of one video.

    Attributes:
      name: stem of the file, such as "0001".
      action: name of the action class.
      train: whether the video is of the training split.
      viewpoint: "front", "back", "left" or "right" in the published files.
      positions: (T, 13, 2) pixels, x to the right and y down. Where `visible` is False they mean nothing.
      visible: (T, 13), which joints are annotated.
      bbox: (T, 4) pixels, x and y of the top left corner, then of the bottom right one.
      image_size: width and height of the video, pixels.
    """

    name: str
    action: str
    train: bool
    viewpoint: str
    positions: Float[np.ndarray, "t 13 2"]
    visible: Bool[np.ndarray, "t 13"]
    bbox: Float[np.ndarray, "t 4"]
    image_size: tuple[int, int]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.positions)


def read_penn_action(folder: str | os.PathLike[str]) -> tuple[PoseTrack, ...]:
    """Read every video of a folder, in the order of their names.

    Args:
      folder: the data set's root, which holds `labels`, or that folder itself.

    Returns:
      One track a file.

    Raises:
      DataError: no such folder, no `.mat` file in it, or a file that cannot be used; the message names the file.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from scipy.io import savemat
      >>> from casejax import data
      >>> Path("labels").mkdir()
      >>> joints = {"x": np.ones((4, 13)), "y": np.ones((4, 13)), "visibility": np.ones((4, 13), np.uint8)}
      >>> video = {"action": "squat", "pose": "front", "train": 1, "bbox": np.ones((4, 4)), "nframes": 4}
      >>> savemat("labels/0001.mat", {**joints, **video, "dimensions": np.array([[360.0, 480.0, 4.0]])})
      >>> [(track.name, track.action) for track in data.read_penn_action("labels")]
      [('0001', 'squat')]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pass Penn Action's root or its folder labels")
    if (folder / "labels").is_dir():
        folder = folder / "labels"
    paths = sorted(folder.glob("*.mat"))
    if not paths:
        raise DataError(f"{folder}: holds no .mat file; pass Penn Action's root or its folder labels")
    return tuple(read_pose_track(path) for path in paths)


def read_pose_track(path: str | os.PathLike[str]) -> PoseTrack:
    """Read the file of one video.

    Raises:
      DataError: the file is missing, damaged or contradicts itself.

    Example:
      >>> import numpy as np
      >>> from scipy.io import savemat
      >>> from casejax import data
      >>> joints = {"x": np.ones((4, 13)), "y": np.ones((4, 13)), "visibility": np.ones((4, 13), np.uint8)}
      >>> video = {"action": "squat", "pose": "front", "train": 1, "bbox": np.ones((4, 4)), "nframes": 4}
      >>> savemat("0001.mat", {**joints, **video, "dimensions": np.array([[360.0, 480.0, 4.0]])})
      >>> data.read_pose_track("0001.mat").action
      'squat'
    """
    path = Path(path)
    fields = _load(path)
    x, y, visibility, bbox, dimensions = (
        _numbers(fields, name, path) for name in ("x", "y", "visibility", "bbox", "dimensions")
    )
    num_frames, count = len(x), len(JOINTS)
    for name, array in (("x", x), ("y", y), ("visibility", visibility)):
        if array.shape != (num_frames, count) or num_frames == 0:
            raise DataError(f"{path}: {name} has shape {array.shape}, not (frames, {count}) like x; {_AGAIN}")
    if dimensions.size != 3:
        raise DataError(f"{path}: dimensions is {dimensions.tolist()}, not (height, width, frames); {_AGAIN}")
    height, width, stated = (int(size) for size in dimensions.ravel())
    for name, value in (("nframes", _number(fields, "nframes", path)), ("dimensions", stated)):
        if value != num_frames:
            raise DataError(f"{path}: {name} states {value:g} frames but x has {num_frames}; {_AGAIN}")
    if height < 1 or width < 1:
        raise DataError(f"{path}: dimensions states {width} x {height} pixels, which is no picture; {_AGAIN}")
    if not np.isin(visibility, (0, 1)).all():
        bad = visibility[~np.isin(visibility, (0, 1))][0]
        raise DataError(f"{path}: visibility holds {bad:g}, not only 0 and 1; {_AGAIN}")
    if bbox.shape == (num_frames - 1, 4) and num_frames > 1:
        bbox = np.concatenate([bbox, bbox[-1:]])
    if bbox.shape != (num_frames, 4):
        raise DataError(f"{path}: bbox has shape {bbox.shape}, not ({num_frames}, 4); {_AGAIN}")
    train = _number(fields, "train", path)
    if train not in (1, -1):
        raise DataError(f"{path}: train is {train:g}, neither 1 nor -1 (test); correct it")
    return PoseTrack(
        name=path.stem,
        action=_text(fields, "action", path),
        train=train == 1,
        viewpoint=_text(fields, "pose", path),
        positions=np.stack([x, y], axis=-1),
        visible=visibility == 1,
        bbox=bbox,
        image_size=(width, height),
    )


def _load(path: Path) -> Mapping[str, Any]:
    fields = read_matlab(path, _FIELDS)
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise DataError(f"{path}: has no field {missing[0]!r}; {_AGAIN}")
    return fields


def _numbers(fields: Mapping[str, Any], name: str, path: Path) -> np.ndarray:
    """A field as float32, so that unsigned differences cannot wrap around."""
    array = np.asarray(fields[name])
    if array.dtype.kind not in "buif" or array.ndim != 2:
        raise DataError(f"{path}: {name} is not a matrix of numbers but {array.dtype} of shape {array.shape}; {_AGAIN}")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"{path}: {name} holds {array[row, column]} in row {row}, column {column}; {_AGAIN}")
    return array


def _number(fields: Mapping[str, Any], name: str, path: Path) -> float:
    array = _numbers(fields, name, path)
    if array.size != 1:
        raise DataError(f"{path}: {name} has shape {array.shape} where one number is due; {_AGAIN}")
    return float(array.item())


def _text(fields: Mapping[str, Any], name: str, path: Path) -> str:
    array = np.asarray(fields[name])
    if array.dtype.kind != "U" or array.size != 1 or not array.item():
        raise DataError(f"{path}: {name} is not a text but {array.dtype} of shape {array.shape}; {_AGAIN}")
    return str(array.item())
