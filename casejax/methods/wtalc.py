"""W-TALC: multiple-instance learning, and features that videos of one class share where that class is active.

Paul et al., "W-TALC: Weakly-supervised Temporal Activity Localization and Classification", ECCV 2018, after the
published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import mil_loss, time_softmax, unit, without_padding
from casejax.methods.contract import WHOLE, Loss, Method, Number, Outputs, Schedule, Step
from casejax.methods.layers import check_counts, check_rates, dropout, dropout_keys, pointwise, read_streams, xavier
from casejax.records import SnippetScores, option


@dataclass(frozen=True)
class WTALCSettings:
    """The settings of W-TALC."""

    hidden: int = option(2048, "width of the embedding", within="[1, inf)")
    dropout: float = option(0.7, "rate on it", within="[0, 1)")
    top_k_divisor: int = option(
        8, "snippets to one that is pooled, in training rounded up, in inference down", within="[1, inf)"
    )
    margin: float = option(0.5, "of the co-activity loss")
    video_weight: Number = option(
        0.5, "of the video classification, lambda; the co-activity loss has the rest of 1", within="[0, 1]"
    )
    confidence_weight: Number = option(
        0.7, "of the confidence in a class beside the greatest logit of a segment", inference=True
    )


class WTALCNet(nnx.Module):
    """The network of W-TALC.

    Two streams of 1024 dimensions and 20 classes make 4,237,332 parameters. (The published program has 4.2 million
    more, of a layer that it never uses.)

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      settings: `hidden` and `dropout`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or a rate outside [0, 1).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: WTALCSettings = WTALCSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden = settings.hidden
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        check_rates(dropout=settings.dropout)
        self.encoder = pointwise(sum(dims), hidden, rngs, init=xavier)
        self.classifier = pointwise(hidden, num_classes, rngs, init=xavier)
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
          Predictions with one class activation sequence and one embedding, after dropout, for all streams. There is
          no attention: `attention` is empty.

        Raises:
          ValueError: other streams than the network has.
        """
        features = read_streams(features, self.dims, mask=mask)
        embedding = jax.nn.relu(self.encoder(jnp.concatenate(features, axis=2)))
        embedding = dropout(embedding, self.dropout, next(dropout_keys(key)))
        cas = self.classifier(embedding)
        return Outputs((cas,), (embedding,))


def wtalc_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: WTALCSettings = WTALCSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch; `step.pairs` stand at the head of it.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: when and with what the loss is computed.
      settings: the method's.
      mask: True for real snippets; default all.

    Returns:
      The loss, whose terms `loss_video` and `loss_pairs` add up to it.

    Raises:
      ValueError: a batch too small for the pairs.
    """
    cas = outputs.cas[0]
    with_background = jnp.pad(cas, ((0, 0), (0, 0), (0, 1)))  # a column that the co-activity loss leaves out
    active = co_activity_loss(
        outputs.embedding[0], with_background, labels, mask=mask, pairs=step.pairs, margin=settings.margin
    )
    return Loss.of(
        {
            "loss_video": settings.video_weight
            * mil_loss(cas, labels, mask=mask, divisor=settings.top_k_divisor).mean(),
            "loss_pairs": (1 - settings.video_weight) * active,
        }
    )


def run_maximum(values: Float[Array, "b t c"], inside: Bool[Array, "b t c"]) -> Float[Array, "b t c"]:
    """Every value inside a run of consecutive snippets becomes the greatest of its run; the others do not change."""

    def sweep(restart: Bool[Array, "b t c"], reverse: bool) -> Float[Array, "b t c"]:
        def join(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            return jnp.where(b[1], b[0], jnp.maximum(a[0], b[0])), a[1] | b[1]

        return jax.lax.associative_scan(join, (values, restart), axis=1, reverse=reverse)[0]

    outer = jnp.pad(inside, ((0, 0), (1, 1), (0, 0)))
    return jnp.maximum(sweep(~(inside & outer[:, :-2]), False), sweep(~(inside & outer[:, 2:]), True))


def wtalc_scores(
    outputs: Outputs, *, settings: WTALCSettings = WTALCSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: a class is active where its logit is above the middle of its range in the video.

    The confidence in a class is the mean of its greatest logits. Classes without a positive one are not localised.

    Returns:
      `fused`: class logits that are moved and scaled to span [0, 1] in each video and class, so that the published
      threshold, which is halfway, is 0.5 for all; 0 for a class that is not localised, and for one whose logits are all
      the same. `ranked`: the published score of the run above 0.5 that a snippet belongs to, its greatest logit and the
      weighted confidence; elsewhere the same of the snippet alone. `video`: sigmoid of the confidence, from 0.5 on
      where a class is localised.
    """
    cas = outputs.cas[0]
    shown = jnp.ones((*cas.shape[:2], 1), bool) if mask is None else mask[..., None]
    confidence = losses.top_k_mean(cas, divisor=settings.top_k_divisor, mask=mask)[:, None]
    least = jnp.min(cas, axis=1, keepdims=True, where=shown, initial=jnp.inf)
    spread = jnp.max(cas, axis=1, keepdims=True, where=shown, initial=-jnp.inf) - least
    relative = (cas - least) / jnp.where(spread > 0, spread, 1)
    thresholded = jnp.where(shown & (confidence > 0), relative, 0)
    ranked = run_maximum(cas, thresholded >= 0.5) + settings.confidence_weight * confidence
    return SnippetScores(thresholded, jax.nn.sigmoid(confidence[:, 0]), jnp.where(shown, ranked, 0))


def co_activity_loss(
    feature: Float[Array, "b t d"],
    suppressed: Float[Array, "b t k"],
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    pairs: int = 3,
    margin: float = 0.5,
) -> Float[Array, ""]:
    """Videos of a pair are closer where a class is active that they share than where it is not (Paul et al.).

    Args:
      feature: (B, T, D).
      suppressed: (B, T, C + 1) class logits by whose softmax over time features are pooled; the last is ignored.
      labels: (B, C) zeros and ones.
      mask: True for real snippets; default all.
      pairs: number of pairs at the head of the batch; the two videos of a pair follow each other.
      margin: by which the cosine must be greater.

    Returns:
      The mean over pairs and the classes they share; 0 where none is shared, for which the published program has NaN.

    Raises:
      ValueError: a batch too small for the pairs.

    References:
      Paul et al., "W-TALC: Weakly-supervised Temporal Activity Localization and Classification", ECCV 2018.
    """
    if not 0 <= 2 * pairs <= len(feature):
        raise ValueError(f"{pairs} pairs need a batch of {2 * pairs} videos or more, got {len(feature)}")
    head = slice(2 * pairs)
    feature, labels = feature[head], labels[head]
    mask = None if mask is None else mask[head]
    feature, logits = (without_padding(x, mask=mask) for x in (feature, suppressed[head, :, :-1]))
    active = time_softmax(logits, mask=mask)
    # The published weights of the other snippets are divided by T - 1, which does not change the direction.
    high, low = (
        unit(jnp.einsum("btc,btd->bcd", weights, feature, precision="highest")) for weights in (active, 1 - active)
    )
    shared = labels[0::2] * labels[1::2]

    def cosine(a: Float[Array, "p c d"], b: Float[Array, "p c d"]) -> Float[Array, "p c"]:
        return (a * b).sum(axis=2)

    both = cosine(high[0::2], high[1::2])
    crossed = cosine(high[0::2], low[1::2]), cosine(high[1::2], low[0::2])
    hinges = [jax.nn.relu(other - both + margin) for other in crossed]
    return (0.5 * sum(hinges[1:], start=hinges[0]) * shared).sum() / jnp.maximum(shared.sum(), 1)


METHOD = Method(
    "wtalc",
    WTALCSettings(),
    Schedule(batch_size=10, epochs=5000, sampling="crop", similar_pairs=3),
    replace(
        WHOLE,
        class_threshold=0.5,
        thresholds=(0.5,),
        nms="hard",
        nms_plus_one=False,
        outer_ratio=0.0,
        score_weight=0.0,
        min_snippets=2,
    ),
    WTALCNet,
    wtalc_loss,
    wtalc_scores,
    has_attention=False,
)
"""As published: 100,000 steps by default. The runs of a single threshold do not overlap, so nothing is suppressed;
without an outside and a weight of its own a proposal's score is what `wtalc_scores` puts into `ranked`."""
