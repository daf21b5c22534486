"""CO2-Net: each stream is filtered by the other, and both must agree on the foreground.

Hong et al., "Cross-modal Consensus Network for Weakly Supervised Temporal Action Localization", ACM MM 2021, after the
published program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.losses import (
    moving_average,
    soft_cross_entropy,
    stream_mean,
    time_mean,
    top_k_mean,
    with_background,
    without_padding,
)
from casejax.methods.contract import Base, Moment, options_of, supervised
from casejax.methods.layers import (
    TemporalConv,
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    kaiming,
    pointwise,
    read_streams,
)
from casejax.methods.outputs import BaseOutputs, InferenceScores, Schedule, foreground_or
from casejax.methods.wtalc import co_activity_loss
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key

_leaky = partial(jax.nn.leaky_relu, negative_slope=0.2)


@dataclass(frozen=True)
class CO2Settings:
    """Settings of CO2-Net; `THUMOS14` and `ACTIVITYNET12` are the published ones.

    Attributes:
      schedule: how it is trained.
      localization: how its scores become segments.
      top_k_divisor: one in so many snippets is pooled in training.
      video_divisor: the same for the class probabilities of inference.
      margin: of the co-activity loss.
      norm_weight: of the mean attention.
      guide_weight: of the distance between attention and what is not background.
      pair_weight: of the co-activity loss.
      mutual_weight: of the distance between the streams' attention.
      smoothing: snippets over which class logits and attention are averaged.
    """

    schedule: Schedule
    localization: Localization
    top_k_divisor: int = 7
    video_divisor: int = 10
    margin: float = 0.5
    norm_weight: float = 0.8
    guide_weight: float = 0.8
    pair_weight: float = 1.0
    mutual_weight: float = 1.0
    smoothing: int = 1


LOCALIZATION = Localization(
    class_threshold=0.2,
    thresholds=tuple(np.linspace(0.1, 0.9, 10).tolist()),
    nms="soft",
    nms_decay=0.3,
)

THUMOS14 = CO2Settings(
    Schedule(num_snippets=500, batch_size=10, epochs=250, learning_rate=5e-5, weight_decay=1e-3, similar_pairs=3),
    LOCALIZATION,
)
"""As in the published command, of 5,000 steps; its README says 20,000."""

ACTIVITYNET12 = CO2Settings(
    Schedule(num_snippets=60, batch_size=10, epochs=48, learning_rate=3e-5, weight_decay=5e-4, similar_pairs=3),
    LOCALIZATION,
    top_k_divisor=5,
    smoothing=13,
)
"""As published, of 22,000 steps. Videos of 10 snippets or fewer are left out there."""


class CO2Own(NamedTuple):
    """What only CO2-Net and DELU have.

    Attributes:
      feature: (B, T, D) of both streams, filtered and fused, by which classes are told.
      attention: (B, T) of each stream after dropout, which is what their own losses see.
    """

    feature: Float[Array, "b t d"]
    attention: tuple[Float[Array, "b t"], ...]


class CrossModalFilter(nnx.Module):
    """One stream, filtered by its own mean over time and by the other streams at each snippet; with its attention."""

    def __init__(self, dim: int, other: int, *, hidden: int, dropout: float, rngs: nnx.Rngs) -> None:
        conv = partial(TemporalConv, init=kaiming, rngs=rngs)
        # It sees a sequence of one snippet, so only the middle one of its three taps has an effect.
        self.whole = conv(dim, dim)
        self.each = conv(other, dim)
        self.first, self.second = conv(dim, hidden), conv(hidden, hidden)
        self.attention = pointwise(hidden, 1, rngs, init=kaiming)
        self.dropout = dropout

    def __call__(
        self,
        main: Float[Array, "b t d"],
        other: Float[Array, "b t e"],
        keys: Iterator[Key[Array, ""] | None],
        *,
        mask: Bool[Array, "b t"] | None,
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b t h"], Float[Array, "b t"], Float[Array, "b t"]]:
        """Filtered features, embedding, attention without dropout and attention with it."""
        whole = dropout(_leaky(self.whole(time_mean(main, mask=mask)[:, None])), self.dropout, next(keys))
        each = dropout(_leaky(self.each(other, mask=mask)), self.dropout, next(keys))
        filtered = jax.nn.sigmoid(each * whole) * main
        embedding = dropout(_leaky(self.first(filtered, mask=mask)), self.dropout, next(keys))
        embedding = _leaky(self.second(embedding, mask=mask))
        logits = self.attention(embedding)[..., 0]
        dropped = dropout(logits, self.dropout, next(keys))
        return filtered, embedding, jax.nn.sigmoid(logits), jax.nn.sigmoid(dropped)


class CO2Net(nnx.Module):
    """The network of CO2-Net, and of DELU.

    Two streams of 1024 dimensions and 20 classes make 34,133,015 parameters. (The published program has 12.6 million
    more, of a layer that it never uses.)

    Args:
      dims: feature dimension of each stream; two as published, or more: each is filtered by all others.
      num_classes: action classes C; background is added to them.
      hidden: width of the attention networks, and of the embedding.
      dropout: rate on class features.
      attention_dropout: rate in the filters and the attention networks. The logits of attention are dropped too: in
        training this share of its values is 1/2.
      smoothing: snippets over which class logits and attention are averaged, odd; for short videos, 13 as published.
        Those beyond either end count as zeros.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, fewer than two streams, an even window or a rate outside [0, 1).
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        hidden: int = 512,
        dropout: float = 0.7,
        attention_dropout: float = 0.5,
        smoothing: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(dims, num_classes=num_classes, hidden=hidden, smoothing=smoothing)
        check_rates(dropout=dropout, attention_dropout=attention_dropout)
        if len(dims) < 2 or smoothing % 2 == 0:
            raise ValueError(
                "CO2-Net filters one stream by another and averages over an odd number of snippets; it needs two or "
                f"more streams and an odd smoothing, got dims={tuple(dims)} and smoothing={smoothing}"
            )
        joint = sum(dims)
        self.filters = nnx.List(
            [CrossModalFilter(dim, joint - dim, hidden=hidden, dropout=attention_dropout, rngs=rngs) for dim in dims]
        )
        self.fusion = pointwise(joint, joint, rngs, init=kaiming)
        self.class_encoder = TemporalConv(joint, joint, init=kaiming, rngs=rngs)
        self.classifier = pointwise(joint, num_classes + 1, rngs, init=kaiming)
        self.dims, self.dropout, self.smoothing = tuple(dims), dropout, smoothing
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
          mask: True for real snippets; features elsewhere are read as zeros and have no part in a video's mean.
            Default all, and then padding with zeros has, as published.
          key: dropout of this call; None for none.

        Returns:
          Predictions with one class activation sequence for all streams, background last. Attention is that before
          dropout, and so is the one in `select_scores`, the suppressed class logits; `own` is a `CO2Own`.

        Raises:
          ValueError: other streams than the network has.
        """
        features = read_streams(features, self.dims, mask=mask)
        keys = dropout_keys(key)
        outputs = []
        for s, (layer, x) in enumerate(zip(self.filters, features, strict=True)):
            others = jnp.concatenate(features[:s] + features[s + 1 :], axis=2)
            outputs.append(layer(x, others, keys, mask=mask))
        filtered, embedding, attention, dropped = zip(*outputs, strict=True)
        feature = dropout(_leaky(self.fusion(jnp.concatenate(filtered, axis=2))), self.dropout, next(keys))
        x = dropout(feature, self.dropout, next(keys))
        x = dropout(_leaky(self.class_encoder(x, mask=mask)), self.dropout, next(keys))
        cas = moving_average(self.classifier(x), self.smoothing, mask=mask)
        attention, dropped = (
            tuple(moving_average(a[..., None], self.smoothing, mask=mask)[..., 0] for a in group)
            for group in (attention, dropped)
        )
        select = suppress(cas, stream_mean(attention))[..., :-1]
        return BaseOutputs((cas,), embedding, attention, select, CO2Own(feature, dropped))


def suppress(cas: Float[Array, "b t c"], attention: Float[Array, "b t"]) -> Float[Array, "b t c"]:
    """Class logits, moved towards the lowest logit of their snippet where attention is low."""
    least = cas.min(axis=2, keepdims=True)
    return attention[..., None] * (cas - least) + least


def background_mil(
    cas: Float[Array, "b t k"],
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    background: float,
    divisor: int = 7,
) -> Float[Array, " b"]:
    """Cross-entropy of the pooled logits of the classes and background with a video's labels.

    Args:
      cas: (B, T, C + 1) logits, background last.
      labels: (B, C) zeros and ones.
      mask: True for real snippets; default all.
      background: label of background: 1 for logits that see the whole video, 0 for suppressed ones.
      divisor: one in so many snippets is pooled.

    Returns:
      (B,) losses. Targets sum to a little less than 1, as published: 1e-4 is added to what they are divided by.
    """
    targets = with_background(labels, background)
    targets = targets / (targets.sum(axis=1, keepdims=True) + 1e-4)
    return soft_cross_entropy(top_k_mean(cas, divisor=divisor, mask=mask), targets)


def mutual_loss(
    attention: Sequence[Float[Array, "b t"]], *, mask: Bool[Array, "b t"] | None = None
) -> Float[Array, " b"]:
    """Each stream's attention is drawn to that of the others, which gets no gradient: mean over ordered pairs."""
    pairs = [time_mean((a - jax.lax.stop_gradient(b)) ** 2, mask=mask) for a, b in permutations(attention, 2)]
    return stream_mean(pairs)


def guide_distance(attention: Sequence[Float[Array, "b t"]], cas: Float[Array, "b t k"]) -> Float[Array, "b t"]:
    """How far attention is from the probability that a snippet is not background, mean over all of `attention`."""
    background = jax.nn.softmax(cas)[..., -1]
    return stream_mean([jnp.abs(1 - a - background) for a in attention])


def co2_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    pairs: int = 3,
    top_k_divisor: int = 7,
    margin: float = 0.5,
    norm_weight: float | Float[Array, ""] = 0.8,
    guide_weight: float | Float[Array, ""] = 0.8,
    pair_weight: float | Float[Array, ""] = 1.0,
    mutual_weight: float | Float[Array, ""] = 1.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      mask: True for real snippets; default all.
      pairs: pairs of videos that share a class, at the head of the batch.
      top_k_divisor: one in so many snippets is pooled.
      margin: of `co_activity_loss`.
      norm_weight: of the mean attention, alpha_1.
      guide_weight: of `guide_distance`, alpha_2.
      pair_weight: of `co_activity_loss`, alpha_3.
      mutual_weight: of `mutual_loss`, alpha_4.

    Returns:
      The loss, and its terms, which add up to it: `loss_video`, `loss_suppressed`, `loss_pairs`, `loss_mutual`,
      `loss_norm` and `loss_guide`.
    """
    cas, own = outputs.cas[0], outputs.own
    fused = stream_mean(own.attention)
    suppressed = suppress(cas, fused)
    attention = (fused, *own.attention)
    norm = time_mean(stream_mean(attention), mask=mask)
    guide = time_mean(guide_distance(attention, cas), mask=mask)
    video = background_mil(cas, labels, mask=mask, background=1, divisor=top_k_divisor)
    acted = background_mil(suppressed, labels, mask=mask, background=0, divisor=top_k_divisor)
    terms = {
        "loss_video": video.mean(),
        "loss_suppressed": acted.mean(),
        "loss_pairs": pair_weight
        * co_activity_loss(own.feature, suppressed, labels, mask=mask, pairs=pairs, margin=margin),
        "loss_mutual": mutual_weight * mutual_loss(own.attention, mask=mask).mean(),
        "loss_norm": norm_weight * norm.mean(),
        "loss_guide": guide_weight * guide.mean(),
    }
    return jnp.stack(list(terms.values())).sum(), terms


def co2_scores(
    outputs: BaseOutputs,
    foreground: Float[Array, "_ _"] | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    video_divisor: int = 10,
) -> InferenceScores:
    """Inference: attention alone is thresholded; its product with the class logits is ranked.

    Args:
      outputs: the network's predictions, without dropout.
      foreground: P^M or another foreground probability in the place of the mean attention.
      mask: True for real snippets; default all. Scores elsewhere are 0.
      video_divisor: one in so many snippets is pooled in the video's scores.

    Returns:
      Scores of the C action classes. `ranked` are logits; background has a part only in the softmax of `video`.
    """
    attention = without_padding(foreground_or(foreground, stream_mean(outputs.attention)), mask=mask)
    ranked = without_padding(outputs.cas[0], mask=mask) * attention[..., None]
    pooled = top_k_mean(ranked, divisor=video_divisor, mask=mask)
    ranked = ranked[..., :-1]
    thresholded = jnp.broadcast_to(attention[..., None], ranked.shape)
    return InferenceScores(thresholded, ranked, jax.nn.softmax(pooled)[..., :-1])


def _objective(
    outputs: BaseOutputs, labels: Float[Array, "b c"], mask: Bool[Array, "b t"] | None, moment: Moment
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    options = options_of(co2_objective, moment.settings)
    loss, terms = co2_objective(outputs, labels, mask=mask, pairs=moment.pairs, **options)
    return supervised(outputs, mask, moment, loss, terms)


BASE = Base(THUMOS14, CO2Net, _objective, co2_scores, has_background=True)
