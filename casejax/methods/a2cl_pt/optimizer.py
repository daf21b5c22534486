"""The centers' part of A2CL-PT's optimizer: gradient descent of their own, on or around the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax

from casejax.losses import unit


def renormalise(*, before: bool = True) -> optax.GradientTransformation:
    """Put vectors (the last axis of every array) back on the unit sphere; the last link of an optax chain.

    Args:
      before: normalise the vectors as they were, then add the update, as the published program does, so that they
        leave the sphere by the length of one step. False: add the update, then normalise. A vector of zeros stays.

    Returns:
      A transformation whose `update` needs the parameters.
    """

    def step(params: jax.Array, update: jax.Array) -> jax.Array:
        return unit(params) + update - params if before else unit(params + update) - params

    return optax.stateless(lambda updates, params: jax.tree.map(step, params, updates))


def center_update(learning_rate: optax.ScalarOrSchedule, *, before: bool = True) -> optax.GradientTransformation:
    """Gradient descent of centers with renormalisation, Eq. 10 of A2CL-PT's supplement and the line below it.

    Args:
      learning_rate: of the centers; published are 0.1 for rgb and 0.2 for flow.
      before: see `renormalise`.
    """
    return optax.chain(optax.scale_by_learning_rate(learning_rate), renormalise(before=before))


def network_and_centers(
    network: optax.GradientTransformation,
    learning_rates: Sequence[optax.ScalarOrSchedule] = (0.1, 0.2),
    *,
    before: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """One optimizer of a network's parameters and of the centers of each stream.

    Args:
      network: the network's, such as `contract.adam`.
      learning_rates: of the centers, one a stream.
      before: see `renormalise`.

    Returns:
      A transformation of trees in which the centers of stream s stand under the names `centers` and s.

    Raises:
      ValueError: no learning rate.
    """
    if not learning_rates:
        raise ValueError("network_and_centers needs a learning rate of the centers of each stream, got none")
    updates = {f"centers_{s}": center_update(rate, before=before) for s, rate in enumerate(learning_rates)}

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        names = [getattr(entry, "key", None) for entry in path]
        return f"centers_{names[names.index('centers') + 1]}" if "centers" in names else "network"

    def labels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(label, params)

    return optax.partition({"network": network, **updates}, labels)
