"""CoLA: snippets at the borders of actions are drawn to those well inside or well outside of them.

Zhang et al., "CoLA: Weakly-Supervised Temporal Action Localization with Snippet Contrastive Learning", CVPR 2021, after
the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.labels import foreground_labels
from casejax.losses import (
    best_of_kinds,
    mined_contrast,
    select_top_k,
    shared_out,
    softmax_bce,
    without_padding,
)
from casejax.methods.basnet import min_max
from casejax.methods.contract import Loss, Method, Number, Outputs, Schedule, Step
from casejax.methods.layers import (
    TemporalConv,
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    pointwise,
    read_streams,
    torch_default,
)
from casejax.records import Localization, SnippetScores, option


@dataclass(frozen=True)
class CoLASettings:
    """The settings of CoLA."""

    hidden: int = option(2048, "width of the embedding", within="[1, inf)")
    dropout: float = option(0.7, "rate on it before the classifier", within="[0, 1)")
    easy_dropout: float = option(0.6, "share of the snippets that cannot become easy ones in a step", within="[0, 1)")
    width: int = option(3, "snippets that an embedding sees, odd; published for ActivityNet: 9", within="[1, inf)")
    class_width: int = option(
        1,
        "snippets, two apart, that a class logit sees of itself, odd; published for ActivityNet: 7",
        within="[1, inf)",
    )
    top_k_divisor: int = option(
        5,
        "snippets to one that is pooled, in training and inference; published as the one of easy snippets",
        within="[1, inf)",
    )
    easy_divisor: int = option(5, "snippets to one of each easy kind", within="[1, inf)")
    hard_divisor: int = option(20, "snippets to one of each hard kind", within="[1, inf)")
    inner_width: int = option(
        3, "smaller window by which stretches of high actionness shrink and grow", within="[1, inf)"
    )
    outer_width: int = option(
        6, "greater window; hard snippets lie between the stretches of the two", within="[1, inf)"
    )
    fill: bool = option(
        False, "fill up mined snippets that are too few with the first of the video, as in effect published"
    )
    temperature: Number = option(0.07, "of the contrastive loss", within="(0, inf)")
    contrast_weight: Number = option(0.01, "of the contrastive loss", within="[0, inf)")


class CoLAOwn(NamedTuple):
    """What only CoLA has.

    Attributes:
      actionness: (B, T) sum of all class logits, not negative.
      drawn: (B, T) snippets from which the easy ones are taken, in training a random share.
    """

    actionness: Float[Array, "b t"]
    drawn: Bool[Array, "b t"]


class Mined(NamedTuple):
    """Snippets that the contrastive loss is about, each (B, T), True for a snippet of that kind.

    Attributes:
      easy_action: actionness is greatest.
      easy_background: it is least.
      hard_action: just inside of a stretch of high actionness.
      hard_background: just outside of one.
    """

    easy_action: Bool[Array, "b t"]
    easy_background: Bool[Array, "b t"]
    hard_action: Bool[Array, "b t"]
    hard_background: Bool[Array, "b t"]


class CoLANet(nnx.Module):
    """The network of CoLA.

    Two streams of 1024 dimensions and 20 classes make 12,625,920 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      settings: the widths and the rates. What is known of the published program does not say on which side of the
        rectification the filter of `class_width` stands; here it stands before, and has a bias.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, an even width, or a rate outside [0, 1).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: CoLASettings = CoLASettings(), rngs: nnx.Rngs
    ) -> None:
        hidden, width, class_width = settings.hidden, settings.width, settings.class_width
        check_counts(dims, num_classes=num_classes, hidden=hidden, width=width, class_width=class_width)
        check_rates(dropout=settings.dropout, easy_dropout=settings.easy_dropout)
        if width % 2 == 0 or class_width % 2 == 0:
            raise ValueError(f"widths must be odd, got width={width} and class_width={class_width}")
        self.encoder = TemporalConv(sum(dims), hidden, width=width, rngs=rngs)
        self.classifier = pointwise(hidden, num_classes, rngs, bias=False)
        self.class_filter = _class_filter(num_classes, class_width, rngs) if class_width > 1 else None
        self.dims, self.embedding_dims = tuple(dims), (hidden,)
        self.dropout, self.easy_dropout = settings.dropout, settings.easy_dropout

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
          key: dropout and draw of this call; None for neither.

        Returns:
          Predictions for all streams together; `own` is a `CoLAOwn`. Class logits are not negative. Attention is their
          sum, scaled to span [0, 1] in each video (`basnet.min_max`), as the published inference has it; no gradient
          goes through its range.

        Raises:
          ValueError: other streams than the network has.
        """
        x = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        keys = dropout_keys(key)
        embedding = jax.nn.relu(self.encoder(x))
        logits = self.classifier(dropout(embedding, self.dropout, next(keys)))
        if self.class_filter is not None:
            logits = self.class_filter(without_padding(logits, mask=mask))
        cas = jax.nn.relu(logits)
        actionness = cas.sum(axis=2)
        drawn = dropout(jnp.ones_like(actionness), self.easy_dropout, next(keys)) > 0
        attention = min_max(actionness[..., None], mask=mask)[..., 0]
        return Outputs((cas,), (embedding,), (attention,), own=CoLAOwn(actionness, drawn))


def _class_filter(num_classes: int, width: int, rngs: nnx.Rngs) -> nnx.Conv:
    kernel, bias = torch_default(width, width)
    return nnx.Conv(
        num_classes,
        num_classes,
        (width,),
        kernel_dilation=2,
        feature_group_count=num_classes,
        padding="SAME",
        kernel_init=kernel,
        bias_init=bias,
        rngs=rngs,
    )


def erode(active: Bool[Array, "b t"], width: int) -> Bool[Array, "b t"]:
    """Snippets with all active from `width // 2` before to `(width - 1) // 2` behind; beyond an end none is active."""
    return _around(active, range(-(width // 2), (width + 1) // 2)).all(axis=0)


def dilate(active: Bool[Array, "b t"], width: int) -> Bool[Array, "b t"]:
    """Snippets with one active or more from `(width - 1) // 2` before to `width // 2` behind."""
    return _around(active, range(-((width - 1) // 2), width // 2 + 1)).any(axis=0)


def _around(active: Bool[Array, "b t"], offsets: range) -> Bool[Array, "n b t"]:
    reach, length = len(offsets), active.shape[1]
    padded = jnp.pad(active, ((0, 0), (reach, reach)))
    return jnp.stack([padded[:, reach + offset :][:, :length] for offset in offsets])


def mine(
    actionness: Float[Array, "b t"],
    drawn: Bool[Array, "b t"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    easy_divisor: int = 5,
    hard_divisor: int = 20,
    inner_width: int = 3,
    outer_width: int = 6,
    fill: bool = False,
) -> Mined:
    """Find easy snippets, by their actionness, and hard ones, at the borders of stretches above its median.

    Args:
      actionness: (B, T), not negative.
      drawn: (B, T) snippets from which the easy ones are taken.
      mask: True for real snippets; default all.
      easy_divisor: one in so many snippets is taken of each easy kind, at least one.
      hard_divisor: the same for hard kinds.
      inner_width: of the smaller window by which these stretches shrink (`erode`) and grow (`dilate`).
      outer_width: of the greater one. Hard are the snippets between the two, of which the greatest are taken.
      fill: where there are too few of a kind, fill up with the first snippets of the video, as in effect the
        published program does (with which, it leaves to its sort); default to have fewer.
    """
    actionness = jax.lax.stop_gradient(actionness)
    shown = jnp.ones(actionness.shape, bool) if mask is None else mask
    median = jnp.nanmedian(jnp.where(shown, actionness, jnp.nan), axis=1, keepdims=True)
    high = shown & (actionness > median)
    greatest = jnp.max(actionness, axis=1, keepdims=True, where=shown, initial=0.0)

    inside = erode(high, inner_width) & ~erode(high, outer_width)
    outside = dilate(high, outer_width) & ~dilate(high, inner_width)
    easiness = jnp.stack([actionness, greatest - actionness], axis=2)
    borders = jnp.stack([inside, outside], axis=2)
    return Mined(
        *best_of_kinds(drawn[..., None], easiness, divisor=easy_divisor, fill=fill, mask=shown),
        *best_of_kinds(borders, actionness[..., None], divisor=hard_divisor, fill=fill, mask=shown),
    )


def contrastive_loss(
    embedding: Float[Array, "b t d"], mined: Mined, *, temperature: float | Float[Array, ""] = 0.07
) -> Float[Array, " b"]:
    """Draw hard snippets to easy ones of the same side, away from the easy ones of the other side.

    Two terms: the mean embedding of hard action is a query to which that of easy action is the positive and every
    snippet of easy background a negative; and the same with action and background exchanged.

    Args:
      embedding: (B, T, D); finite in padding.
      mined: from `mine`.
      temperature: divides the cosines.

    Returns:
      (B,) sums of both terms. A term without a query or a positive is 0.
    """
    term = partial(mined_contrast, embedding, temperature=temperature)
    return term(mined.hard_action, mined.easy_action, mined.easy_background) + term(
        mined.hard_background, mined.easy_background, mined.easy_action
    )


def cola_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: CoLASettings = CoLASettings(),
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
      The loss, whose terms `loss_video` and `loss_contrast` add up to it.
    """
    cas, own = outputs.cas[0], outputs.own
    selected = select_top_k(cas, divisor=settings.top_k_divisor, mask=mask)
    mined = mine(
        own.actionness,
        own.drawn,
        mask=mask,
        easy_divisor=settings.easy_divisor,
        hard_divisor=settings.hard_divisor,
        inner_width=settings.inner_width,
        outer_width=settings.outer_width,
        fill=settings.fill,
    )
    contrast = contrastive_loss(outputs.embedding[0], mined, temperature=settings.temperature)
    terms = {
        "loss_video": softmax_bce(losses.selected_mean(cas, selected), shared_out(labels)).mean(),
        "loss_contrast": settings.contrast_weight * contrast.mean(),
    }
    return Loss.of(terms, (foreground_labels(selected, labels),))


def cola_scores(
    outputs: Outputs, *, settings: CoLASettings = CoLASettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: attention is thresholded, and class logits scaled by their range over time are ranked."""
    cas = outputs.cas[0]
    pooled = losses.top_k_mean(cas, divisor=settings.top_k_divisor, mask=mask)
    attention = without_padding(outputs.attention[0], mask=mask)
    thresholded = jnp.broadcast_to(attention[..., None], cas.shape)
    return SnippetScores(thresholded, jax.nn.softmax(pooled), min_max(cas, mask=mask))


METHOD = Method(
    "cola",
    CoLASettings(),
    Schedule(epochs=500),
    Localization(
        class_threshold=0.2,
        thresholds=tuple(np.arange(0.1, 0.925, 0.025).tolist()),
        nms="hard",
        nms_threshold=0.6,
        outer_ratio=0.25,
    ),
    CoLANet,
    cola_loss,
    cola_scores,
    datasets={
        "activitynet12": {
            "top_k_divisor": 10,
            "easy_divisor": 10,
            "hard_divisor": 8,
            "contrast_weight": 0.005,
            "width": 9,
            "class_width": 7,
            "num_snippets": 50,
            "batch_size": 256,
            "epochs": 5555,
            "class_threshold": 0.1,
        }
    },
)
"""As published, of 6,000 steps. Thresholds are those of attention. The published program has further proposals, from
class logits scaled by `min_max` at 0, 0.025, ..., 0.225, which compete with these; here they are left out. For
ActivityNet 1.2 as published, of 100,000 steps, with the same proviso. (In issue 12 of the published program a user
could not reproduce its result with it.)"""
