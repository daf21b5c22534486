"""RSKP: the embedding of a snippet is mixed with those of a few representative snippets, of its own and other videos.

Huang et al., "Weakly Supervised Temporal Action Localization via Representative Snippet Knowledge Propagation",
CVPR 2022, after the published program, and the settings with which Zhou et al. (CVPR 2023) train it on fused pseudo
labels (`casejax.localize.fusion`, `casejax.labels.pseudo_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.labels.pseudo_labels import pseudo_label_loss
from casejax.losses import time_mean, unit, without_padding
from casejax.methods.contract import Base, Moment, options_of
from casejax.methods.layers import check_counts, check_rates, dropout, dropout_keys, pointwise, read_streams, xavier
from casejax.methods.outputs import BaseOutputs, InferenceScores, Schedule, foreground_or
from casejax.methods.representatives import Memory, reallocate, recall, refine_tokens, remember
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key


@dataclass(frozen=True)
class RSKPSettings:
    """Settings of RSKP; `THUMOS14` are the published ones, `ZHOU` those of Zhou et al.

    Attributes:
      schedule: how it is trained. In a run of more or fewer epochs than that, epochs below are stretched.
      localization: how its scores become segments.
      rates: epochs, counted from 0, and the factor on the learning rate from each on; the first is 0.
      memory_epoch: epochs before other videos' tokens take part.
      late_until: epochs until which the late consistency weight holds.
      divisor: of the attention loss: one in so many snippets is among the highest, and as many among the lowest.
      classwise_weight: of the classification that models background, lambda_b.
      attention_weight: of the attention loss, lambda_a.
      consistency_weight: of the consistency loss, lambda_s, until other videos' tokens take part.
      late_consistency_weight: the same from then on.
      temperature: of both sides of the consistency loss.
      memory_weight: of the classifications through the tokens of other videos.
      memory_mix: share of these in the consistency loss's target.
      label_mix: share of the original predictions in the pseudo-label loss.
      frame_mix: share of the original predictions in the class probabilities of snippets, in inference.
    """

    schedule: Schedule
    localization: Localization
    rates: tuple[tuple[int, float], ...] = ((0, 1.0),)
    memory_epoch: int = 100
    late_until: int = 200
    divisor: int = 8
    classwise_weight: float = 0.2
    attention_weight: float = 0.1
    consistency_weight: float = 1.0
    late_consistency_weight: float = 0.5
    temperature: float = 0.2
    memory_weight: float = 0.5
    memory_mix: float = 0.2
    label_mix: float = 0.8
    frame_mix: float = 0.6


THUMOS14 = RSKPSettings(
    # The gradients of ten videos are summed. For Adam that is their mean with a tenth of the published decay of 5e-4.
    Schedule(
        num_snippets=1500,
        batch_size=10,
        epochs=200,
        learning_rate=5e-5,
        weight_decay=5e-5,
        second_moment=0.99,
        sampling="crop",
    ),
    Localization(
        class_threshold=0.1,
        thresholds=tuple(np.arange(0.001, 0.04, 0.002).tolist()),
        nms="hard",
        nms_threshold=0.5,
        min_snippets=2,
    ),
)
"""As published, but for training videos of more than 1,500 snippets, which are cropped."""

ZHOU = replace(
    THUMOS14,
    schedule=replace(THUMOS14.schedule, epochs=350),
    localization=replace(THUMOS14.localization, class_threshold=0.16, outer_ratio=0.0785, outer_power=0.9),
    rates=((0, 1.0), (80, 0.8), (200, 0.4096), (245, 0.01024), (260, 0.00512)),
    frame_mix=0.85,
)
"""As published by Zhou et al. After 200 epochs the consistency weight is 1 again, pseudo labels set in
(`pseudo_labels.label_target`, `label_weight`), and `fusion.fuse_instances` takes the place of suppression."""


class Prediction(NamedTuple):
    """Predictions from one embedding of the snippets.

    Attributes:
      agnostic: (B, C + 1) class logits of the video from all its foreground, background last.
      classwise: (B, C + 1) class logits, each pooled by the similarity of the snippets to that class.
      attention: (B, T) foreground probability.
      frames: (B, T, C + 1) class logits of the snippets.
    """

    agnostic: Float[Array, "b k"]
    classwise: Float[Array, "b k"]
    attention: Float[Array, "b t"]
    frames: Float[Array, "b t k"]


class RSKPOwn(NamedTuple):
    """What only RSKP has.

    Attributes:
      original: predictions from the network's embedding.
      reallocated: predictions from the embedding after `reallocate` with the video's own tokens.
      tokens: (B, K, D) representative snippets of each video.
      token_logits: (B, K, C + 1) their class logits.
    """

    original: Prediction
    reallocated: Prediction
    tokens: Float[Array, "b k d"]
    token_logits: Float[Array, "b k c"]


class RSKPNet(nnx.Module):
    """The network of RSKP. Streams are joined at the input, so the clustering head sees one stream.

    Two streams of 1024 dimensions and 20 classes make 4,257,792 parameters.

    Args:
      dims: feature dimension of each stream.
      num_classes: action classes C; background is added to them.
      hidden: width D of the embedding.
      num_tokens: representative snippets of a video.
      num_iters: steps by which they are found.
      scale: factor on all cosines with classes and foreground.
      weight: of the tokens in `reallocate`.
      dropout: rate on the embedding.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or a rate outside [0, 1).
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        hidden: int = 2048,
        num_tokens: int = 8,
        num_iters: int = 2,
        scale: float = 20.0,
        weight: float = 0.5,
        dropout: float = 0.6,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(dims, num_classes=num_classes, hidden=hidden, num_tokens=num_tokens, num_iters=num_iters)
        check_rates(dropout=dropout)

        def directions(count: int) -> nnx.Param[Array]:
            return nnx.Param(xavier(hidden, count)[0](rngs.params(), (count, hidden)))

        self.encoder = pointwise(sum(dims), hidden, rngs, init=xavier)
        self.tokens = directions(num_tokens)
        self.class_centers = directions(num_classes + 1)
        # It starts opposite to background and is then trained freely.
        self.foreground_center = nnx.Param(-self.class_centers[...][-1])
        self.dims, self.embedding_dims = tuple(dims), (hidden,)
        self.num_iters, self.scale, self.weight, self.dropout = num_iters, scale, weight, dropout

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
          mask: True for real snippets; default all.
          key: dropout of this call; None for none.

        Returns:
          Predictions with one stream, background the last class; `own` is an `RSKPOwn`.

        Raises:
          ValueError: other streams than the network has.
        """
        joint = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        x = dropout(jax.nn.relu(self.encoder(joint)), self.dropout, next(dropout_keys(key)))
        tokens = jnp.broadcast_to(self.tokens[...][None], (len(x), *self.tokens[...].shape))
        tokens = refine_tokens(tokens, x, mask=mask, num_iters=self.num_iters)
        original = self.predict(x, mask=mask)
        reallocated = self.predict(reallocate(x, tokens, mask=mask, weight=self.weight), mask=mask)
        select = jax.nn.softmax(original.frames)[..., :-1] * original.attention[..., None]
        own = RSKPOwn(original, reallocated, tokens, self._classify(tokens))
        return BaseOutputs((original.frames,), (x,), (original.attention,), select, own)

    def predict(self, x: Float[Array, "b t d"], *, mask: Bool[Array, "b t"] | None = None) -> Prediction:
        """Predictions for snippets and videos from an embedding (B, T, D) of the snippets."""
        frames = self._classify(x)
        towards = unit(self.foreground_center[...])
        foreground = self.scale * jnp.einsum("btd,d->bt", unit(x), towards, precision="highest")
        attention = jax.nn.sigmoid(foreground)
        shares = jax.nn.sigmoid(jnp.concatenate([foreground[..., None], frames], axis=2))
        # Published shares are made to sum to 1 over time, which does not show in the direction of what they pool.
        pooled = unit(jnp.einsum("btk,btd->bkd", shares, without_padding(x, mask=mask), precision="highest"))
        centers = unit(self.class_centers[...])
        classwise = self.scale * jnp.einsum("bkd,kd->bk", pooled[:, 1:], centers, precision="highest")
        return Prediction(self._classify(pooled[:, 0]), classwise, attention, frames)

    def _classify(self, x: Float[Array, "*b d"]) -> Float[Array, "*b k"]:
        centers = unit(self.class_centers[...])
        return self.scale * jnp.einsum("...d,kd->...k", unit(x), centers, precision="highest")


def attention_loss(
    attention: Float[Array, "b t"], *, mask: Bool[Array, "b t"] | None = None, divisor: int = 8
) -> Float[Array, " b"]:
    """Spread attention: mean of its lowest values minus mean of its highest, one in `divisor` snippets each."""

    def highest(values: Float[Array, "b t"]) -> Float[Array, " b"]:
        return losses.top_k_mean(values[..., None], divisor=divisor, mask=mask)[:, 0]

    return -highest(-attention) - highest(attention)


def consistency_loss(
    frames: Float[Array, "b t k"],
    target: Float[Array, "b t k"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    temperature: float | Float[Array, ""] = 0.2,
) -> Float[Array, " b"]:
    """Cross-entropy of snippets' class logits to those of another embedding, which get no gradient; mean over time."""
    labels = jax.nn.softmax(jax.lax.stop_gradient(target) / temperature)
    return time_mean(losses.soft_cross_entropy(frames / temperature, labels), mask=mask)


def rskp_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    remembered: Prediction | None = None,
    snippet_labels: Float[Array, "b t k"] | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    divisor: int = 8,
    classwise_weight: float | Float[Array, ""] = 0.2,
    attention_weight: float | Float[Array, ""] = 0.1,
    consistency_weight: float | Float[Array, ""] = 1.0,
    temperature: float | Float[Array, ""] = 0.2,
    memory_weight: float | Float[Array, ""] = 0.5,
    memory_mix: float | Float[Array, ""] = 0.2,
    label_weight: float | Float[Array, ""] = 1.0,
    label_mix: float = 0.8,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      mask: True for real snippets; default all.
      remembered: predictions from the embedding after `reallocate` with other videos' tokens, by
        `representatives.recall` and `RSKPNet.predict`; None before there is a memory.
      snippet_labels: (B, T, C + 1) of `pseudo_labels.label_target`; None for none.
      divisor: of `attention_loss`.
      classwise_weight: of the classification that models background, lambda_b.
      attention_weight: of `attention_loss`, lambda_a.
      consistency_weight: of `consistency_loss`, lambda_s.
      temperature: of `consistency_loss`.
      memory_weight: of the classifications of `remembered`.
      memory_mix: its share in the target of `consistency_loss`.
      label_weight: of the pseudo-label loss, `pseudo_labels.label_weight`.
      label_mix: share of the original predictions in that.

    Returns:
      The loss, and its terms, which add up to it: `loss_agnostic`, `loss_classwise`, `loss_attention`,
      `loss_consistency` and, with snippet labels, `loss_labels`.
    """
    original, reallocated = outputs.own.original, outputs.own.reallocated
    descriptions: list[tuple[Any, Prediction]] = [(1.0, original), (1.0, reallocated)]
    target = reallocated.frames
    if remembered is not None:
        descriptions.append((memory_weight, remembered))
        target = memory_mix * remembered.frames + (1 - memory_mix) * target

    def classify(logits: Sequence[Float[Array, "b k"]], background: float) -> Float[Array, ""]:
        targets = losses.with_background(labels, background)
        weighted = [
            weight * losses.video_cross_entropy(x, targets, smoothing=0.0).mean()
            for (weight, _), x in zip(descriptions, logits, strict=True)
        ]
        return jnp.stack(weighted).sum()

    consistency = consistency_loss(original.frames, target, mask=mask, temperature=temperature)
    terms = {
        "loss_agnostic": classify([said.agnostic for _, said in descriptions], 0),
        "loss_classwise": classwise_weight * classify([said.classwise for _, said in descriptions], 1),
        "loss_attention": attention_weight * attention_loss(original.attention, mask=mask, divisor=divisor).mean(),
        "loss_consistency": consistency_weight * consistency.mean(),
    }
    if snippet_labels is not None:
        own, carried = (
            pseudo_label_loss(said.frames, snippet_labels, mask=mask).mean() for said in (original, reallocated)
        )
        terms["loss_labels"] = label_weight * (label_mix * own + (1 - label_mix) * carried)
    return jnp.stack(list(terms.values())).sum(), terms


def rskp_scores(
    outputs: BaseOutputs,
    foreground: Float[Array, "_ _"] | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    frame_mix: float = 0.6,
    video_mix: float = 0.6,
) -> InferenceScores:
    """Inference: class probabilities, mixed from both predictions, times attention are thresholded and ranked.

    Args:
      outputs: the network's predictions, without dropout.
      foreground: P^M or another foreground probability in the place of the attention.
      mask: True for real snippets; default all. Scores elsewhere are 0.
      frame_mix: share of the original predictions in the snippets' probabilities.
      video_mix: the same in the video's.

    Returns:
      Scores of the C action classes; background has a part only in the softmax.
    """
    original, reallocated = outputs.own.original, outputs.own.reallocated

    def mixed(share: float, own: Float[Array, "*b k"], carried: Float[Array, "*b k"]) -> Float[Array, "*b c"]:
        return (share * jax.nn.softmax(own) + (1 - share) * jax.nn.softmax(carried))[..., :-1]

    attention = foreground_or(foreground, original.attention)
    frames = mixed(frame_mix, original.frames, reallocated.frames) * attention[..., None]
    frames = without_padding(frames, mask=mask)
    return InferenceScores(frames, frames, mixed(video_mix, original.agnostic, reallocated.agnostic))


def _objective(
    outputs: BaseOutputs, labels: Float[Array, "b c"], mask: Bool[Array, "b t"] | None, moment: Moment
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    settings, network = moment.settings, moment.network
    tokens, of_video = recall(moment.memory, labels)
    x = reallocate(outputs.embedding[0], tokens, mask=mask, token_mask=of_video, weight=network.weight)
    epoch = jnp.asarray(moment.epoch)
    late = epoch >= settings.memory_epoch
    known = late.astype(x.dtype)
    early_again = ~late | (epoch >= settings.late_until)
    options = options_of(rskp_objective, settings) | {
        "memory_weight": settings.memory_weight * known,
        "memory_mix": settings.memory_mix * known,
        "consistency_weight": jnp.where(
            early_again, settings.consistency_weight, settings.late_consistency_weight
        ).astype(x.dtype),
    }
    return rskp_objective(outputs, labels, network.predict(x, mask=mask), moment.snippet_labels, mask=mask, **options)


def _remember(memory: Memory, outputs: BaseOutputs, labels: Float[Array, "b c"]) -> Memory:
    return remember(memory, outputs.own.tokens, outputs.own.token_logits, labels)


BASE = Base(
    THUMOS14,
    RSKPNet,
    _objective,
    rskp_scores,
    first_memory=lambda settings, network, num_classes: Memory.empty(num_classes, network.embedding_dims[0]),
    remember=_remember,
    has_background=True,
)
ZHOU_BASE = replace(BASE, settings=ZHOU, options=(("pseudo_labels", True), ("fusion", "gaussian")))
