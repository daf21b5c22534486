"""AICL: snippets on which two kinds of actionness disagree are drawn to those on which they agree.

Li et al., "Actionness Inconsistency-guided Contrastive Learning for Weakly-supervised Temporal Action Localization",
AAAI 2023, after the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.losses import best_of_kinds, calibrate, mined_contrast, stream_mean, time_mean, without_padding
from casejax.methods import asl
from casejax.methods.asl import asl_scores as aicl_scores  # inference is that of ASL
from casejax.methods.contract import Base, plain
from casejax.methods.layers import TemporalConv, attend, check_counts, pointwise, read_streams
from casejax.methods.outputs import BaseOutputs, Schedule
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key

__all__ = [
    "THUMOS14",
    "AICLNet",
    "AICLOwn",
    "AICLSettings",
    "Mined",
    "aicl_objective",
    "aicl_scores",
    "contrastive_loss",
    "mine",
]


@dataclass(frozen=True)
class AICLSettings:
    """Settings of AICL; `THUMOS14` are the published ones.

    Attributes:
      schedule: how it is trained.
      localization: how its scores become segments.
      top_k_divisor: one in so many snippets is selected, in training and inference.
      gce_exponent: of the generalized cross-entropy.
      cas_weight: of the class probability beside the mean attention; 1/2 on ActivityNet.
      mined_divisor: one in so many snippets is taken of each mined kind.
      temperature: of the contrastive loss.
      stream_weight: of the distance between the streams' attention.
      contrast_weight: of the contrastive losses.
      actionness_weight: of the distance between both kinds of actionness.
    """

    schedule: Schedule
    localization: Localization
    top_k_divisor: int = 8
    gce_exponent: float = 0.7
    cas_weight: float = 1 / 3
    mined_divisor: int = 20
    temperature: float = 0.1
    stream_weight: float = 5.0
    contrast_weight: float = 0.01
    actionness_weight: float = 0.1


THUMOS14 = AICLSettings(
    Schedule(num_snippets=750, batch_size=16, epochs=300, learning_rate=1e-4, weight_decay=5e-4),
    asl.THUMOS14.localization,
)
"""As published together with CASE; the authors' own program trains for 900 epochs."""


class AICLOwn(NamedTuple):
    """What only AICL has.

    Attributes:
      embedding: (B, T, D) of all streams together, by which classes are told.
      class_actionness: (B, T) sigmoid of the sum of all class logits.
      stream_actionness: (B, T) mean of the streams' attention.
    """

    embedding: Float[Array, "b t d"]
    class_actionness: Float[Array, "b t"]
    stream_actionness: Float[Array, "b t"]


class Mined(NamedTuple):
    """Snippets that the contrastive loss is about, each (B, T), True for a snippet of that kind.

    Attributes:
      sure_action: both kinds of actionness are high.
      sure_background: both are low.
      unsure_action: one is high, the other low, and the class branch's is among the highest of those.
      unsure_background: the same, and it is among the lowest.
    """

    sure_action: Bool[Array, "b t"]
    sure_background: Bool[Array, "b t"]
    unsure_action: Bool[Array, "b t"]
    unsure_background: Bool[Array, "b t"]


class AICLNet(nnx.Module):
    """The network of AICL.

    Two streams of 1024 dimensions and 20 classes make 6,304,278 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      hidden: width of all encoders, and of the embeddings; published for ActivityNet 1.3: 1024.
      cas_weight: of the class probability in the scores that select snippets, beside the mean attention.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, or no stream.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        hidden: int = 512,
        cas_weight: float = 1 / 3,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        self.class_encoder = TemporalConv(sum(dims), hidden, rngs=rngs)
        self.classifier = pointwise(hidden, num_classes, rngs)
        self.embedding_encoders = nnx.List([TemporalConv(dim, hidden, rngs=rngs) for dim in dims])
        self.attention = nnx.List([pointwise(hidden, 1, rngs) for _ in dims])
        self.dims, self.cas_weight = tuple(dims), cas_weight
        self.embedding_dims = (hidden,) * len(dims)

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> BaseOutputs:
        """Predict on a batch.

        Args:
          features: (B, T, D_s), one array a stream.
          mask: True for real snippets; features elsewhere are read as zeros. Default all.
          key: not used, since there is no dropout.

        Returns:
          Predictions with one class activation sequence for all streams; `own` is an `AICLOwn`.

        Raises:
          ValueError: other streams than the network has.
        """
        features = read_streams(features, self.dims, mask=mask)
        joint = jax.nn.relu(self.class_encoder(jnp.concatenate(features, axis=2)))
        cas = self.classifier(joint)
        embedding, attention = attend(self.embedding_encoders, self.attention, features)
        mean = stream_mean(attention)
        own = AICLOwn(joint, jax.nn.sigmoid(cas.sum(axis=2)), mean)
        select = calibrate([cas], mean, cas_weight=self.cas_weight)
        return BaseOutputs((cas,), embedding, attention, select, own)


def mine(
    class_actionness: Float[Array, "b t"],
    stream_actionness: Float[Array, "b t"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    divisor: int = 20,
    fill: bool = False,
) -> Mined:
    """Find the snippets on which both kinds of actionness agree, and those on which they do not.

    Actionness is high above its median over the video. Of each kind the best by the actionness of the class branch
    are taken, one in `divisor` snippets, but at least one.

    Args:
      class_actionness: (B, T) of the class branch, in [0, 1].
      stream_actionness: (B, T) of the streams, in [0, 1].
      mask: True for real snippets; default all.
      divisor: one in so many snippets is taken of each kind.
      fill: where there are too few of a kind, fill up with the first snippets of the video, as in effect the
        published program does (with which, it leaves to its sort); default to have fewer.
    """
    shown = jnp.ones(class_actionness.shape, bool) if mask is None else mask
    first, second = (_above_median(x, shown) for x in (class_actionness, stream_actionness))
    best = jnp.max(class_actionness, axis=1, keepdims=True, where=shown, initial=0.0)
    high, low = class_actionness, best - class_actionness
    kinds = jnp.stack([first & second, ~first & ~second, first ^ second, first ^ second], axis=2)
    by = jnp.stack([high, low, high, low], axis=2)
    return Mined(*best_of_kinds(kinds, by, divisor=divisor, fill=fill, mask=shown))


def _above_median(values: Float[Array, "b t"], mask: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    ranked = jnp.sort(jnp.where(mask, values, jnp.inf), axis=1)
    count = jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
    middle = jnp.concatenate([(count - 1) // 2, count // 2], axis=1)
    median = jnp.take_along_axis(ranked, middle, axis=1).mean(axis=1, keepdims=True)
    return values > median


def contrastive_loss(
    embedding: Float[Array, "b t d"], mined: Mined, *, temperature: float | Float[Array, ""] = 0.1
) -> Float[Array, " b"]:
    """Draw unsure and sure snippets of the same side together, and away from the sure ones of the other side.

    Four terms: the mean embedding of unsure and of sure action, each a query to which the other is the positive and
    every snippet of sure background a negative; and the same with action and background exchanged.

    Args:
      embedding: (B, T, D).
      mined: from `mine`.
      temperature: divides the cosines.

    Returns:
      (B,) sums of the four terms. A term without a query or a positive is 0.
    """
    term = partial(mined_contrast, embedding, temperature=temperature)
    return (
        term(mined.unsure_action, mined.sure_action, mined.sure_background)
        + term(mined.sure_action, mined.unsure_action, mined.sure_background)
        + term(mined.unsure_background, mined.sure_background, mined.sure_action)
        + term(mined.sure_background, mined.unsure_background, mined.sure_action)
    )


def aicl_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int = 8,
    gce_exponent: float = 0.7,
    mined_divisor: int = 20,
    temperature: float | Float[Array, ""] = 0.1,
    stream_weight: float | Float[Array, ""] = 5.0,
    contrast_weight: float | Float[Array, ""] = 0.01,
    actionness_weight: float | Float[Array, ""] = 0.1,
    fill: bool = False,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      mask: True for real snippets; default all.
      top_k_divisor: one in so many snippets is selected.
      gce_exponent: of the generalized cross-entropy.
      mined_divisor: one in so many snippets is taken of each mined kind.
      temperature: of the contrastive loss.
      stream_weight: of the squared distance between the streams' attention, mean over pairs of streams.
      contrast_weight: of the contrastive losses, summed over the joint embedding and those of the streams.
      actionness_weight: of the squared distance between both kinds of actionness.
      fill: see `mine`.

    Returns:
      The loss, and its terms, which add up to it: those of ASL, `loss_streams`, `loss_contrast` and
      `loss_actionness`.
    """
    own = outputs.own
    video, attention = asl.selection_losses(
        outputs, labels, mask=mask, top_k_divisor=top_k_divisor, gce_exponent=gce_exponent
    )
    mined = mine(own.class_actionness, own.stream_actionness, mask=mask, divisor=mined_divisor, fill=fill)
    # Only mined snippets take part in the loss, and snippets in padding are never mined.
    embeddings = [without_padding(e, mask=mask) for e in (own.embedding, *outputs.embedding)]
    contrast = jnp.stack([contrastive_loss(e, mined, temperature=temperature) for e in embeddings]).sum(axis=0)
    pairs = [time_mean((a - b) ** 2, mask=mask) for a, b in combinations(outputs.attention, 2)]
    streams = stream_mean(pairs) if pairs else jnp.zeros_like(video)
    actionness = time_mean((own.class_actionness - own.stream_actionness) ** 2, mask=mask)
    terms = {
        "loss_video": video.mean(),
        "loss_attention": attention.mean(),
        "loss_streams": stream_weight * streams.mean(),
        "loss_contrast": contrast_weight * contrast.mean(),
        "loss_actionness": actionness_weight * actionness.mean(),
    }
    return jnp.stack(list(terms.values())).sum(), terms


BASE = Base(THUMOS14, AICLNet, plain(aicl_objective), aicl_scores, case_cas_weight=1 / 5)
