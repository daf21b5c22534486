"""CO2-Net: each stream is filtered by the other, and both must agree on the foreground.

Hong et al., "Cross-modal Consensus Network for Weakly Supervised Temporal Action Localization", ACM MM 2021, after the
published program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import (
    moving_average,
    soft_cross_entropy,
    stream_mean,
    time_mean,
    top_k_mean,
    with_background,
    without_padding,
)
from casejax.methods.contract import (
    WHOLE,
    BackgroundSettings,
    Loss,
    Method,
    Number,
    Outputs,
    Schedule,
    Step,
    supervised,
)
from casejax.methods.layers import (
    TemporalConv,
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    kaiming,
    pointwise,
    read_streams,
    top_k_foreground,
)
from casejax.methods.wtalc import co_activity_loss
from casejax.records import SnippetScores, option

_leaky = partial(jax.nn.leaky_relu, negative_slope=0.2)


@dataclass(frozen=True)
class CO2Settings(BackgroundSettings):
    """The settings of CO2-Net."""

    hidden: int = option(512, "width of the attention networks, and of the embedding", within="[1, inf)")
    dropout: float = option(0.7, "rate on class features", within="[0, 1)")
    attention_dropout: float = option(
        0.5, "rate in the filters and the attention networks, whose logits are dropped too", within="[0, 1)"
    )
    smoothing: int = option(
        1,
        "snippets over which class logits and attention are averaged, odd; for short videos 13 as published",
        within="[1, inf)",
    )
    top_k_divisor: int = option(7, "snippets to one that is pooled in training", within="[1, inf)")
    video_divisor: int = option(
        10, "the same for the class probabilities of inference", within="[1, inf)", inference=True
    )
    margin: float = option(0.5, "of the co-activity loss")
    norm_weight: Number = option(0.8, "of the mean attention, alpha_1", within="[0, inf)")
    guide_weight: Number = option(
        0.8, "of the distance between attention and what is not background, alpha_2", within="[0, inf)"
    )
    pair_weight: Number = option(1.0, "of the co-activity loss, alpha_3", within="[0, inf)")
    mutual_weight: Number = option(1.0, "of the distance between the streams' attention, alpha_4", within="[0, inf)")


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
      settings: the widths, the rates and `smoothing`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, fewer than two streams, an even window or a rate outside [0, 1).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: CO2Settings = CO2Settings(), rngs: nnx.Rngs
    ) -> None:
        hidden, smoothing = settings.hidden, settings.smoothing
        check_counts(dims, num_classes=num_classes, hidden=hidden, smoothing=smoothing)
        check_rates(dropout=settings.dropout, attention_dropout=settings.attention_dropout)
        if len(dims) < 2 or smoothing % 2 == 0:
            raise ValueError(
                "CO2-Net filters one stream by another and averages over an odd number of snippets; it needs two or "
                f"more streams and an odd smoothing, got dims={tuple(dims)} and smoothing={smoothing}"
            )
        joint = sum(dims)
        self.filters = nnx.List(
            [
                CrossModalFilter(dim, joint - dim, hidden=hidden, dropout=settings.attention_dropout, rngs=rngs)
                for dim in dims
            ]
        )
        self.fusion = pointwise(joint, joint, rngs, init=kaiming)
        self.class_encoder = TemporalConv(joint, joint, init=kaiming, rngs=rngs)
        self.classifier = pointwise(joint, num_classes + 1, rngs, init=kaiming)
        self.dims, self.dropout, self.smoothing = tuple(dims), settings.dropout, smoothing
        self.embedding_dims = (hidden,) * len(dims)

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
          mask: True for real snippets; features elsewhere are read as zeros and have no part in a video's mean.
            Default all, and then padding with zeros has, as published.
          key: dropout of this call; None for none.

        Returns:
          Predictions with one class activation sequence for all streams, background last. Attention is that before
          dropout; `own` is a `CO2Own`.

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
        return Outputs((cas,), embedding, attention, own=CO2Own(feature, dropped))


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


def co2_terms(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step,
    *,
    settings: CO2Settings,
    mask: Bool[Array, "b t"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """The terms of the loss, named `loss_` and video, suppressed, pairs, mutual, norm and guide."""
    cas, own = outputs.cas[0], outputs.own
    fused = stream_mean(own.attention)
    suppressed = suppress(cas, fused)
    attention = (fused, *own.attention)
    norm = time_mean(stream_mean(attention), mask=mask)
    guide = time_mean(guide_distance(attention, cas), mask=mask)
    video = background_mil(cas, labels, mask=mask, background=1, divisor=settings.top_k_divisor)
    acted = background_mil(suppressed, labels, mask=mask, background=0, divisor=settings.top_k_divisor)
    active = co_activity_loss(own.feature, suppressed, labels, mask=mask, pairs=step.pairs, margin=settings.margin)
    return {
        "loss_video": video.mean(),
        "loss_suppressed": acted.mean(),
        "loss_pairs": settings.pair_weight * active,
        "loss_mutual": settings.mutual_weight * mutual_loss(own.attention, mask=mask).mean(),
        "loss_norm": settings.norm_weight * norm.mean(),
        "loss_guide": settings.guide_weight * guide.mean(),
    }


def co2_foreground(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    *,
    settings: CO2Settings,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t"], ...]:
    """Q^A by the suppressed class logits."""
    scores = suppress(outputs.cas[0], stream_mean(outputs.attention))[..., :-1]
    return top_k_foreground(scores, labels, outputs, divisor=settings.top_k_divisor, mask=mask)


def co2_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: CO2Settings = CO2Settings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch, the sum of `co2_terms`; `step.pairs` stand at the head of the batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: when and with what the loss is computed.
      settings: the method's.
      mask: True for real snippets; default all.
    """
    terms = co2_terms(outputs, labels, step, settings=settings, mask=mask)
    foreground = co2_foreground(outputs, labels, settings=settings, mask=mask)
    return Loss.of(supervised(terms, outputs, step, mask=mask), foreground)


def co2_scores(
    outputs: Outputs, *, settings: CO2Settings = CO2Settings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: attention alone is thresholded; its product with the class logits is ranked.

    Returns:
      Scores of the C action classes. `ranked` are logits; background has a part only in the softmax of `video`.
    """
    attention = without_padding(stream_mean(outputs.attention), mask=mask)
    ranked = without_padding(outputs.cas[0], mask=mask) * attention[..., None]
    pooled = losses.top_k_mean(ranked, divisor=settings.video_divisor, mask=mask)
    ranked = ranked[..., :-1]
    thresholded = jnp.broadcast_to(attention[..., None], ranked.shape)
    return SnippetScores(thresholded, jax.nn.softmax(pooled)[..., :-1], ranked)


LOCALIZATION = replace(
    WHOLE, class_threshold=0.2, thresholds=tuple(np.linspace(0.1, 0.9, 10).tolist()), nms="soft", nms_decay=0.3
)

METHOD = Method(
    "co2net",
    CO2Settings(),
    Schedule(num_snippets=500, batch_size=10, epochs=250, learning_rate=5e-5, weight_decay=1e-3, similar_pairs=3),
    LOCALIZATION,
    CO2Net,
    co2_loss,
    co2_scores,
    datasets={
        "activitynet12": {
            "top_k_divisor": 5,
            "smoothing": 13,
            "num_snippets": 60,
            "epochs": 48,
            "learning_rate": 3e-5,
            "weight_decay": 5e-4,
        }
    },
)
"""As in the published command, of 5,000 steps; its README says 20,000. For ActivityNet 1.2 of 22,000; videos of 10
snippets or fewer are left out there."""
