"""BaS-Net: one classifier sees a video twice: as it is, where background is a label, and suppressed, where it is not.

Lee et al., "Background Suppression Network for Weakly-supervised Temporal Action Localization", AAAI 2020, after the
published program.
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
from casejax.losses import without_padding
from casejax.losses.classification import shared_out, softmax_bce
from casejax.methods.contract import BackgroundSettings, Loss, Method, Number, Outputs, Schedule, Step, supervised
from casejax.methods.layers import (
    TemporalConv,
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    pointwise,
    read_streams,
    top_k_foreground,
)
from casejax.records import Localization, SnippetScores, option

_leaky = partial(jax.nn.leaky_relu, negative_slope=0.01)


@dataclass(frozen=True)
class BaSSettings(BackgroundSettings):
    """The settings of BaS-Net."""

    hidden: int = option(512, "width of the filter, and of the embedding", within="[1, inf)")
    class_hidden: int = option(2048, "width of the classifier", within="[1, inf)")
    dropout: float = option(0.7, "rate before its last layer", within="[0, 1)")
    top_k_divisor: int = option(8, "snippets to one that is pooled, in training and inference", within="[1, inf)")
    norm_weight: Number = option(
        1e-4, "of the sum of a video's attention, which grows with its length, alpha", within="[0, inf)"
    )


class BaSOwn(NamedTuple):
    """What only BaS-Net has.

    Attributes:
      base: (B, T, C + 1) class logits of the video as it is, background last.
    """

    base: Float[Array, "b t k"]


class BaSNet(nnx.Module):
    """The network of BaS-Net.

    Two streams of 1024 dimensions and 20 classes make 26,262,529 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C; background is added to them.
      settings: the widths and `dropout`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or a rate outside [0, 1).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: BaSSettings = BaSSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden, class_hidden = settings.hidden, settings.class_hidden
        check_counts(dims, num_classes=num_classes, hidden=hidden, class_hidden=class_hidden)
        check_rates(dropout=settings.dropout)
        joint, num_outputs = sum(dims), num_classes + 1
        self.filter_encoder = pointwise(joint, hidden, rngs)
        self.filter = pointwise(hidden, 1, rngs)
        self.first = TemporalConv(joint, class_hidden, rngs=rngs)
        self.second = TemporalConv(class_hidden, class_hidden, rngs=rngs)
        self.classifier = pointwise(class_hidden, num_outputs, rngs, bias=False)
        self.dims, self.dropout, self.embedding_dims = tuple(dims), settings.dropout, (hidden,)

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
          key: dropout of this call; None for none.

        Returns:
          Predictions for all streams together. `cas` is of the suppressed video; `own` is a `BaSOwn`. The embedding is
          the filter's, and its weights are the attention.

        Raises:
          ValueError: other streams than the network has.
        """
        x = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        keys = dropout_keys(key)
        embedding = _leaky(self.filter_encoder(x))
        attention = jax.nn.sigmoid(self.filter(embedding)[..., 0])
        base = self._classify(x, next(keys), mask=mask)
        suppressed = self._classify(attention[..., None] * x, next(keys), mask=mask)
        return Outputs((suppressed,), (embedding,), (attention,), own=BaSOwn(base))

    def _classify(
        self, x: Float[Array, "b t d"], key: Key[Array, ""] | None, *, mask: Bool[Array, "b t"] | None
    ) -> Float[Array, "b t k"]:
        x = _leaky(self.second(_leaky(self.first(x, mask=mask)), mask=mask))
        return self.classifier(dropout(x, self.dropout, key))


def bas_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: BaSSettings = BaSSettings(),
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
      The loss, whose terms add up to it: `loss_base`, in which background is present, `loss_suppressed`, in which it is
      absent, and `loss_norm`.
    """

    def classification(cas: Float[Array, "b t k"], background: float) -> Float[Array, ""]:
        pooled = losses.top_k_mean(cas, divisor=settings.top_k_divisor, mask=mask)
        targets = losses.with_background(labels, background)
        return softmax_bce(pooled, shared_out(targets)).mean()

    terms = {
        "loss_base": classification(outputs.own.base, 1),
        "loss_suppressed": classification(outputs.cas[0], 0),
        "loss_norm": settings.norm_weight * without_padding(outputs.attention[0], mask=mask).sum(axis=1).mean(),
    }
    foreground = top_k_foreground(outputs.cas[0][..., :-1], labels, outputs, divisor=settings.top_k_divisor, mask=mask)
    return Loss.of(supervised(terms, outputs, step, mask=mask), foreground)


def min_max(values: Float[Array, "b t c"], *, mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t c"]:
    """Values of each video, shifted and scaled by their range over time; the part of the range below 0 does not count.

    With m and M the least and the greatest, or 0 where they are negative: (x - m) / (M - m), or x - m where M = m.

    Args:
      values: (B, T, C).
      mask: True for real snippets; default all. Values elsewhere become 0.

    Returns:
      (B, T, C), at most 1 where M > m, negative below m. No gradient goes through the range.
    """
    shown = jnp.ones((*values.shape[:2], 1), bool) if mask is None else mask[..., None]
    fixed = jax.lax.stop_gradient(values)
    greatest = jnp.max(fixed, axis=1, keepdims=True, where=shown, initial=0.0)
    least = jnp.minimum(jax.nn.relu(jnp.min(fixed, axis=1, keepdims=True, where=shown, initial=jnp.inf)), greatest)
    spread = greatest - least
    return jnp.where(shown, (values - least) / jnp.where(spread > 0, spread, 1), 0)


def bas_scores(
    outputs: Outputs, *, settings: BaSSettings = BaSSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: the class logits of the suppressed video, scaled by their range over time.

    The published program skips a video whose only class is the first one, since it asks whether any of the classes'
    indices is other than 0; no video is skipped here, nor one whose classes are all improbable. It also counts what is
    below a threshold as 0 in the contrast of its proposals; here only what is below 0.

    With clusters, P^M weighs the scores of the suppressed video: the published suppression acts before the classifier,
    which is not asked again.

    Returns:
      Scores of the C action classes; background has a part only in the softmax of `video`.
    """
    cas = outputs.cas[0]
    pooled = losses.top_k_mean(cas, divisor=settings.top_k_divisor, mask=mask)
    scores = min_max(cas[..., :-1], mask=mask)
    if outputs.cluster_logits:
        scores = scores * without_padding(outputs.attention[0], mask=mask)[..., None]
    return SnippetScores(scores, jax.nn.softmax(pooled)[..., :-1], jax.nn.relu(scores))


METHOD = Method(
    "basnet",
    BaSSettings(),
    Schedule(epochs=125),
    Localization(
        thresholds=tuple(np.arange(0, 0.25, 0.025).tolist()),
        nms="hard",
        nms_threshold=0.7,
        outer_ratio=0.25,
        score_weight=0.0,
    ),
    BaSNet,
    bas_loss,
    bas_scores,
)
"""As published, of 1,500 steps. The published score adds 0.2 to every class that is localised, whatever its
probability, which ranks nothing: the weight is 0 here."""
