"""A trained network as a folder for others: safetensors and JSON, no pickle, no optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from casejax.errors import CheckpointError, DataError, OptionError
from casejax.run.folder import META, Restored, network_of
from casejax.run.state import initial_state
from casejax.runtime import files
from casejax.runtime.reading import brief, read_bytes, read_json

WEIGHTS, SETTINGS = "model.safetensors", "config.json"
"""The files of the folder that a network is read from."""

CLUSTER_LABELS = "cluster_labels"
"""The name of Q^C among the arrays; all others are parameters."""


def write_network(restored: Restored, folder: Path) -> None:
    """Write parameters, Q^C, options and what was trained on to a folder that is there.

    Raises:
      OptionError: safetensors is missing; the message says how to install it.
    """
    try:
        from safetensors.numpy import save
    except ImportError:
        raise OptionError("an export needs safetensors: pip install 'casejax[export]'") from None
    arrays = {name: np.asarray(leaf) for name, leaf in _named(restored.state.params)}
    if isinstance(restored.state.cluster_labels, jax.Array | np.ndarray):
        arrays[CLUSTER_LABELS] = np.asarray(restored.state.cluster_labels)
    written = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"format": "casejax"})
    files.write_bytes(folder / WEIGHTS, written)
    meta = {**restored.meta, "config": restored.config.as_dict(), "step": int(restored.state.step)}
    files.write_json(folder / SETTINGS, meta)


def is_exported(folder: Path) -> bool:
    """Whether a folder holds what `write_network` writes."""
    return (folder / WEIGHTS).is_file()


def read_network(folder: Path) -> Restored:
    """The network of a folder that `write_network` wrote.

    Raises:
      CheckpointError: files that are missing or do not fit each other.
      OptionError: safetensors is missing; the message says how to install it.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load
    except ImportError:
        raise OptionError(f"{folder} needs safetensors: pip install 'casejax[export]'") from None
    try:
        arrays = load(read_bytes(folder / WEIGHTS, "weights"))
        meta: dict[str, Any] = read_json(folder / SETTINGS, META)
        config, data = network_of(meta, folder / SETTINGS), meta["data"]
        dims, classes = tuple(data["dims"]), data["classes"]
        # without memory for it, of which damaged settings could ask for any amount
        template = jax.eval_shape(lambda: initial_state(config, dims, len(classes))[1])
    except (ArithmeticError, DataError, OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot be read ({brief(error)}); export the run again (casejax export)"
        ) from error
    leaves, structure = jax.tree.flatten(template.params)
    names = [name for name, _ in _named(template.params)]
    has_clusters = hasattr(template.cluster_labels, "shape")
    wanted = dict(zip(names, leaves, strict=True)) | ({CLUSTER_LABELS: template.cluster_labels} if has_clusters else {})
    for name in wanted.keys() ^ arrays.keys():
        fault = "lacks" if name in wanted else "has also"
        raise CheckpointError(f"{folder / WEIGHTS}: {fault} {name}; export the run again (casejax export)")
    for name, leaf in wanted.items():
        there, asked = (f"{each.dtype} {each.shape}" for each in (arrays[name], leaf))
        if there != asked:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name} is {there}, {SETTINGS} asks for {asked}; export the run again "
                "(casejax export)"
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"{folder / WEIGHTS}: {name} is not finite; export another run (casejax export)")
    params = jax.tree.unflatten(structure, [jax.numpy.asarray(arrays[name]) for name in names])
    graphdef, state = initial_state(config, dims, len(classes))
    state = state._replace(params=params, step=jax.numpy.int32(meta.get("step", 0)))
    if has_clusters:
        state = state._replace(cluster_labels=jax.numpy.asarray(arrays[CLUSTER_LABELS]))
    return Restored(folder, graphdef, state, config, meta)


def _named(params: Any) -> list[tuple[str, Any]]:
    """Every array of the parameters with its path, such as streams.0.attention.kernel.value."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
