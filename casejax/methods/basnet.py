"""BaS-Net: one classifier sees a video twice: as it is, where background is a label, and suppressed, where it is not.

Lee et al., "Background Suppression Network for Weakly-supervised Temporal Action Localization", AAAI 2020, after the
published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.losses import shared_out, softmax_bce, top_k_mean, with_background, without_padding
from casejax.methods.contract import Base, Moment, options_of, supervised
from casejax.methods.layers import (
    TemporalConv,
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    pointwise,
    read_streams,
)
from casejax.methods.outputs import BaseOutputs, InferenceScores, Schedule, foreground_or
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key

_leaky = partial(jax.nn.leaky_relu, negative_slope=0.01)


@dataclass(frozen=True)
class BaSSettings:
    """Settings of BaS-Net; `THUMOS14` are the published ones.

    Attributes:
      schedule: how it is trained.
      localization: how its scores become segments.
      top_k_divisor: one in so many snippets is pooled, in training and inference.
      norm_weight: of the sum of a video's attention, alpha.
    """

    schedule: Schedule
    localization: Localization
    top_k_divisor: int = 8
    norm_weight: float = 1e-4


THUMOS14 = BaSSettings(
    Schedule(num_snippets=750, batch_size=16, epochs=125, learning_rate=1e-4, weight_decay=5e-4),
    Localization(
        class_threshold=0.25,
        thresholds=tuple(np.arange(0, 0.25, 0.025).tolist()),
        nms="hard",
        nms_threshold=0.7,
        nms_unit="seconds",
        test_sampling="resampled",
        scale=24,
        score_weight=0.0,
        drop_lone_first=True,
    ),
)
"""As published, of 1,500 steps. The published score adds 0.2 to every class that is localised, whatever its
probability, which changes no order: the weight is 0 here."""


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
      hidden: width of the filter, and of the embedding.
      class_hidden: width of the classifier.
      dropout: rate before its last layer.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or a rate outside [0, 1).
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        hidden: int = 512,
        class_hidden: int = 2048,
        dropout: float = 0.7,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(dims, num_classes=num_classes, hidden=hidden, class_hidden=class_hidden)
        check_rates(dropout=dropout)
        joint, num_outputs = sum(dims), num_classes + 1
        self.filter_encoder = pointwise(joint, hidden, rngs)
        self.filter = pointwise(hidden, 1, rngs)
        self.first = TemporalConv(joint, class_hidden, rngs=rngs)
        self.second = TemporalConv(class_hidden, class_hidden, rngs=rngs)
        self.classifier = pointwise(class_hidden, num_outputs, rngs, bias=False)
        self.dims, self.dropout, self.embedding_dims = tuple(dims), dropout, (hidden,)

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
          key: dropout of this call; None for none.

        Returns:
          Predictions for all streams together. `cas` and `select_scores` are of the suppressed video; `own` is a
          `BaSOwn`. The embedding is the filter's, and its weights are the attention.

        Raises:
          ValueError: other streams than the network has.
        """
        x = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        keys = dropout_keys(key)
        embedding = _leaky(self.filter_encoder(x))
        attention = jax.nn.sigmoid(self.filter(embedding)[..., 0])
        base = self._classify(x, next(keys), mask=mask)
        suppressed = self._classify(attention[..., None] * x, next(keys), mask=mask)
        return BaseOutputs((suppressed,), (embedding,), (attention,), suppressed[..., :-1], BaSOwn(base))

    def _classify(
        self, x: Float[Array, "b t d"], key: Key[Array, ""] | None, *, mask: Bool[Array, "b t"] | None
    ) -> Float[Array, "b t k"]:
        x = _leaky(self.second(_leaky(self.first(x, mask=mask)), mask=mask))
        return self.classifier(dropout(x, self.dropout, key))


def bas_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int = 8,
    norm_weight: float | Float[Array, ""] = 1e-4,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      mask: True for real snippets; default all.
      top_k_divisor: one in so many snippets is pooled.
      norm_weight: of the sum of a video's attention, as published a sum, which grows with the length.

    Returns:
      The loss, and its terms, which add up to it: `loss_base`, in which background is present, `loss_suppressed`, in
      which it is absent, and `loss_norm`.
    """

    def classification(cas: Float[Array, "b t k"], background: float) -> Float[Array, ""]:
        pooled = top_k_mean(cas, divisor=top_k_divisor, mask=mask)
        return softmax_bce(pooled, shared_out(with_background(labels, background))).mean()

    terms = {
        "loss_base": classification(outputs.own.base, 1),
        "loss_suppressed": classification(outputs.cas[0], 0),
        "loss_norm": norm_weight * without_padding(outputs.attention[0], mask=mask).sum(axis=1).mean(),
    }
    return jnp.stack(list(terms.values())).sum(), terms


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
    outputs: BaseOutputs,
    foreground: Float[Array, "_ _"] | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int = 8,
) -> InferenceScores:
    """Inference: the class logits of the suppressed video, scaled by their range over time.

    The published program skips a video whose only class is the first one, since it asks whether any of the classes'
    indices is other than 0; no video is skipped here, nor one whose classes are all improbable. It also counts what is
    below a threshold as 0 in the contrast of its proposals; here only what is below 0.

    Args:
      outputs: the network's predictions, without dropout.
      foreground: P^M or another foreground probability. Since the published suppression acts before the classifier,
        which is not asked again, it weights the scores of the suppressed video.
      mask: True for real snippets; default all. Scores elsewhere are 0.
      top_k_divisor: one in so many snippets is pooled in the video's scores.

    Returns:
      Scores of the C action classes; background has a part only in the softmax of `video`.
    """
    cas = outputs.cas[0]
    pooled = top_k_mean(cas, divisor=top_k_divisor, mask=mask)
    scores = min_max(cas[..., :-1], mask=mask)
    if foreground is not None:
        scores = scores * without_padding(foreground_or(foreground, outputs.attention[0]), mask=mask)[..., None]
    return InferenceScores(scores, jax.nn.relu(scores), jax.nn.softmax(pooled)[..., :-1])


def _objective(
    outputs: BaseOutputs, labels: Float[Array, "b c"], mask: Bool[Array, "b t"] | None, moment: Moment
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    loss, terms = bas_objective(outputs, labels, mask=mask, **options_of(bas_objective, moment.settings))
    return supervised(outputs, mask, moment, loss, terms)


BASE = Base(THUMOS14, BaSNet, _objective, bas_scores, has_background=True)
