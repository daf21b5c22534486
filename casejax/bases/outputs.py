"""What every base hands to the clustering head, to its own losses and to localisation, and its settings' common part.

A base is a network that yields embeddings, attention and class scores of snippets. Whatever yields these can carry
the clustering head of CASE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from casejax.nms import Survivors

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class BaseOutputs(NamedTuple):
    """Predictions of a base for B videos of T snippets.

    Attributes:
      cas: (B, T, C) class logits, one array a stream, or a single one for all streams together; (B, T, C + 1) for a
        base that models background, which is then the last class.
      embedding: (B, T, D) snippet embedding E, not normalised, one array a stream.
      attention: (B, T) foreground probability P^A, in [0, 1], one array a stream.
      select_scores: (B, T, C) the scores by which the snippets of a class are selected; no gradient is meant to
        go through them.
      own: what the base's own losses and scores need besides; its type is the base's.
    """

    cas: tuple[Float[Array, "b t _"], ...]
    embedding: tuple[Float[Array, "b t d"], ...]
    attention: tuple[Float[Array, "b t"], ...]
    select_scores: Float[Array, "b t c"]
    own: Any = ()


class InferenceScores(NamedTuple):
    """What is localised in B videos of T snippets.

    Attributes:
      thresholded: (B, T, C) in which stretches above a threshold are proposals.
      ranked: (B, T, C) of which the contrast of inside and outside scores a proposal.
      video: (B, C) class probabilities of the video, which select its classes.
    """

    thresholded: Float[Array, "b t c"]
    ranked: Float[Array, "b t c"]
    video: Float[Array, "b c"]


def foreground_or(foreground: Float[Array, "_ _"] | None, attention: Float[Array, "b t"]) -> Float[Array, "b t"]:
    """The foreground probability that was put in the place of the base's attention, such as P^M, else that."""
    if foreground is None:
        return attention
    if foreground.shape != attention.shape:
        raise ValueError(
            f"foreground must have the attention's shape {attention.shape} (videos, snippets), got {foreground.shape}"
        )
    return jnp.asarray(foreground)


@dataclass(frozen=True)
class Schedule:
    """How a base is trained.

    Attributes:
      num_snippets: snippets of a training example; None for whole videos.
      batch_size: videos a step.
      steps: steps of the optimizer, Adam.
      learning_rate: its step size.
      weight_decay: L2 penalty, in the gradient.
      second_moment: its beta_2.
      crop: training examples are stretches of a video, padded with zeros where it is shorter; else as many snippets
        drawn from all over it.
      similar_pairs: the batch begins with so many pairs of videos that share a class.
      drop_last: an incomplete batch at the end of an epoch is left out.
    """

    num_snippets: int | None
    batch_size: int
    steps: int
    learning_rate: float
    weight_decay: float
    second_moment: float = 0.999
    crop: bool = False
    similar_pairs: int = 0
    drop_last: bool = False


@dataclass(frozen=True)
class Localization:
    """How a base's scores become segments.

    Attributes:
      class_threshold: least probability of a class that is localised; if none has it, the best is.
      thresholds: of `InferenceScores.thresholded`.
      nms: what becomes of overlapping proposals; takes segments (n, 2), scores (n,) and groups (n,).
      nms_in_seconds: whether those segments are in seconds; else in snippets.
      num_snippets: snippets a test video is resampled to; None for as many as it has.
      scale: samples a snippet is upsampled to before thresholds apply.
      outer_ratio: width of the outside of a proposal to either side, as a part of its length.
      score_weight: weight of the class probability in a proposal's score.
      min_snippets: shorter proposals are dropped.
    """

    class_threshold: float
    thresholds: tuple[float, ...]
    nms: Callable[..., Survivors]
    nms_in_seconds: bool
    num_snippets: int | None = None
    scale: int = 1
    outer_ratio: float = 0.25
    score_weight: float = 0.2
    min_snippets: int = 1
