"""RSKP: the embedding of a snippet is mixed with those of a few representative snippets, of its own and other videos.

Huang et al., "Weakly Supervised Temporal Action Localization via Representative Snippet Knowledge Propagation",
CVPR 2022, after the published program, and the settings with which Zhou et al. (CVPR 2023) train it on fused pseudo
labels (`casejax.localize.fusion`, `casejax.labels.pseudo_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.labels.pseudo_labels import pseudo_label_loss
from casejax.losses import time_mean, unit, without_padding
from casejax.methods.contract import WHOLE, BackgroundSettings, Loss, Method, Number, Outputs, Schedule, Step
from casejax.methods.layers import (
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    pointwise,
    read_streams,
    top_k_foreground,
    xavier,
)
from casejax.methods.representatives import Memory, reallocate, recall, refine_tokens, remember
from casejax.records import SnippetScores, option


@dataclass(frozen=True)
class RSKPSettings(BackgroundSettings):
    """The settings of RSKP; in a run of more or fewer epochs than published, epochs are stretched."""

    hidden: int = option(2048, "width D of the embedding", within="[1, inf)")
    num_tokens: int = option(8, "representative snippets of a video", within="[1, inf)")
    num_iters: int = option(2, "steps by which they are found", within="[1, inf)")
    cosine_scale: float = option(20.0, "factor on all cosines with classes and foreground", within="(0, inf)")
    token_weight: float = option(0.5, "of the tokens where snippets are described anew", within="[0, 1]")
    dropout: float = option(0.6, "rate on the embedding", within="[0, 1)")
    published_epochs: int = option(200, "epochs of the published run", flag=False)
    rates: tuple[tuple[int, float], ...] = option(
        ((0, 1.0),),
        "epochs, counted from 0, and the factor on the learning rate from each on; the first is 0",
        flag=False,
    )
    memory_epoch: int = option(100, "epochs before other videos' tokens take part", within="[0, inf)")
    late_until: int = option(200, "epochs until which the late consistency weight holds", within="[0, inf)")
    divisor: int = option(
        8, "of the attention loss, snippets to one of the highest, and to one of the lowest", within="[1, inf)"
    )
    classwise_weight: Number = option(0.2, "of the classification that models background, lambda_b", within="[0, inf)")
    attention_weight: Number = option(0.1, "of the attention loss, lambda_a", within="[0, inf)")
    consistency_weight: Number = option(
        1.0, "of the consistency loss, lambda_s, until other videos' tokens take part", within="[0, inf)"
    )
    late_consistency_weight: Number = option(0.5, "the same from then on", within="[0, inf)")
    temperature: Number = option(0.2, "of both sides of the consistency loss", within="(0, inf)")
    memory_weight: Number = option(0.5, "of the classifications through the tokens of other videos", within="[0, inf)")
    memory_mix: Number = option(0.2, "share of these in the consistency loss's target", within="[0, 1]")
    label_mix: Number = option(0.8, "share of the video's own description in the pseudo-label loss", within="[0, 1]")
    frame_mix: Number = option(
        0.6,
        "share of the video's own description in the class probabilities of snippets, in inference",
        within="[0, 1]",
        inference=True,
    )
    video_mix: Number = option(0.6, "the same in the class probabilities of the video", within="[0, 1]", inference=True)


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
      settings: the counts, `cosine_scale`, `token_weight` and `dropout`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or a rate outside [0, 1).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: RSKPSettings = RSKPSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden, num_tokens = settings.hidden, settings.num_tokens
        counts = {"hidden": hidden, "num_tokens": num_tokens, "num_iters": settings.num_iters}
        check_counts(dims, num_classes=num_classes, **counts)
        check_rates(dropout=settings.dropout)

        def directions(count: int) -> nnx.Param[Array]:
            return nnx.Param(xavier(hidden, count)[0](rngs.params(), (count, hidden)))

        self.encoder = pointwise(sum(dims), hidden, rngs, init=xavier)
        self.tokens = directions(num_tokens)
        self.class_centers = directions(num_classes + 1)
        # It starts opposite to background and is then trained freely.
        self.foreground_center = nnx.Param(-self.class_centers[...][-1])
        self.dims, self.embedding_dims = tuple(dims), (hidden,)
        self.num_iters, self.scale = settings.num_iters, settings.cosine_scale
        self.weight, self.dropout = settings.token_weight, settings.dropout

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
          mask: True for real snippets; default all.
          key: dropout of this call; None for none.

        Returns:
          Predictions with one stream, background the last class; `own` is an `RSKPOwn`.

        Raises:
          ValueError: other streams than the network has.
        """
        joint = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        x = dropout(jax.nn.relu(self.encoder(joint)), self.dropout, next(dropout_keys(key)))
        tokens = jnp.broadcast_to(self.tokens[...][None], (x.shape[0], *self.tokens[...].shape))
        tokens = refine_tokens(tokens, x, mask=mask, num_iters=self.num_iters)
        original = self.predict(x, mask=mask)
        reallocated = self.predict(reallocate(x, tokens, mask=mask, weight=self.weight), mask=mask)
        own = RSKPOwn(original, reallocated, tokens, self._classify(tokens))
        return Outputs((original.frames,), (x,), (original.attention,), own=own)

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


def rskp_terms(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    remembered: Prediction | None = None,
    *,
    settings: RSKPSettings = RSKPSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """The terms of the loss of one batch, with the weights as the settings have them.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: `snippet_labels` of which are what snippets are trained towards, if there are any.
      remembered: what the embedding says once it is re-described through other videos' tokens, by
        `representatives.recall`, `reallocate` and `RSKPNet.predict`; None before there is a memory.
      settings: the method's.
      mask: True for real snippets; default all.

    Returns:
      `loss_agnostic`, `loss_classwise`, `loss_attention`, `loss_consistency` and, with snippet labels, `loss_labels`.
    """
    original, reallocated = outputs.own.original, outputs.own.reallocated
    descriptions: list[tuple[Any, Prediction]] = [(1.0, original), (1.0, reallocated)]
    target = reallocated.frames
    if remembered is not None:
        descriptions.append((settings.memory_weight, remembered))
        target = settings.memory_mix * remembered.frames + (1 - settings.memory_mix) * target

    def classify(logits: Sequence[Float[Array, "b k"]], background: float) -> Float[Array, ""]:
        targets = losses.with_background(labels, background)
        weighted = [
            weight * losses.video_cross_entropy(x, targets, smoothing=0.0).mean()
            for (weight, _), x in zip(descriptions, logits, strict=True)
        ]
        return jnp.stack(weighted).sum()

    consistency = consistency_loss(original.frames, target, mask=mask, temperature=settings.temperature)
    terms = {
        "loss_agnostic": classify([said.agnostic for _, said in descriptions], 0),
        "loss_classwise": settings.classwise_weight * classify([said.classwise for _, said in descriptions], 1),
        "loss_attention": settings.attention_weight
        * attention_loss(original.attention, mask=mask, divisor=settings.divisor).mean(),
        "loss_consistency": settings.consistency_weight * consistency.mean(),
    }
    if step.snippet_labels is not None:
        own, carried = (
            pseudo_label_loss(said.frames, step.snippet_labels, mask=mask).mean() for said in (original, reallocated)
        )
        terms["loss_labels"] = settings.label_mix * own + (1 - settings.label_mix) * carried
    return terms


def rskp_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: RSKPSettings = RSKPSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch, the sum of `rskp_terms` with the weights of its epoch.

    `step.network` describes snippets anew, by the tokens in `step.memory`.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: when and with what the loss is computed.
      settings: the method's.
      mask: True for real snippets; default all.
    """
    network = step.network
    tokens, of_video = recall(step.memory, labels)
    x = reallocate(outputs.embedding[0], tokens, mask=mask, token_mask=of_video, weight=network.weight)
    epoch = _epoch(settings, step)
    late = epoch >= settings.memory_epoch
    known = late.astype(x.dtype)
    early_again = ~late | (epoch >= settings.late_until)
    now = replace(
        settings,
        consistency_weight=jnp.where(early_again, settings.consistency_weight, settings.late_consistency_weight).astype(
            x.dtype
        ),
        memory_weight=settings.memory_weight * known,
        memory_mix=settings.memory_mix * known,
    )
    terms = rskp_terms(outputs, labels, step, network.predict(x, mask=mask), settings=now, mask=mask)
    scores = jax.nn.softmax(outputs.cas[0])[..., :-1] * outputs.attention[0][..., None]
    return Loss.of(terms, top_k_foreground(scores, labels, outputs, mask=mask))


def _epoch(settings: RSKPSettings, step: Step) -> Float[Array, ""]:
    """Epochs done, in a run of as many as are published; a run of half as many goes through them twice as fast."""
    return jnp.asarray(step.progress * settings.published_epochs)


def rate(settings: RSKPSettings, step: Step) -> Number:
    """Factor on the learning rate."""
    if len(settings.rates) == 1:
        return 1.0
    first, factors = (jnp.asarray(column) for column in zip(*settings.rates, strict=True))
    return factors[(_epoch(settings, step) >= first).sum() - 1]


def rskp_scores(
    outputs: Outputs, *, settings: RSKPSettings = RSKPSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: class probabilities of both descriptions times attention, both thresholded and ranked.

    Returns:
      Scores of the C action classes; background has a part only in the softmax.
    """
    original, reallocated = outputs.own.original, outputs.own.reallocated

    def mixed(share: Number, own: Float[Array, "*b k"], carried: Float[Array, "*b k"]) -> Float[Array, "*b c"]:
        return (share * jax.nn.softmax(own) + (1 - share) * jax.nn.softmax(carried))[..., :-1]

    attention = outputs.attention[0]
    frames = mixed(settings.frame_mix, original.frames, reallocated.frames) * attention[..., None]
    frames = without_padding(frames, mask=mask)
    return SnippetScores(frames, mixed(settings.video_mix, original.agnostic, reallocated.agnostic))


METHOD = Method(
    "rskp",
    RSKPSettings(),
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
    replace(
        WHOLE,
        class_threshold=0.1,
        thresholds=tuple(np.arange(0.001, 0.04, 0.002).tolist()),
        nms="hard",
        nms_threshold=0.5,
        min_snippets=2,
    ),
    RSKPNet,
    rskp_loss,
    rskp_scores,
    first_memory=lambda settings, network, num_classes: Memory.empty(num_classes, settings.hidden),
    remember=lambda memory, outputs, labels: remember(memory, outputs.own.tokens, outputs.own.token_logits, labels),
    rate=rate,
)
"""As published, but for training videos of more than 1,500 snippets, which are cropped."""

ZHOU = replace(
    METHOD,
    name="zhou",
    settings=RSKPSettings(
        pseudo_labels=True,
        published_epochs=350,
        rates=((0, 1.0), (80, 0.8), (200, 0.4096), (245, 0.01024), (260, 0.00512)),
        frame_mix=0.85,
    ),
    schedule=replace(METHOD.schedule, epochs=350),
    localization=replace(
        METHOD.localization, class_threshold=0.16, outer_ratio=0.0785, outer_power=0.9, fusion="gaussian"
    ),
)
"""RSKP as Zhou et al. train it. After 200 epochs the consistency weight is 1 again, pseudo labels set in
(`labels.label_target`, `label_weight`), and fused proposals take the place of suppressed ones."""
