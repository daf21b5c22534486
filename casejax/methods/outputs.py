"""What every base hands to the clustering head, to its own losses and to localisation, and its settings' common part.

A base is a network that yields embeddings, attention and class scores of snippets. Whatever yields these can carry
the clustering head of CASE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax.numpy as jnp

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
    """How a base is trained. Every field goes by the name of an option of `casejax.run.config`.

    Attributes:
      num_snippets: snippets of a training example.
      batch_size: videos a step.
      epochs: passes over the training videos of THUMOS14 or ActivityNet that make about the published steps.
      learning_rate: step size of Adam.
      weight_decay: L2 penalty, in the gradient.
      second_moment: its beta_2.
      sampling: "random" for snippets from all over a video, "crop" for a stretch of it, padded where it is shorter.
      similar_pairs: the batch begins with so many pairs of videos that share a class.
    """

    num_snippets: int
    batch_size: int
    epochs: int
    learning_rate: float
    weight_decay: float
    second_moment: float = 0.999
    sampling: Literal["random", "crop"] = "random"
    similar_pairs: int = 0
