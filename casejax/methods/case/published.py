"""Checkpoints of the published CASE program (PyTorch), in both directions.

The published program keeps a model in two files: `best_model.pkl`, its state dict, and `cls_gt.npy`, the
cluster labels Q^C that inference needs. Here both are part of one checkpoint. Values carry over as they are:
both programs normalise the cluster directions only when they use them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.array_types import Array, Float
from casejax.data.pickles.torch_files import read_torch
from casejax.errors import DataError
from casejax.methods.case.head import make_head
from casejax.methods.case.network import CaseNet
from casejax.methods.case.settings import CaseSettings, HeadSettings
from casejax.runtime.npy import map_npy

AnyPath = str | os.PathLike[str]
Params = Any  # a pytree of arrays, as nnx.split gives it

STREAMS = ("rgb", "flow")
LAYERS = {
    "class_encoder": "cas_module_{}.0",
    "classifier": "cas_module_{}.2",
    "embedding_encoder": "base_module_{}.0",
    "attention": "att_module_{}",
}
"""Layers of a stream, by our name and by the published one."""
DIRECTIONS = "clu_head_{}.prototypes.weight"
HEAD_TEMPERATURE = 10.0  # fixed in the published program

NESTED = ("state_dict", "model", "model_state_dict", "net")
"""Where training scripts put a state dict that they save together with other things."""


class Sizes(NamedTuple):
    """What shapes the network: feature dimension of each stream, width, classes C, clusters K."""

    dims: tuple[int, int]
    hidden: int
    num_classes: int
    num_clusters: int


class Published(NamedTuple):
    """A model of the published program, in our structure.

    Attributes:
      sizes: of its network.
      params: its parameters, as `nnx.split` gives them; float32.
      cluster_labels: (2, K, 2) Q^C of the streams rgb and flow, foreground first; float32.
    """

    sizes: Sizes
    params: Params
    cluster_labels: Float[Array, "s k 2"]


def from_published(model_path: AnyPath, cls_gt_path: AnyPath) -> Published:
    """Read a model of the published program. All sizes come from the shapes in its files.

    Args:
      model_path: the state dict, alone or under one of the names in `NESTED`, with or without the `module.`
        that `DataParallel` puts before its names.
      cls_gt_path: (K, 2) array for both streams, or (2, K, 2) for rgb and flow; foreground first.

    Raises:
      DataError: a file that cannot be read, or is of another model; all entries that are missing, unknown, of
        another shape or not finite are listed.
    """
    sizes, arrays = _read_model(Path(model_path))
    streams = {s: _to_ours(arrays, stream) for s, stream in enumerate(STREAMS)}
    network = nnx.eval_shape(
        lambda: CaseNet(
            sizes.dims,
            sizes.num_classes,
            settings=CaseSettings(hidden=sizes.hidden),
            head=make_head(HeadSettings(num_clusters=sizes.num_clusters)),
            rngs=nnx.Rngs(0),
        )
    )
    _, params = nnx.split(network, nnx.Param)
    nnx.replace_by_pure_dict(params, {"streams": streams})
    return Published(sizes, params, _read_cluster_labels(Path(cls_gt_path), sizes.num_clusters))


def to_published(
    params: Params,
    cluster_labels: Float[Array, "s k 2"] | Float[np.ndarray, "s k 2"],
    *,
    streams: Sequence[str] = STREAMS,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A model in the layout of the published program.

    Args:
      params: parameters of the network, as `nnx.split` gives them.
      cluster_labels: Q^C of each stream, foreground first.
      streams: names of the streams in the order of the model.

    Returns:
      The state dict as float32 arrays, and the (K, 2) labels of both streams.

    Raises:
      ValueError: other streams than rgb and flow, or streams of different labels.
    """
    if sorted(streams) != sorted(STREAMS):
        raise ValueError(
            f"the streams are {', '.join(streams)}, but the published program has {' and '.join(STREAMS)}; "
            "only a model of both can be exported"
        )
    ours = nnx.to_pure_dict(params).get("streams", {})
    if not ours or any(own.keys() != {*LAYERS, "clusters"} for own in ours.values()):
        raise ValueError("it is no network of CASE with its clusters; only that has a published format")
    labels = np.asarray(cluster_labels, np.float32)
    difference = float(np.abs(labels[0] - labels[1]).max())
    if not difference <= 1e-6:
        raise ValueError(
            f"the cluster labels Q^C of the streams differ by up to {difference:.3g}, but the published program "
            "keeps one for both; only a model trained with co_label_clusters can be exported"
        )
    state: dict[str, np.ndarray] = {}
    for stream in STREAMS:
        state |= _to_theirs(ours[list(streams).index(stream)], stream)
    return state, labels[0]


# One stream in both layouts


def _to_ours(arrays: dict[str, np.ndarray], stream: str) -> dict[str, dict[str, Any]]:
    ours = {}
    for name, theirs in LAYERS.items():
        kernel = arrays[f"{theirs.format(stream)}.weight"][:, :, 0].T  # (out, in, 1) to (in, out)
        ours[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(arrays[f"{theirs.format(stream)}.bias"])}
    return ours | {"clusters": {"directions": jnp.asarray(arrays[DIRECTIONS.format(stream)])}}


def _to_theirs(ours: dict[str, dict[str, Any]], stream: str) -> dict[str, np.ndarray]:
    theirs = {DIRECTIONS.format(stream): np.asarray(ours["clusters"]["directions"], np.float32)}
    for name, layer in LAYERS.items():
        theirs[f"{layer.format(stream)}.weight"] = np.asarray(ours[name]["kernel"], np.float32).T[:, :, None]
        theirs[f"{layer.format(stream)}.bias"] = np.asarray(ours[name]["bias"], np.float32)
    return theirs


def _published_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for dim, stream in zip(sizes.dims, STREAMS, strict=True):
        encoder = sizes.hidden, dim
        layers = {
            "class_encoder": encoder,
            "classifier": (sizes.num_classes, sizes.hidden),
            "embedding_encoder": encoder,
            "attention": (1, sizes.hidden),
        }
        for ours, (outputs, inputs) in layers.items():
            shapes[f"{LAYERS[ours].format(stream)}.weight"] = (outputs, inputs, 1)
            shapes[f"{LAYERS[ours].format(stream)}.bias"] = (outputs,)
        shapes[DIRECTIONS.format(stream)] = (sizes.num_clusters, sizes.hidden)
    return shapes


# Files


def _read_model(path: Path) -> tuple[Sizes, dict[str, np.ndarray]]:
    """Sizes and float32 arrays of a published state dict, by their names there."""
    state = _state_dict(path)

    def size(name: str, axis: int) -> int:
        shape = np.shape(state[name]) if isinstance(state.get(name), np.ndarray) else ()
        return shape[axis] if axis < len(shape) else 0

    encoders = [f"{LAYERS['class_encoder'].format(stream)}.weight" for stream in STREAMS]
    sizes = Sizes(
        dims=(size(encoders[0], 1), size(encoders[1], 1)),
        hidden=size(encoders[0], 0),
        num_classes=size(f"{LAYERS['classifier'].format(STREAMS[0])}.weight", 0),
        num_clusters=size(DIRECTIONS.format(STREAMS[0]), 0),
    )
    wanted = _published_shapes(sizes)
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for name, shape in wanted.items():
        value = state.get(name)
        if not isinstance(value, np.ndarray):
            problems.append(f"{name} is missing" if value is None else f"{name} is no tensor")
        elif value.ndim != len(shape) or (0 not in shape and value.shape != shape):
            problems.append(f"{name} is {value.shape}, to fit the others it would be {shape}")
        elif not (value.dtype.kind == "f" or value.dtype.name == "bfloat16"):
            problems.append(f"{name} is of type {value.dtype}, not of floats")
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                arrays[name] = np.asarray(value, np.float32)
            if not np.isfinite(arrays[name]).all():
                problems.append(f"{name} is not finite")
    problems += [f"{name[:80]!r} is unknown" for name in state if name not in wanted]
    if not problems and min(*sizes.dims, *sizes[1:]) < 1:
        problems = [f"its sizes are {tuple(sizes)}"]
    if problems:
        listed = "; ".join(problems[:40]) + (f"; and {len(problems) - 40} more" if len(problems) > 40 else "")
        raise DataError(
            f"{path}: is no state dict of the published CASE: {listed}. Name a model that main_case.py saved"
        )
    return sizes, arrays


def _state_dict(path: Path) -> dict[str, Any]:
    value = read_torch(path)
    if isinstance(value, dict):
        value = next((value[key] for key in NESTED if isinstance(value.get(key), dict)), value)
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        raise DataError(
            f"{path}: holds no state dict, neither alone nor under one of {', '.join(NESTED)}; save "
            "model.state_dict() with torch.save"
        )
    if all(name.startswith("module.") for name in value):
        return {name.removeprefix("module."): entry for name, entry in value.items()}
    return value


def _read_cluster_labels(path: Path, num_clusters: int) -> Array:
    """(2, K, 2) float32 of a published `cls_gt.npy`."""
    remedy = "name the cls_gt.npy that the published program saved beside this model"
    labels = map_npy(path, remedy=remedy, missing="check the path")
    if labels.dtype.kind != "f":
        raise DataError(f"{path}: holds {labels.dtype}, not one array of floats; {remedy}")
    if labels.shape not in ((num_clusters, 2), (len(STREAMS), num_clusters, 2)):
        raise DataError(
            f"{path}: shape {labels.shape}, where a model of {num_clusters} clusters has ({num_clusters}, 2); {remedy}"
        )
    # Rows sum to one, except before the first step, when the published program has 1/K everywhere.
    if not ((labels >= -1e-4) & (labels <= 1 + 1e-4)).all():
        raise DataError(f"{path}: values from {labels.min():g} to {labels.max():g}, not probabilities; {remedy}")
    return jnp.asarray(np.broadcast_to(labels, (len(STREAMS), num_clusters, 2)).astype(np.float32))
