"""Whether a run goes well: what is not finite, and what grows or shrinks as it does in no run that learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from casejax.records import SnippetScores
from casejax.run.state import TrainState

GROWTH = 1e4  # of the largest parameter, over its first value, that no run that learns has
RISE = 1.5  # of the loss over its first value, in every one of the last lines
LINES = 10  # of metrics.jsonl that must have risen, and a quarter of them at least
FLAT = 1e-6  # a range below which values are one value

CHECKED = {"params": "parameters", "opt_state": "moments of the optimizer", "cluster_labels": "cluster labels"}
"""Parts of the state that must be finite, by the word for them."""


@jax.jit
def _measured(parts: Any, params: Any) -> tuple[Any, jax.Array]:
    """Whether each part is finite, and the largest magnitude of a parameter: a few numbers, in one pass."""
    finite = {
        name: jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in _floats(part)] or [True]))
        for name, part in parts.items()
    }
    largest = jnp.max(jnp.asarray([jnp.abs(leaf).max().astype(jnp.float32) for leaf in _floats(params)] or [0.0]))
    return finite, largest


def measure(state: TrainState) -> tuple[str, float]:
    """What of a state is not finite, in words, and the largest magnitude of a parameter; "" where all is finite."""
    finite, largest = jax.device_get(_measured({name: getattr(state, name) for name in CHECKED}, state.params))
    return " and ".join(CHECKED[name] for name in CHECKED if not finite[name]), float(largest)


def largest(params: Any) -> float:
    """The largest magnitude of a parameter, of arrays on the host."""
    return max((float(np.abs(leaf).max()) for leaf in jax.tree.leaves(params) if np.size(leaf)), default=0.0)


def not_finite(metrics: Mapping[str, float]) -> str:
    """The metrics that are not finite, with their values."""
    return ", ".join(f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value))


def without_skipped(metrics: Mapping[str, float]) -> dict[str, float]:
    """Means over the steps that counted, from means to which those that were skipped added zero."""
    share = 1 - metrics.get("skipped", 0.0)
    return {n: v if n == "skipped" else v / share if share else math.nan for n, v in metrics.items()}


def growth(largest: float, first: float, step: int) -> str:
    """What to say of parameters that have grown; "" of those that have not."""
    if largest <= GROWTH * max(first, 1e-2):
        return ""
    return (
        f"the largest parameter is {largest:.3g} by step {step}, {first:.3g} at the start: the run has most likely "
        "diverged; lower --learning-rate"
    )


def rise(lines: Sequence[Mapping[str, Any]]) -> str:
    """What to say of a loss that has been far above its start for long, given the lines of metrics.jsonl."""
    last = lines[-max(LINES, len(lines) // 4) :]
    if len(lines) < 2 * LINES or not all(each["loss"] > RISE * abs(lines[0]["loss"]) for each in last):
        return ""
    terms = [name for name in lines[0] if name.startswith("loss_") and name in last[-1]]
    term = max(terms, key=lambda name: last[-1][name] - lines[0][name], default="loss")
    return (
        f"the loss has been more than {RISE:g} times its start since step {last[0]['step']} ({lines[0]['loss']:.3g} at "
        f"step {lines[0]['step']}, {last[-1]['loss']:.3g} at step {last[-1]['step']}), {term} the most: the run has "
        "most likely diverged; lower --learning-rate"
    )


def collapses(scores: SnippetScores, cluster_labels: Any, found: Sequence[str], classes: Sequence[str]) -> list[str]:
    """What to say of scores that tell nothing apart.

    Args:
      scores: of some videos.
      cluster_labels: (S, K, 2) Q^C; None without clusters.
      found: the class of every detection.
      classes: all of them.
    """
    said = []
    if scores.attention is not None and np.ptp(np.asarray(scores.attention)) < FLAT:
        said.append("attention is one and the same everywhere, so nothing is told apart; lower --learning-rate")
    if cluster_labels is not None and np.ndim(cluster_labels) == 3 and np.shape(cluster_labels)[1] > 1:
        spread = np.ptp(np.asarray(cluster_labels), axis=1).max()
        if spread < FLAT:
            said.append("all clusters are foreground to the same degree, so they tell nothing apart; train longer")
    if never := [name for name in classes if name not in set(found)]:
        names = ", ".join(never[:5]) + (f" and {len(never) - 5} more" if len(never) > 5 else "")
        said.append(f"{len(never)} of {len(classes)} classes are never detected: {names}")
    return said


def _floats(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]
