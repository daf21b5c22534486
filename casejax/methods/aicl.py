"""AICL: snippets on which two kinds of actionness disagree are drawn to those on which they agree.

Li et al., "Actionness Inconsistency-guided Contrastive Learning for Weakly-supervised Temporal Action Localization",
AAAI 2023, after the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import best_of_kinds, mined_contrast, stream_mean, time_mean, without_padding
from casejax.methods import asl
from casejax.methods.case.datasets import ACTIVITYNET
from casejax.methods.case.variants import SELECTION
from casejax.methods.contract import Loss, Method, Number, Outputs, Schedule, Step
from casejax.methods.layers import TemporalConv, attend, check_counts, pointwise, read_streams
from casejax.records import option


@dataclass(frozen=True)
class AICLSettings(asl.ASLSettings):
    """The settings of AICL, beside those of ASL."""

    mined_divisor: int = option(20, "snippets to one of each mined kind", within="[1, inf)")
    fill: bool = option(
        False, "fill up mined snippets that are too few with the first of the video, as in effect published"
    )
    temperature: Number = option(0.1, "of the contrastive loss", within="(0, inf)")
    stream_weight: Number = option(5.0, "of the distance between the streams' attention", within="[0, inf)")
    contrast_weight: Number = option(0.01, "of the contrastive losses", within="[0, inf)")
    actionness_weight: Number = option(0.1, "of the distance between both kinds of actionness", within="[0, inf)")


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
      settings: `hidden`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, or no stream.
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: AICLSettings = AICLSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden = settings.hidden
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        self.class_encoder = TemporalConv(sum(dims), hidden, rngs=rngs)
        self.classifier = pointwise(hidden, num_classes, rngs)
        self.embedding_encoders = nnx.List([TemporalConv(dim, hidden, rngs=rngs) for dim in dims])
        self.attention = nnx.List([pointwise(hidden, 1, rngs) for _ in dims])
        self.dims, self.embedding_dims = tuple(dims), (hidden,) * len(dims)

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Outputs:
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
        return Outputs((cas,), embedding, attention, own=own)


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


def aicl_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: AICLSettings = AICLSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: when and with what the loss is computed.
      settings: the method's.
      mask: True for real snippets; default all.

    Returns:
      The loss, whose terms add up to it: those of ASL; `loss_streams`, the squared distance between the streams'
      attention, mean over pairs of streams; `loss_contrast`, summed over the joint embedding and those of the streams;
      and `loss_actionness`, the squared distance between both kinds of actionness.
    """
    own = outputs.own
    terms, foreground = asl.selection_losses(outputs, labels, settings=settings, mask=mask)
    mined = mine(
        own.class_actionness, own.stream_actionness, mask=mask, divisor=settings.mined_divisor, fill=settings.fill
    )
    # Snippets that are not mined have no part in the loss, and those in padding never are.
    embeddings = [without_padding(e, mask=mask) for e in (own.embedding, *outputs.embedding)]
    contrast = jnp.stack([contrastive_loss(e, mined, temperature=settings.temperature) for e in embeddings]).sum(axis=0)
    pairs = [time_mean((a - b) ** 2, mask=mask) for a, b in combinations(outputs.attention, 2)]
    streams = stream_mean(pairs).mean() if pairs else jnp.zeros((), contrast.dtype)
    actionness = time_mean((own.class_actionness - own.stream_actionness) ** 2, mask=mask)
    terms |= {
        "loss_streams": settings.stream_weight * streams,
        "loss_contrast": settings.contrast_weight * contrast.mean(),
        "loss_actionness": settings.actionness_weight * actionness.mean(),
    }
    return Loss.of(terms, foreground)


_EQUAL_WEIGHTS = {"cas_weight": 1 / 2, "test_cas_weight": 1 / 2}

METHOD = Method(
    "aicl",
    AICLSettings(),
    Schedule(),
    asl.LOCALIZATION,
    AICLNet,
    aicl_loss,
    asl.asl_scores,
    with_head={"test_cas_weight": 1 / 5},
    variants=SELECTION,
    datasets={
        "activitynet12": {**ACTIVITYNET["activitynet12"], **_EQUAL_WEIGHTS},
        "activitynet13": {**ACTIVITYNET["activitynet13"], **_EQUAL_WEIGHTS, "hidden": 1024},
    },
)
"""As published together with CASE; the authors' own program trains for 900 epochs. Inference is that of ASL."""
