"""Files of weights by the names of the published ones, with numbers drawn at random."""

import numpy as np

from casejax.data import write_torch
from casejax.features import efficientnet, i3d, i3d_weights


def write_drawn_weights(folder):
    """`rgb_imagenet.pt` and `efficientnet-lite0-57934424.pth`."""
    shapes = {}
    for layer, shape in i3d.layer_shapes(3).items():
        shapes |= dict(i3d_weights._torch_keys(layer, shape).values())
    write_torch(folder / "rgb_imagenet.pt", _drawn(shapes))
    shapes = {}
    for _, (conv, norm, shape) in efficientnet._layers():
        shapes[f"{conv}.weight"] = shape
        shapes |= {f"{norm}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
    write_torch(folder / "efficientnet-lite0-57934424.pth", _drawn(shapes))


def _drawn(shapes):
    """Kernels under which signals keep their scale; vectors of ones."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)
        if len(shape) > 1
        else np.ones(shape, np.float32)
        for name, shape in shapes.items()
    }
