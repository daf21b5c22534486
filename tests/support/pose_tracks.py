"""Random pose tracks, and files as Penn Action publishes them."""

import numpy as np
from scipy.io import savemat

from casejax.data.penn_action import PoseTrack


def random_track(rng, frames=12, *, never=(), share=0.7, action="squat", train=False):
    """A random video; `never` are joints that it does not show."""
    visible = rng.random((frames, 13)) < share
    visible[0] |= True
    visible[:, list(never)] = False
    return PoseTrack(
        name="a",
        action=action,
        train=train,
        viewpoint="front",
        positions=rng.uniform(0, 300, (frames, 13, 2)).astype(np.float32),
        visible=visible,
        bbox=rng.uniform((0, 0, 200, 300), (50, 80, 300, 450), (frames, 4)).astype(np.float32),
        image_size=(480, 360),
    )


def stored_fields(frames=4, **changes):
    """What a published file holds, in its types; None leaves a field out."""
    rng = np.random.default_rng(3)
    good = {
        "action": "squat",
        "pose": "front",
        "x": rng.uniform(10, 400, (frames, 13)),
        "y": rng.uniform(10, 250, (frames, 13)),
        "visibility": (rng.random((frames, 13)) < 0.7).astype(np.uint8),
        "train": np.int32(-1),
        "bbox": np.tile([5.0, 6.0, 300.0, 250.0], (frames, 1)),
        "dimensions": np.array([270, 480, frames], np.uint16),
        "nframes": np.uint8(frames),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def write_track(folder, name="0001", **changes):
    """Write one file; returns its path."""
    path = folder / f"{name}.mat"
    savemat(path, stored_fields(**changes))
    return path
