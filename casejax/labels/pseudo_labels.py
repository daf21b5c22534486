"""Snippet labels from fused instances: least labels with a given contrast, and their differences over time.

Zhou et al., "Improving Weakly Supervised Temporal Action Localization by Bridging Train-Test Gap in Pseudo Labels",
CVPR 2023, after the published program. An instance of contrast b (mean activation inside minus that around it) asks
that the labels inside sum to b more than those around it; of all labels that satisfy every instance of a class, those
of least sum are taken. Often many labels have the least sum. The published program takes the ones that its solver
returns; here it is their centre, see `casejax.labels.interior_point`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Bool, Float, Int
from casejax.arrays import as_floats, as_whole, refuse_nan, takes
from casejax.labels.interior_point import least_mass
from casejax.losses import soft_cross_entropy

Margin = Callable[[Float[Array, " m"]], Float[Array, " m"]]


class SnippetLabels(NamedTuple):
    """Labels of one class in one video.

    Attributes:
      labels: (T,) in [0, 1]; 0 in padding and away from all instances. A class without an instance has zeros.
      residual: (M,) by how much the labels miss the contrast of each instance; 0 for instances that took no part.
      used: (M,) the instances that took part: real ones that cover a snippet.
      feasible: all contrasts are met (to 1e-3). If not, the labels are the closest ones in the sense of least squares.
      converged: the solver came to rest; if not, the labels are those of its last step.
    """

    labels: Float[Array, " t"]
    residual: Float[Array, " m"]
    used: Bool[Array, " m"]
    feasible: Bool[Array, ""]
    converged: Bool[Array, ""]


@takes()
def power_margin(length: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """Snippets to either side that count as around an instance: 0.0785 length^0.9, as published.

    NaN for a negative length.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> print(np.asarray(labels.power_margin(jnp.array([10.0, 100.0]))).round(2))
      [0.62 4.95]
    """
    return 0.0785 * length**0.9


@takes()
def linear_margin(length: Float[Array, "*m"]) -> Float[Array, "*m"]:
    """A quarter of the length, as in the program that the published one was built on.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> print(labels.linear_margin(jnp.array([10.0, 100.0])))
      [ 2.5 25. ]
    """
    return 0.25 * length


@takes()
def contrast_rows(
    segments: Float[Array, "m 2"],
    *,
    num_snippets: int,
    mask: Bool[Array, " m"] | None = None,
    snippet_mask: Bool[Array, " t"] | None = None,
    margin: Margin = power_margin,
) -> tuple[Float[Array, "m t"], Bool[Array, " m"]]:
    """The equation that an instance gives: +1 for snippets inside, -1 for those around it, 0 for all others.

    Starts and ends lose their fractions, as published. With m the margin, the snippets around [s, e) go from s - m
    rounded down, and before e + m + 1 rounded down; the last snippet of a video is never one of them.

    Args:
      segments: (M, 2) start and end in snippets.
      num_snippets: T, static.
      mask: (M,) True for real instances; default all.
      snippet_mask: (T,) True for real snippets, which come first; default all.
      margin: from lengths to margins, in snippets.

    Returns:
      The rows, and the instances that cover a snippet; all other rows are 0.

    Raises:
      ValueError: shapes that don't fit, or a known segment that is real and has a NaN; under `jit` and `vmap` it
        takes no part.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> rows, used = labels.contrast_rows(jnp.array([[3.0, 7.0]]), num_snippets=10, margin=labels.linear_margin)
      >>> print(rows.astype(int), used)
      [[ 0  0 -1  1  1  1  1 -1 -1  0]] [ True]
    """
    if num_snippets < 1:
        raise ValueError(f"num_snippets must be 1 or more, got {num_snippets}")
    shown = jnp.ones(num_snippets, bool) if snippet_mask is None else snippet_mask
    if shown.shape != (num_snippets,):
        raise ValueError(f"snippet_mask must have shape {(num_snippets,)}, got {shown.shape}")
    real = jnp.isfinite(segments).all(axis=1)
    real = real if mask is None else real & mask
    count = shown.sum()
    start, end = jnp.trunc(jnp.where(real[:, None], segments, 0)).T[:, :, None]
    width = margin(jnp.maximum(end - start, 1))
    at = jnp.arange(num_snippets, dtype=start.dtype)[None, :]
    inside = (at >= start) & (at < end) & shown[None, :]
    first, stop = jnp.floor(start - width), jnp.minimum(jnp.floor(end + width + 1), (count - 1).astype(start.dtype))
    around = ((at >= first) & (at < start)) | ((at >= end) & (at < stop))
    used = real & inside.any(axis=1)
    rows = inside.astype(start.dtype) - (around & shown[None, :]).astype(start.dtype)
    return jnp.where(used[:, None], rows, 0), used


@takes()
def snippet_labels(
    segments: Float[Array, "m 2"],
    scores: Float[Array, " m"],
    *,
    num_snippets: int,
    mask: Bool[Array, " m"] | None = None,
    snippet_mask: Bool[Array, " t"] | None = None,
    margin: Margin = power_margin,
    barrier: float | Float[Array, ""] = 1e-5,
    penalty: float | Float[Array, ""] = 1e4,
    num_steps: int = 60,
) -> SnippetLabels:
    """The labels of least sum whose sum inside every instance exceeds that around it by the instance's score.

    Where many labels have the least sum, these are their centre: snippets that lie in the same instances have the same
    label, in whatever order the instances come. The labels of an instance sum to its score: each is about
    score / length. Videos and classes: `jax.vmap`. Differentiable in the scores.

    Args:
      segments: (M, 2) start and end in snippets, M >= 1, such as `fuse_instances(...).segments`.
      scores: (M,) contrasts.
      num_snippets: T, static.
      mask: (M,) True for real instances; default all.
      snippet_mask: (T,) True for real snippets, which come first; default all.
      margin: `power_margin`, `linear_margin` or another function from lengths to margins, in snippets.
      barrier: see `least_mass`.
      penalty: see `least_mass`.
      num_steps: see `least_mass`; static.

    Raises:
      ValueError: shapes that don't fit or an option out of range; for arrays that are not traced, a real instance that
        is not finite or does not end after it starts, or real snippets behind padding. Under `jit` and `vmap` such
        instances take no part.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> segments, scores = jnp.array([[1.0, 3.0], [5.0, 9.0]]), jnp.array([0.8, 0.8])
      >>> found = labels.snippet_labels(segments, scores, num_snippets=10)
      >>> print(np.asarray(found.labels).round(2))  # the labels inside an instance sum to its score
      [0.  0.4 0.4 0.  0.  0.2 0.2 0.2 0.2 0. ]
    """
    if not len(segments):
        raise ValueError("snippet_labels needs an instance, got segments (0, 2); mask one that is not real")
    real = jnp.ones(segments.shape[:1], bool) if mask is None else mask
    _refuse_broken(segments, scores, real, snippet_mask)
    real = real & jnp.isfinite(scores)
    rows, used = contrast_rows(segments, num_snippets=num_snippets, mask=real, snippet_mask=snippet_mask, margin=margin)
    found = least_mass(
        rows,
        scores,
        mask=used,
        value_mask=snippet_mask,
        barrier=barrier,
        penalty=penalty,
        num_steps=num_steps,
    )
    return SnippetLabels(found.values, found.residual, used, found.feasible, found.converged)


def _refuse_broken(segments: Array, scores: Array, mask: Array, snippet_mask: Array | None) -> None:
    """Refuse wrong values in arrays that are not traced."""
    if not any(isinstance(x, jax.core.Tracer) for x in (segments, scores, mask)):
        table = np.column_stack([segments, scores])
        broken = np.asarray(mask) & ~(np.isfinite(table).all(axis=1) & (table[:, 1] > table[:, 0]))
        if broken.any():
            row = int(np.argmax(broken))
            raise ValueError(
                f"instance {row} is (start, end, score) = {tuple(table[row].tolist())}, expected finite numbers and "
                "start < end; mask what is not real"
            )
    if snippet_mask is not None and not isinstance(snippet_mask, jax.core.Tracer):
        shown = np.asarray(snippet_mask)
        if (shown[1:] & ~shown[:-1]).any():
            raise ValueError(f"snippet {int(np.argmax(shown[1:] & ~shown[:-1])) + 1} is real but comes after padding")


# Supervision


@takes()
def pseudo_label_loss(
    logits: Float[Array, "*b t c"],
    labels: Float[Array, "*b t c"],
    *,
    mask: Bool[Array, "*b t"] | None = None,
) -> Float[Array, "*b"]:
    """Cross-entropy of snippet scores to labels that need not sum to 1; negative labels push a class down.

    Args:
      logits: (..., T, C), before the softmax over classes.
      labels: (..., T, C), of `snippet_labels` or `label_target`; constants.
      mask: (..., T) True for real snippets; default all.

    Returns:
      (...) means over the real snippets, one a video; 0 where none is real.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import labels
      >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]]]))  # one video of two snippets
      >>> targets = jnp.array([[[1.0, 0.0], [0.5, 0.0]]])
      >>> print(np.asarray(labels.pseudo_label_loss(logits, targets)).round(3))  # the mean of log 2 and half of log 4
      [0.693]
    """
    labels = jax.lax.stop_gradient(labels)
    if mask is None:
        return soft_cross_entropy(logits, labels).mean(axis=-1)
    logits, labels = (jnp.where(mask[..., None], x, 0) for x in (logits, labels))
    return soft_cross_entropy(logits, labels).sum(axis=-1) / jnp.maximum(mask.sum(axis=-1), 1).astype(logits.dtype)


class Phase(NamedTuple):
    """From an epoch on, the target is newest * (newest labels) + previous * (those before).

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> history = labels.LabelHistory.empty((2,)).push(jnp.array([0.5, 0.0]))
      >>> print(labels.label_target(history, 30, phases=[labels.Phase(20, newest=1.0, previous=0.0)]))
      [0.5 0. ]
    """

    epoch: int
    newest: float
    previous: float


PUBLISHED_PHASES = (Phase(201, 1.0, 0.0), Phase(251, 2.0, -2.0), Phase(301, 2.15, -2.15))
"""No labels up to epoch 200 (the first is 0), then the newest, then what changed: delta labels."""

PUBLISHED_TEMPERATURES = {200: 0.02, 230: 0.02, 245: 0.02, 260: 0.002, 275: 0.002, 300: 0.0016}
"""The epochs at which labels are made anew, and the temperature their instances are fused with."""


class LabelHistory(NamedTuple):
    """The newest labels, those before them, and how often labels have been made.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> history = labels.LabelHistory.empty((2,)).push(jnp.array([0.5, 0.0])).push(jnp.array([0.75, 0.25]))
      >>> print(history.newest, history.previous, history.made)
      [0.75 0.25] [0.5 0. ] 2
    """

    newest: Float[Array, "*s"]
    previous: Float[Array, "*s"]
    made: Int[Array, ""]

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: Any = jnp.float32) -> LabelHistory:
        """The history before the first labels."""
        newest, previous = (jnp.zeros(tuple(shape), dtype) for _ in range(2))  # two arrays, so that both can be donated
        return cls(newest, previous, jnp.zeros((), jnp.int32))

    def push(self, labels: Float[Array, "*s"]) -> LabelHistory:
        """The history after new labels, which must have the shape of those before."""
        if jnp.shape(labels) != self.newest.shape:
            raise ValueError(f"labels must have shape {self.newest.shape} as those before, got {jnp.shape(labels)}")
        return LabelHistory(labels, self.newest, self.made + 1)


@takes()
def label_target(
    history: LabelHistory, epoch: int | Int[Array, ""], *, phases: Sequence[Phase] = PUBLISHED_PHASES
) -> Float[Array, "*s"]:
    """What snippets are trained towards in an epoch: nothing, labels, or a multiple of how they changed.

    A phase gives zeros until the labels that it needs have been made.

    Args:
      history: the labels so far.
      epoch: counted from 0; may be traced.
      phases: in ascending order of their epochs, static.

    Raises:
      ValueError: phases out of order.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import labels
      >>> history = labels.LabelHistory.empty((2,)).push(jnp.array([0.5, 0.0])).push(jnp.array([0.75, 0.25]))
      >>> for epoch in (200, 201, 251):  # none yet, the newest, twice what changed
      ...     print(epoch, labels.label_target(history, epoch))
      200 [0. 0.]
      201 [0.75 0.25]
      251 [0.5 0.5]
    """
    labels = {name: as_floats(getattr(history, name), f"history.{name}") for name in ("newest", "previous")}
    newest, previous = labels.values()
    if newest.shape != previous.shape:
        raise ValueError(f"labels of a history must have one shape, got {newest.shape} and {previous.shape}")
    for name, values in labels.items():
        refuse_nan(values, f"history.{name}")
    starts = [phase.epoch for phase in phases]
    if starts != sorted(set(starts)):
        raise ValueError(f"phases must begin at ascending epochs, got {starts}")
    coefficients = np.array([(0, 0), *((phase.newest, phase.previous) for phase in phases)], np.float32)
    current = (jnp.asarray(epoch) >= jnp.asarray(starts, jnp.int32)).sum() if starts else 0
    own, of_previous = jnp.asarray(coefficients, newest.dtype)[current]
    known = as_whole(history.made, "history.made") >= jnp.where(of_previous != 0, 2, 1)
    return jnp.where(known, own * newest + of_previous * previous, 0)


@takes()
def label_weight(
    epoch: int | Int[Array, ""],
    *,
    first_epoch: int = 200,
    initial: float = 10.0,
    growth: float = 1.035,
    most: float = 50.0,
) -> Float[Array, ""]:
    """Weight of the pseudo-label loss: 0 before `first_epoch`, then initial * growth^(epoch - first_epoch), capped.

    Example:
      >>> from casejax import labels
      >>> print([round(float(labels.label_weight(epoch)), 2) for epoch in (199, 200, 201, 300)])
      [0.0, 10.0, 10.35, 50.0]
    """
    age = jnp.asarray(epoch, jnp.float32) - first_epoch
    capped_at = math.ceil(math.log(most / initial) / math.log(growth))
    weight = jnp.minimum(initial * growth ** jnp.clip(age, 0, capped_at), most)
    return jnp.where(age >= 0, weight, 0)


LABEL_EPOCHS = 350
"""Epochs of the published run with pseudo labels; in a run of another length its phases are stretched."""
