"""ACM-Net: attention distinguishes actions, background, and the context that accompanies actions.

Qu et al., "ACM-Net: Action Context Modeling Network for Weakly-Supervised Temporal Action Localization", arXiv
2104.02967, 2021, after the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax.losses import (
    norm,
    select_top_k,
    selected_mean,
    shared_out,
    soft_cross_entropy,
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
    pointwise,
    read_streams,
)
from casejax.methods.outputs import BaseOutputs, InferenceScores, Schedule, foreground_or
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key


@dataclass(frozen=True)
class ACMSettings:
    """Settings of ACM-Net; `THUMOS14` and `ACTIVITYNET13` are the published ones.

    Attributes:
      schedule: how it is trained.
      localization: how its scores become segments.
      input_dropout: rate on features.
      attention_dropout: rate before the attention layer.
      top_k_divisor: one in so many snippets is pooled by instance attention, in training and inference.
      context_divisor: the same by context attention.
      background_divisor: the same by background attention.
      instance_weight: of the classification by instance attention; those by context and background have 1.
      guide_weight: of the distance between instance attention and what is not background, lambda_1.
      feature_weight: of the loss of the features' norms, lambda_2.
      sparse_weight: of instance and context attention, lambda_3.
      margin: between the norms of the features of instances, context and background.
      frame_weight: of class probabilities beside attention in what is ranked.
    """

    schedule: Schedule
    localization: Localization
    input_dropout: float = 0.0
    attention_dropout: float = 0.0
    top_k_divisor: int = 8
    context_divisor: int = 3
    background_divisor: int = 3
    instance_weight: float = 1.0
    guide_weight: float = 2e-3
    feature_weight: float = 5e-5
    sparse_weight: float = 2e-4
    margin: float = 50.0
    frame_weight: float = 1.0


THUMOS14 = ACMSettings(
    Schedule(num_snippets=750, batch_size=16, epochs=1000, learning_rate=1e-4, weight_decay=5e-5),
    Localization(
        class_threshold=0.25,
        thresholds=tuple(np.arange(0.15, 1, 0.05).tolist()),
        nms="hard",
        nms_threshold=0.55,
        nms_unit="seconds",
        test_sampling="resampled",
        scale=20,
        outer_ratio=0.2,
        score_weight=0.0,
        drop_lone_first=True,
    ),
)
"""As published. Thresholds are those of instance attention. The published program has further proposals, from class
probabilities at 0.15 and 0.2, which compete with these; here they are left out. It also keeps test videos of fewer than
750 snippets as they are."""

ACTIVITYNET13 = ACMSettings(
    Schedule(num_snippets=75, batch_size=64, epochs=1000, learning_rate=1e-4, weight_decay=1e-3),
    Localization(
        class_threshold=0.1,
        thresholds=(0.005, 0.01, 0.015, 0.02),
        nms="hard",
        nms_threshold=0.9,
        nms_unit="seconds",
        test_sampling="resampled",
        scale=20,
        outer_ratio=0.15,
        score_weight=0.25,
        drop_lone_first=True,
    ),
    input_dropout=0.7,
    attention_dropout=0.7,
    top_k_divisor=2,
    context_divisor=10,
    background_divisor=10,
    instance_weight=5.0,
    guide_weight=5e-3,
    sparse_weight=0.0,
    frame_weight=0.7,
)
"""As last published, also without the proposals from class probabilities (there at the same four thresholds)."""


class ACMOwn(NamedTuple):
    """What only ACM-Net has.

    Attributes:
      context: (B, T) attention to context; attention to instances, to context and to background adds up to 1.
      background: (B, T) attention to background.
    """

    context: Float[Array, "b t"]
    background: Float[Array, "b t"]


class ACMNet(nnx.Module):
    """The network of ACM-Net.

    Two streams of 1024 dimensions and 20 classes make 12,634,136 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C; background is added to them.
      hidden: width of the embedding.
      dropout: rate before the classifier, on whole snippets and then on their entries.
      input_dropout: rate on features; 0.7 published for ActivityNet.
      attention_dropout: rate before the attention layer; the same.
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
        dropout: float = 0.7,
        input_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        check_rates(dropout=dropout, input_dropout=input_dropout, attention_dropout=attention_dropout)
        self.encoder = TemporalConv(sum(dims), hidden, rngs=rngs)
        self.attention = pointwise(hidden, 3, rngs)
        self.classifier = pointwise(hidden, num_classes + 1, rngs)
        self.dims, self.embedding_dims = tuple(dims), (hidden,)
        self.dropout, self.input_dropout, self.attention_dropout = dropout, input_dropout, attention_dropout

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
          Predictions for all streams together, background last in `cas`. The attention is that to instances; `own`
          is an `ACMOwn`. The embedding has no dropout of its own.

        Raises:
          ValueError: other streams than the network has.
        """
        x = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        keys = dropout_keys(key)
        embedding = jax.nn.relu(self.encoder(dropout(x, self.input_dropout, next(keys)), mask=mask))
        logits = self.attention(dropout(embedding, self.attention_dropout, next(keys)))
        instance, context, background = jnp.moveaxis(jax.nn.softmax(logits), 2, 0)
        kept = dropout(jnp.ones_like(instance), self.dropout, next(keys))
        cas = self.classifier(dropout(embedding * kept[..., None], self.dropout, next(keys)))
        select = (cas * instance[..., None])[..., :-1]
        return BaseOutputs((cas,), (embedding,), (instance,), select, ACMOwn(context, background))


def norm_loss(
    instance: Float[Array, "b d"],
    context: Float[Array, "b d"],
    background: Float[Array, "b d"],
    *,
    margin: float = 50.0,
) -> Float[Array, " b"]:
    """Features of instances are to be longer than those of context, these longer than background's, and these 0.

    With the norms i, c and b: (max(margin - i + c, 0) + max(margin - c + b, 0) + b)^2.

    Args:
      instance: (B, D) mean features of the snippets with most attention to instances.
      context: (B, D) the same of context.
      background: (B, D) the same of background.
      margin: by which norms are to differ.

    Returns:
      (B,) losses.
    """
    i, c, b = norm(instance), norm(context), norm(background)
    return (jax.nn.relu(margin - i + c) + jax.nn.relu(margin - c + b) + b) ** 2


def acm_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int = 8,
    context_divisor: int = 3,
    background_divisor: int = 3,
    instance_weight: float | Float[Array, ""] = 1.0,
    guide_weight: float | Float[Array, ""] = 2e-3,
    feature_weight: float | Float[Array, ""] = 5e-5,
    sparse_weight: float | Float[Array, ""] = 2e-4,
    margin: float = 50.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      mask: True for real snippets; default all.
      top_k_divisor: one in so many snippets is pooled by instance attention.
      context_divisor: the same by context attention.
      background_divisor: the same by background attention.
      instance_weight: of the classification by instance attention.
      guide_weight: of the distance between instance attention, which gets no gradient, and the probability that a
        snippet is not background, summed over the video.
      feature_weight: of `norm_loss` of the mean embeddings where each attention is greatest.
      sparse_weight: of instance and context attention, summed over the video, mean of both.
      margin: of `norm_loss`.

    Returns:
      The loss, and its terms, which add up to it: `loss_instance`, in which background is absent, `loss_context`, in
      which it is present, `loss_background`, in which there is nothing else, `loss_guide`, `loss_features` and
      `loss_sparse`.
    """
    cas, (instance,) = outputs.cas[0], outputs.attention
    context, background = outputs.own

    def branch(
        attention: Float[Array, "b t"], divisor: int, actions: float, last: float
    ) -> tuple[Float[Array, ""], Float[Array, "b d"]]:
        acted = cas * attention[..., None]
        ranked = jnp.concatenate([acted, attention[..., None]], axis=2)
        selected = select_top_k(ranked, divisor=divisor, mask=mask)
        targets = shared_out(with_background(actions * labels, last))
        loss = soft_cross_entropy(selected_mean(acted, selected[..., :-1]), targets)
        return loss.mean(), time_mean(outputs.embedding[0], mask=selected[..., -1])

    loss_instance, instance_feature = branch(instance, top_k_divisor, 1, 0)
    loss_context, context_feature = branch(context, context_divisor, 1, 1)
    loss_background, background_feature = branch(background, background_divisor, 0, 1)
    absent = 1 - jax.nn.softmax(cas * instance[..., None])[..., -1]
    guide = jnp.abs(absent - jax.lax.stop_gradient(instance))
    features = norm_loss(instance_feature, context_feature, background_feature, margin=margin)
    terms = {
        "loss_instance": instance_weight * loss_instance,
        "loss_context": loss_context,
        "loss_background": loss_background,
        "loss_guide": guide_weight * without_padding(guide, mask=mask).sum(axis=1).mean(),
        "loss_features": feature_weight * features.mean(),
        "loss_sparse": sparse_weight * without_padding((instance + context) / 2, mask=mask).sum(axis=1).mean(),
    }
    return jnp.stack(list(terms.values())).sum(), terms


def acm_scores(
    outputs: BaseOutputs,
    foreground: Float[Array, "_ _"] | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int = 8,
    frame_weight: float | Float[Array, ""] = 1.0,
) -> InferenceScores:
    """Inference: instance attention is thresholded; class probabilities from its product with the logits are ranked.

    Args:
      outputs: the network's predictions, without dropout.
      foreground: P^M or another foreground probability, used instead of instance attention throughout.
      mask: True for real snippets; default all. Scores elsewhere are 0.
      top_k_divisor: one in so many snippets is pooled in the video's scores.
      frame_weight: of class probabilities in what is ranked; attention has the rest of 1.

    Returns:
      Scores of the C action classes; background has a part only in the softmax.
    """
    attention = without_padding(foreground_or(foreground, outputs.attention[0]), mask=mask)[..., None]
    acted = outputs.cas[0] * attention
    pooled = top_k_mean(acted, divisor=top_k_divisor, mask=mask)
    frames = without_padding(jax.nn.softmax(acted)[..., :-1], mask=mask)
    thresholded = jnp.broadcast_to(attention, frames.shape)
    ranked = frame_weight * frames + (1 - frame_weight) * thresholded
    return InferenceScores(thresholded, ranked, jax.nn.softmax(pooled)[..., :-1])


def _objective(
    outputs: BaseOutputs, labels: Float[Array, "b c"], mask: Bool[Array, "b t"] | None, moment: Moment
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    loss, terms = acm_objective(outputs, labels, mask=mask, **options_of(acm_objective, moment.settings))
    return supervised(outputs, mask, moment, loss, terms)


BASE = Base(THUMOS14, ACMNet, _objective, acm_scores, has_background=True)
