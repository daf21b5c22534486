"""Weights that Keras saved in an `.h5` file, read without Keras. Needs h5py: `pip install 'casejax[keras]'`."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.alignment.networks.resnet import ResNetV2
from casejax.errors import DataError
from casejax.runtime import hdf5

AnyPath = str | os.PathLike[str]
Weights = dict[str, dict[str, np.ndarray]]

NAMES = {
    nnx.Conv: {"kernel": "kernel", "bias": "bias"},
    nnx.BatchNorm: {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"},
}
"""What Keras and what Flax call the weights of a layer."""

MODEL, REMEDY = "model_weights", "fetch the file again"


def read_keras_weights(path: AnyPath, layers: Collection[str] | None = None) -> Weights:
    """Read the weights of a model that Keras saved as `.h5`, alone or with the model.

    A group at the top of the file (below `model_weights` where the model was saved with it) is a layer, unless
    it has weights in more than one group: then it is a model inside the model, and each of those is a layer.

    Only arrays of numbers that lie in the file itself are read; links to other files are not followed, and
    nothing that the file holds is executed or unpickled.

    Args:
      path: the file.
      layers: names of the layers to read; default all.

    Returns:
      Arrays by layer and weight, for example `weights["conv1_conv"]["kernel"]`, without the `:0` of older files.

    Raises:
      DataError: no such file, not an HDF5 file, a damaged one, one of another layout, or two layers or weights
        of one name.
      ImportError: h5py is not installed.
    """
    path = Path(path)
    try:
        inside = hdf5.array_names(path, remedy=REMEDY, kind="weights", top=MODEL)
    except ImportError as error:
        raise ImportError("weights of Keras are read by h5py: pip install 'casejax[keras]'") from error
    found = {name.removeprefix(f"{MODEL}/"): name for name in inside}
    if any(name.split("/")[-2:-1] == ["vars"] for name in found):
        raise DataError(
            f"{path}: written in the `.weights.h5` layout of Keras 3, which does not name layers; save the model "
            "as a legacy `.h5` file (`model.save('weights.h5')`)"
        )
    groups: dict[str, set[str]] = defaultdict(set)
    for name in found:
        groups[name.split("/")[0]].add(name.rpartition("/")[0])
    weights: Weights = {}
    owner: dict[str, str] = {}
    for name, full in found.items():
        group, _, weight = name.rpartition("/")
        top = name.split("/")[0]
        layer = top if len(groups[top]) == 1 else group.split("/")[-1]
        if not group or (layers is not None and layer not in layers):
            continue
        weight = weight.removesuffix(":0")
        if owner.setdefault(layer, group) != group or weight in weights.get(layer, {}):
            raise DataError(f"{path}: {owner[layer]} and {group} both hold weights of a layer named {layer}")
        shape, dtype, stored = hdf5.describe_array(path, full, remedy=REMEDY)
        # Keras does not compress: what is longer than its file is not there.
        if dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize > stored:
            raise DataError(f"{path}: {name} is not an array of numbers in this file")
        weights.setdefault(layer, {})[weight] = hdf5.read_array(path, full, remedy=REMEDY)
    return weights


def load_keras_resnet(network: ResNetV2, path: AnyPath) -> None:
    """Put the weights of Keras' ResNetV2 models into our network, in place.

    Files with and without the top will do, as will those of longer networks: layers that ours lacks are not read.
    Images must then be scaled to [-1, 1], as for every ResNetV2 of Keras.

    Args:
      network: the network, made for example with `nnx.eval_shape` to save drawing parameters that are replaced.
      path: for ResNet-50 `resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5` as Keras publishes it, or a
        model that was saved as `.h5`.

    Raises:
      DataError: a file that cannot be read, or is of another model; all weights that are missing, of another
        shape or not finite are listed, and the network is as it was.
      ImportError: h5py is not installed.
    """
    layers = network.keras_layers()
    weights = read_keras_weights(path, layers)
    found: list[tuple[nnx.Variable[Any], np.ndarray]] = []
    complaints = []
    for layer_name, layer in layers.items():
        for keras_name, our_name in NAMES[type(layer)].items():
            variable = getattr(layer, our_name)
            if variable is None:
                continue
            name, shape = f"{layer_name}/{keras_name}", variable.get_value().shape
            array = weights.get(layer_name, {}).get(keras_name)
            if array is None:
                complaints.append(f"{name} is missing")
            elif array.shape != shape:
                complaints.append(f"{name} has shape {array.shape}, wanted {shape}")
            elif not np.isfinite(array).all():
                complaints.append(f"{name} is not finite")
            else:
                found.append((variable, array))
    if complaints:
        listed = "; ".join(complaints[:20]) + ("; ..." if len(complaints) > 20 else "")
        raise DataError(f"{path}: not the weights of this network, {len(complaints)} complaints: {listed}")
    for variable, array in found:
        variable.set_value(jnp.asarray(array, jnp.float32))
