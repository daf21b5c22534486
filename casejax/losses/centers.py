"""Angular class centers of A2CL-PT: a pair of triplets on angles, and the centers' averaged gradient.

Min and Corso, "Adversarial Background-Aware Loss for Weakly-Supervised Temporal Activity Localization", ECCV 2020.
Equations are numbered as in its supplement. A *pair* is a video and one of its classes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax.array_types import Array, Bool, Float, Int, Key
from casejax.arrays.arguments import check_index, takes
from casejax.losses.vectors import _angle, _cosines, unit


class Triplets(NamedTuple):
    """How far each pair is from satisfying its two triplets; a triplet above 0 is violated and contributes.

    Attributes:
      atcl: (N,) radians, Eq. 1: the pair's own center must be nearer than any other; -inf where there is no other.
      nt: (N,) radians, Eq. 2: the feature must be nearer to the pair's own center than its background counterpart is.
      nearest: (N,) int32, the nearest negative center.
    """

    atcl: Float[Array, " n"]
    nt: Float[Array, " n"]
    nearest: Int[Array, " n"]


@takes()
def nearest_negative(
    features: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    centers: Float[Array, "c d"],
    *,
    candidates: Bool[Array, "n c"] | None = None,
) -> Int[Array, " n"]:
    """The center at the smallest angle to each feature, except its own; of equal angles the first is taken.

    Args:
      features: (N, D).
      labels: (N,) each feature's own center.
      centers: (C, D).
      candidates: (N, C) centers that may be negatives of a pair; its own never is. Default all, so also other classes
        of the same video, as in the published program. A row without a candidate gives 0.

    Raises:
      ValueError: centers of another dimension than the features.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> centers = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> features = jnp.array([[2.0, 0.1], [0.1, 2.0]])  # near to centers 0 and 1, which are their own
      >>> print(losses.nearest_negative(features, jnp.array([0, 1]), centers))
      [2 2]
    """
    _check(labels, centers)
    labels = jnp.asarray(labels)
    cosines = jax.lax.stop_gradient(_cosines(features, centers))
    allowed = _negatives(labels, len(centers), candidates)
    return jnp.argmax(jnp.where(allowed, cosines, -jnp.inf), axis=1).astype(jnp.int32)


@takes()
def triplets(
    features: Float[Array, "n d"],
    background: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    centers: Float[Array, "c d"],
    *,
    candidates: Bool[Array, "n c"] | None = None,
    margin_atcl: float | Float[Array, ""] = 1.0,
    margin_nt: float | Float[Array, ""] = 2.0,
) -> Triplets:
    """Both triplets of every pair, Eqs. 1 and 2 inside the maximum; differentiable in all three arrays.

    Args and errors are those of `center_loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from casejax import losses
      >>> feature, background = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> found = losses.triplets(feature, background, jnp.array([0]), jnp.array([[1.0, 0.0], [0.0, 1.0]]))
      >>> print(np.asarray(found.atcl).round(3), np.asarray(found.nt).round(3))  # 1 - pi / 2 and 2 - pi / 2
      [-0.571] [0.429]
    """
    nearest = nearest_negative(features, labels, centers, candidates=candidates)
    labels = jnp.asarray(labels)
    own = centers[labels]
    vectors = features, background, own, centers[nearest], own
    atcl, nt = _violations(*vectors, margin_atcl=margin_atcl, margin_nt=margin_nt)
    possible = _negatives(labels, len(centers), candidates).any(axis=1)
    return Triplets(jnp.where(possible, atcl, -jnp.inf), nt, nearest)


@takes()
def center_loss(
    features: Float[Array, "n d"],
    background: Float[Array, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    centers: Float[Array, "c d"],
    *,
    mask: Bool[Array, " n"] | None = None,
    candidates: Bool[Array, "n c"] | None = None,
    margin_atcl: float | Float[Array, ""] = 1.0,
    margin_nt: float | Float[Array, ""] = 2.0,
    nt_weight: float | Float[Array, ""] = 0.6,
    averaged: bool = True,
    num_samples: float | Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Angular center loss with the pair of triplets; its centers' gradient couples all pairs of a batch.

    The mean over pairs of max(atcl, 0) + nt_weight * max(nt, 0), with `triplets`.

    The gradient of the features is the exact one. That of the centers is, unless `averaged` is False, the projected
    averaged gradient of Eqs. 6 to 10, by which the published program moves its centers. It is not the gradient of the
    loss:

      - for each center, the sums over pairs of Eqs. 3, 4 and 5 are each divided by 1 + the number of violated triplets
        in it. One violated triplet counts half; a class with many pairs moves hardly faster than one with few.
      - it does not depend on a factor of the loss: twice the loss gives the same step of the centers. Only their own
        learning rate scales it, `methods.a2cl_pt.center_update`.

    Args:
      features: (N, D) F of each pair, pooled by the class's attention; any norm.
      background: (N, D) f of each pair, which attends more to the background.
      labels: (N,) the class of each pair, an index of `centers`.
      centers: (C, D), C >= 2; any norm.
      mask: True for real pairs; default all.
      candidates: (N, C) centers that may be a pair's nearest negative; default all but its own.
      margin_atcl: radians, of Eq. 1; `margin2` of the published program.
      margin_nt: radians, of Eq. 2; `margin1` of the published program.
      nt_weight: gamma.
      averaged: give the centers the averaged gradient; otherwise the true one.
      num_samples: what the sum over pairs is divided by, N of Eqs. 7 to 9; default the number of real pairs, as in the
        published program. The supplement's N is the number of videos.

    Returns:
      The loss; 0 where no pair is real.

    Raises:
      ValueError: features, background, labels and centers whose shapes do not fit, fewer than two centers, or (outside
        jit) a label that is no index of them.

    Example:
      >>> import jax.numpy as jnp
      >>> from casejax import losses
      >>> feature, background = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
      >>> centers = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{losses.center_loss(feature, background, jnp.array([0]), centers):.3f}")  # 0.6 (2 - pi / 2)
      0.258
      >>> print(f"{losses.center_loss(feature, background, jnp.array([1]), centers):.3f}")  # another class
      4.713
    """
    _check(labels, centers, mask)
    real = jnp.ones(len(labels), bool) if mask is None else mask
    labels = jnp.where(real, labels, 0)
    features, background = (jnp.where(real[:, None], x, 0) for x in (features, background))
    nearest = nearest_negative(features, labels, centers, candidates=candidates)
    possible = real & _negatives(labels, len(centers), candidates).any(axis=1)
    count = jnp.maximum(real.sum(), 1) if num_samples is None else jnp.asarray(num_samples)
    count = count.astype(features.dtype)

    def violations(*vectors: Array) -> tuple[Array, Array]:
        """Both triplets of the real pairs, 0 where they are not violated."""
        atcl, nt = _violations(*vectors, margin_atcl=margin_atcl, margin_nt=margin_nt)
        return jnp.where(possible & ~(atcl <= 0), atcl, 0), jnp.where(real & ~(nt <= 0), nt, 0)  # NaN stays NaN

    def loss(*vectors: Array) -> Array:
        atcl, nt = violations(*vectors)
        return (atcl.sum() + nt_weight * nt.sum()) / count

    index = labels, nearest, labels  # of the center in Eqs. 3, 4 and 5
    if not averaged:
        return loss(features, background, *(centers[i] for i in index))

    fixed = jax.lax.stop_gradient(centers)
    rows = [fixed[i] for i in index]
    vectors = *jax.lax.stop_gradient((features, background)), *rows
    gradients = jax.grad(loss, argnums=(2, 3, 4))(*vectors)  # a pair's own center comes twice, once a triplet
    active_atcl, active_nt = (terms > 0 for terms in violations(*vectors))
    averages = [
        _average(*term, like=fixed)
        for term in zip(gradients, index, (active_atcl, active_atcl, active_nt), strict=True)
    ]
    return _with_gradient(loss(features, background, *rows), centers, jnp.stack(averages).sum(axis=0))


def initial_centers(num_classes: int, dim: int, key: Key[Array, ""]) -> Float[Array, "c d"]:
    """Random directions, one a class, each of length 1.

    Raises:
      ValueError: fewer than two classes or no dimension.

    Example:
      >>> import jax
      >>> from casejax import losses
      >>> centers = losses.initial_centers(20, 64, jax.random.key(0))
      >>> lengths = losses.norm(centers)
      >>> print(centers.shape, f"{lengths.min():.3f} {lengths.max():.3f}")
      (20, 64) 1.000 1.000
    """
    if num_classes < 2 or dim < 1:
        raise ValueError(f"centers need two classes and a dimension, got num_classes={num_classes} and dim={dim}")
    return unit(jax.random.normal(key, (num_classes, dim)))


@jax.custom_vjp
def _with_gradient(loss: Array, centers: Array, gradient: Array) -> Array:
    """The loss unchanged; its derivative for `centers` is always `gradient`."""
    return loss


def _with_gradient_fwd(loss: Array, centers: Array, gradient: Array) -> tuple[Array, Array]:
    return loss, gradient


def _with_gradient_bwd(gradient: Array, cotangent: Array) -> tuple[Array, Array, None]:
    return cotangent, gradient, None


_with_gradient.defvjp(_with_gradient_fwd, _with_gradient_bwd)


def _average(gradients: Array, index: Array, active: Array, *, like: Array) -> Array:
    """Per center the sum of its pairs' gradients over 1 + the number of active ones (Eqs. 7 to 9).

    The gradients come through the normalisation of the center, which depends on the center alone, so they are
    projected already (Eq. 10).
    """
    sums = jnp.zeros_like(like).at[index].add(gradients)
    counts = jnp.zeros(len(like), like.dtype).at[index].add(active.astype(like.dtype))
    return sums / (1 + counts)[:, None]


def _violations(
    features: Array,
    background: Array,
    own_atcl: Array,
    negative: Array,
    own_nt: Array,
    *,
    margin_atcl: float | Array,
    margin_nt: float | Array,
) -> tuple[Array, Array]:
    """Eqs. 1 and 2 inside the maximum, (N,) each, from rows of centers."""
    atcl = _angle(features, own_atcl) - _angle(features, negative) + margin_atcl
    nt = _angle(features, own_nt) - _angle(background, own_nt) + margin_nt
    return atcl, nt


def _negatives(labels: Array, num_classes: int, candidates: Array | None) -> Array:
    """(N, C) which centers may be a pair's negative."""
    others = labels[:, None] != jnp.arange(num_classes)[None, :]
    return others if candidates is None else others & candidates


def _check(labels: Array | np.ndarray, centers: Array, mask: Array | None = None) -> None:
    if len(centers) < 2:
        raise ValueError(f"a nearest negative takes two centers or more, got centers {centers.shape}")
    check_index(labels, "labels", len(centers), mask)
