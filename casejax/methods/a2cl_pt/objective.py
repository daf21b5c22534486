"""The losses of A2CL-PT: multiple-instance learning on every branch, and center losses of attended features.

Min and Corso, "Adversarial Background-Aware Loss for Weakly-Supervised Temporal Activity Localization", ECCV 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from casejax import losses
from casejax.array_types import Array, Bool, Float, Int, Key
from casejax.losses import mil_loss
from casejax.methods.contract import Outputs

# features F, background f (N, D), labels (N,), centers (C, D), mask (N,); `candidates` (N, C) by keyword
CenterLoss = Callable[..., Float[Array, ""]]

BETAS = (0.001, 0.1)
"""Range of the temperature by which the background's attention is flattened."""


class Pairs(NamedTuple):
    """The classes of each of B videos, in K places.

    Attributes:
      label: (B, K) classes in ascending order, then zeros.
      mask: (B, K) True where there is a class.
      dropped: int32, number of pairs that had no room in K places.
    """

    label: Int[Array, "b k"]
    mask: Bool[Array, "b k"]
    dropped: Int[Array, ""]


def class_pairs(
    labels: Float[Array | np.ndarray, "b c"],
    *,
    multi_label: bool | Bool[Array, ""] = True,
    max_labels: int | None = None,
) -> Pairs:
    """Pairs of videos and their classes.

    Args:
      labels: (B, C) video-level labels, zeros and ones.
      multi_label: whether videos of several classes take part; published from iteration 5000, the first being 1.
      max_labels: places K a video, as many as any video has labels or more; default C, which costs C / K times more.

    Raises:
      ValueError: no place, or (outside jit) a video with more labels than places.
    """
    num_classes = labels.shape[1]
    places = num_classes if max_labels is None else min(max_labels, num_classes)
    if places < 1:
        raise ValueError(f"max_labels must be 1 or more, got {max_labels}")
    most = 0 if isinstance(labels, jax.core.Tracer) else int((np.asarray(labels) > 0).sum(axis=1).max(initial=0))
    if most > places:
        raise ValueError(f"a video has {most} labels, max_labels is {max_labels}; it must be as many or more")
    present = jnp.asarray(labels) > 0
    count = present.sum(axis=1)
    present &= ((count == 1) | jnp.asarray(multi_label))[:, None]
    # Of equal entries top_k takes the first, so present classes come in ascending order.
    found, label = jax.lax.top_k(present.astype(jnp.float32), places)
    mask = found > 0
    dropped = present.sum(dtype=jnp.int32) - mask.sum(dtype=jnp.int32)
    return Pairs(jnp.where(mask, label, 0), mask, dropped)


def attended_features(
    embedding: Float[Array, "b t d"],
    cas: Float[Array, "b t c"],
    labels: Int[Array, "b k"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    temperature: float | Float[Array, "b k"] = 1.0,
) -> Float[Array, "b k d"]:
    """Video-level features of classes: means of the embedding weighted by a softmax of class logits over time.

    With temperature 1 the supplement's F; with one of nearly 0, for which weights are nearly even, its f.

    Args:
      embedding: (B, T, D).
      cas: (B, T, C) class logits.
      labels: (B, K) classes to pool by.
      mask: True for real snippets; default all.
      temperature: beta, factor on the logits; one each pair or one for all.

    Returns:
      (B, K, D); zeros for a video without a real snippet.
    """
    logits = jnp.take_along_axis(cas, labels[:, None, :], axis=2)
    beta = jnp.asarray(temperature)
    if beta.ndim:
        beta = beta[:, None, :]
    embedding, logits = (losses.without_padding(x, mask=mask) for x in (embedding, logits))
    weights = losses.time_softmax(beta * logits, mask=mask)
    return jnp.einsum("btk,btd->bkd", weights, embedding, precision="highest")


def branch_center_loss(
    embedding: Float[Array, "b t d"],
    cas: Sequence[Float[Array, "b t c"]],
    pairs: Pairs,
    centers: Float[Array, "_ _ _"],
    betas: Float[Array, "_ b k"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    candidates: Bool[Array, "b c"] | None = None,
    center_loss: CenterLoss = losses.center_loss,
) -> Float[Array, ""]:
    """Center losses of one stream, summed over its branches, which share features and have centers of their own.

    Args:
      embedding: (B, T, D), after dropout.
      cas: (B, T, C) class logits, one array a branch: the classifier's, and the adversary's with erased snippets.
      pairs: from `class_pairs`.
      centers: (R, C, D), one set a branch.
      betas: (R, B, K) temperatures of the background's attention.
      mask: True for real snippets; default all.
      candidates: (B, C) centers that may be a video's nearest negatives; default all but a pair's own.
      center_loss: `losses.center_loss`, with options by `functools.partial`.

    Raises:
      ValueError: class logits, centers and temperatures that do not fit.
    """
    batch, places = pairs.label.shape
    num_classes = cas[0].shape[2]
    if len(centers) != len(cas) or len(betas) != len(cas) or centers.shape[1] != num_classes:
        raise ValueError(
            f"{len(cas)} branches of {num_classes} classes need centers ({len(cas)}, {num_classes}, D) and as many "
            f"betas, got {centers.shape} and {betas.shape}"
        )
    if candidates is not None:
        candidates = jnp.repeat(candidates, places, axis=0)

    def rows(x: Array) -> Array:
        return x.reshape(batch * places, *x.shape[2:])

    def branch(logits: Array, own_centers: Array, beta: Array) -> Array:
        return center_loss(
            rows(attended_features(embedding, logits, pairs.label, mask=mask)),
            rows(attended_features(embedding, logits, pairs.label, mask=mask, temperature=beta)),
            rows(pairs.label),
            own_centers,
            mask=rows(pairs.mask),
            candidates=candidates,
        )

    return jax.vmap(branch)(jnp.stack(cas), centers, betas).sum()


def a2cl_pt_objective(
    outputs: Outputs,
    labels: Float[Array, "b _"],
    centers: Sequence[Float[Array, "2 _ _"]],
    key: Key[Array, ""],
    *,
    mask: Bool[Array, "b t"] | None = None,
    multi_label: bool | Bool[Array, ""] = True,
    max_labels: int | None = None,
    divisor: int = 8,
    center_weight: float | Float[Array, ""] = 1.0,
    betas: tuple[float, float] = BETAS,
    absent_negatives: bool = False,
    center_loss: CenterLoss = losses.center_loss,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch: MIL of the T-CAM and of every branch, plus the center losses of every stream.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      centers: (2, C, D) of each stream: of the classifier and of the adversary.
      mask: True for real snippets; None for all.
      key: temperatures of this step, a different key every step.
      multi_label: whether videos of several classes take part in the center losses; published from step 5000,
        the first being 1.
      max_labels: the most labels of any video; default C, which is always right and slower, see `class_pairs`.
      divisor: one in so many snippets is pooled in the MIL.
      center_weight: alpha. With the averaged gradient it reaches the features, not the centers.
      betas: lowest and highest temperature of the background's attention.
      absent_negatives: take nearest negatives from classes that the video does not have; default from all but the
        pair's own, as published.
      center_loss: `losses.center_loss`, with options by `functools.partial`.

    Returns:
      The loss and metrics: `loss`, `loss_mil`, `loss_center`, `pairs` and `dropped_pairs` (0 unless `max_labels` is
      too small).

    Raises:
      ValueError: arrays whose shapes do not fit, or temperatures out of order.
    """
    if len(centers) != len(outputs.cas) or labels.shape[1] != outputs.own.tcam.shape[2]:
        raise ValueError(
            f"outputs of {len(outputs.cas)} streams and {outputs.own.tcam.shape[2]} classes need as many arrays of "
            f"centers and columns of labels, got {len(centers)} and {labels.shape[1]}"
        )
    if not 0 <= betas[0] <= betas[1]:
        raise ValueError(f"betas must be a range of temperatures from 0 on, got {betas}")
    pairs = class_pairs(labels, multi_label=multi_label, max_labels=max_labels)
    candidates = labels == 0 if absent_negatives else None
    branches = list(zip(outputs.cas, outputs.own.erased, strict=True))
    scores = jnp.stack([outputs.own.tcam, *outputs.cas, *outputs.own.erased])
    mil = jax.vmap(lambda cas: mil_loss(cas, labels, mask=mask, divisor=divisor).mean())(scores)
    drawn = jax.random.uniform(
        key, (len(branches), 2, *pairs.label.shape), outputs.own.tcam.dtype, minval=betas[0], maxval=betas[1]
    )
    center = [
        branch_center_loss(
            embedding, cas, pairs, own_centers, beta, mask=mask, candidates=candidates, center_loss=center_loss
        )
        for embedding, cas, own_centers, beta in zip(outputs.embedding, branches, centers, drawn, strict=True)
    ]
    loss_mil, loss_center = mil.sum(), jnp.stack(center).sum()
    loss = loss_mil + center_weight * loss_center
    metrics = {
        "loss": loss,
        "loss_mil": loss_mil,
        "loss_center": loss_center,
        "pairs": pairs.mask.sum().astype(loss.dtype),
        "dropped_pairs": pairs.dropped.astype(loss.dtype),
    }
    return loss, metrics
