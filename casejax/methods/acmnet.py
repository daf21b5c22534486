"""ACM-Net: attention distinguishes actions, background, and the context that accompanies actions.

Qu et al., "ACM-Net: Action Context Modeling Network for Weakly-Supervised Temporal Action Localization", arXiv
2104.02967, 2021, after the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import (
    norm,
    select_top_k,
    selected_mean,
    shared_out,
    soft_cross_entropy,
    time_mean,
    with_background,
    without_padding,
)
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


@dataclass(frozen=True)
class ACMSettings(BackgroundSettings):
    """The settings of ACM-Net."""

    hidden: int = option(2048, "width of the embedding", within="[1, inf)")
    dropout: float = option(
        0.7, "rate before the classifier, on whole snippets and then on their entries", within="[0, 1)"
    )
    input_dropout: float = option(0.0, "rate on features; 0.7 published for ActivityNet", within="[0, 1)")
    attention_dropout: float = option(0.0, "rate before the attention layer; the same", within="[0, 1)")
    top_k_divisor: int = option(
        8, "snippets to one that is pooled by instance attention, in training and inference", within="[1, inf)"
    )
    context_divisor: int = option(3, "the same by context attention", within="[1, inf)")
    background_divisor: int = option(3, "the same by background attention", within="[1, inf)")
    instance_weight: Number = option(
        1.0, "of the classification by instance attention; those by context and background have 1", within="[0, inf)"
    )
    guide_weight: Number = option(
        2e-3, "of the distance between instance attention and what is not background, lambda_1", within="[0, inf)"
    )
    feature_weight: Number = option(5e-5, "of the loss of the features' norms, lambda_2", within="[0, inf)")
    sparse_weight: Number = option(2e-4, "of instance and context attention, lambda_3", within="[0, inf)")
    margin: float = option(50.0, "between the norms of the features of instances, context and background")
    frame_weight: Number = option(
        1.0, "of class probabilities beside attention in what is ranked", within="[0, 1]", inference=True
    )


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
      settings: `hidden` and the rates of dropout.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, no stream, or a rate outside [0, 1).
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: ACMSettings = ACMSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden = settings.hidden
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        rates = settings.dropout, settings.input_dropout, settings.attention_dropout
        check_rates(dropout=rates[0], input_dropout=rates[1], attention_dropout=rates[2])
        self.encoder = TemporalConv(sum(dims), hidden, rngs=rngs)
        self.attention = pointwise(hidden, 3, rngs)
        self.classifier = pointwise(hidden, num_classes + 1, rngs)
        self.dims, self.embedding_dims = tuple(dims), (hidden,)
        self.dropout, self.input_dropout, self.attention_dropout = rates

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
        return Outputs((cas,), (embedding,), (instance,), own=ACMOwn(context, background))


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


def acm_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: ACMSettings = ACMSettings(),
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
      The loss, whose terms add up to it: `loss_instance`, in which background is absent, `loss_context`, in which it is
      present, `loss_background`, in which there is nothing else, `loss_guide`, the distance between instance attention,
      which holds still, and the probability that a snippet is not background, summed over the video, `loss_features`,
      the `norm_loss` of the mean embeddings where each attention is greatest, and `loss_sparse`, instance and context
      attention, summed over the video, mean of both.
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

    loss_instance, instance_feature = branch(instance, settings.top_k_divisor, 1, 0)
    loss_context, context_feature = branch(context, settings.context_divisor, 1, 1)
    loss_background, background_feature = branch(background, settings.background_divisor, 0, 1)
    absent = 1 - jax.nn.softmax(cas * instance[..., None])[..., -1]
    guide = jnp.abs(absent - jax.lax.stop_gradient(instance))
    features = norm_loss(instance_feature, context_feature, background_feature, margin=settings.margin)
    terms = {
        "loss_instance": settings.instance_weight * loss_instance,
        "loss_context": loss_context,
        "loss_background": loss_background,
        "loss_guide": settings.guide_weight * without_padding(guide, mask=mask).sum(axis=1).mean(),
        "loss_features": settings.feature_weight * features.mean(),
        "loss_sparse": settings.sparse_weight * without_padding((instance + context) / 2, mask=mask).sum(axis=1).mean(),
    }
    scores = (cas * instance[..., None])[..., :-1]
    foreground = top_k_foreground(scores, labels, outputs, divisor=settings.top_k_divisor, mask=mask)
    return Loss.of(supervised(terms, outputs, step, mask=mask), foreground)


def acm_scores(
    outputs: Outputs, *, settings: ACMSettings = ACMSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: instance attention is thresholded; class probabilities from its product with the logits are ranked.

    Returns:
      Scores of the C action classes; background has a part only in the softmax.
    """
    attention = without_padding(outputs.attention[0], mask=mask)[..., None]
    acted = outputs.cas[0] * attention
    pooled = losses.top_k_mean(acted, divisor=settings.top_k_divisor, mask=mask)
    frames = without_padding(jax.nn.softmax(acted)[..., :-1], mask=mask)
    thresholded = jnp.broadcast_to(attention, frames.shape)
    ranked = settings.frame_weight * frames + (1 - settings.frame_weight) * thresholded
    return SnippetScores(thresholded, jax.nn.softmax(pooled)[..., :-1], ranked)


METHOD = Method(
    "acmnet",
    ACMSettings(),
    Schedule(epochs=1000, weight_decay=5e-5),
    Localization(
        thresholds=tuple(np.arange(0.15, 1, 0.05).tolist()),
        nms="hard",
        nms_threshold=0.55,
        scale=20,
        outer_ratio=0.2,
        score_weight=0.0,
    ),
    ACMNet,
    acm_loss,
    acm_scores,
    datasets={
        "activitynet13": {
            "input_dropout": 0.7,
            "attention_dropout": 0.7,
            "top_k_divisor": 2,
            "context_divisor": 10,
            "background_divisor": 10,
            "instance_weight": 5.0,
            "guide_weight": 5e-3,
            "sparse_weight": 0.0,
            "frame_weight": 0.7,
            "num_snippets": 75,
            "batch_size": 64,
            "weight_decay": 1e-3,
            "class_threshold": 0.1,
            "thresholds": (0.005, 0.01, 0.015, 0.02),
            "nms_threshold": 0.9,
            "outer_ratio": 0.15,
            "score_weight": 0.25,
        }
    },
)
"""As published. Thresholds are those of instance attention. The published program has further proposals, from class
probabilities at 0.15 and 0.2, which compete with these; here they are left out. It also keeps test videos of fewer than
750 snippets as they are. For ActivityNet 1.3 as last published; there, too, class probabilities give further proposals,
at the same four thresholds."""
