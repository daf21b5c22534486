"""ASL: a class branch on all streams together, and an attention trained on its most certain snippets.

Ma et al., "Weakly Supervised Action Selection Learning in Video", CVPR 2021, after the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from casejax import losses
from casejax.labels.self_labels import foreground_labels
from casejax.losses import select_top_k, stream_mean
from casejax.methods.contract import Base, plain
from casejax.methods.layers import attend, check_counts, pointwise, read_streams
from casejax.methods.outputs import BaseOutputs, InferenceScores, Schedule, foreground_or
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key


@dataclass(frozen=True)
class ASLSettings:
    """Settings of ASL; `THUMOS14` are the published ones.

    Attributes:
      schedule: how it is trained.
      localization: how its scores become segments.
      top_k_divisor: one in so many snippets is selected, in training and inference.
      gce_exponent: of the generalized cross-entropy.
      cas_weight: of the class probability beside the mean attention.
    """

    schedule: Schedule
    localization: Localization
    top_k_divisor: int = 8
    gce_exponent: float = 0.7
    cas_weight: float = 1 / 3


THUMOS14 = ASLSettings(
    Schedule(num_snippets=750, batch_size=16, epochs=100, learning_rate=1e-4, weight_decay=5e-4),
    Localization(
        class_threshold=0.25,
        thresholds=tuple(np.arange(0.1, 1, 0.1).tolist()),
        nms="decay_once",
        nms_unit="seconds",
        test_sampling="resampled",
        scale=24,
        outer_ratio=0.2,
        drop_lone_first=True,
    ),
)
"""As in the published command. The value named gamma, 0.2, is in effect the ratio of the outside, since it is passed
in that one's place; the weight of the score is its default, also 0.2."""


class ASLNet(nnx.Module):
    """The network of ASL.

    Two streams of 1024 dimensions and 20 classes make 2,109,974 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      hidden: width of all encoders, and of the embedding.
      cas_weight: of the class probability in the scores that select snippets, beside the mean attention.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, or no stream.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        hidden: int = 512,
        cas_weight: float = 1 / 3,
        rngs: nnx.Rngs,
    ) -> None:
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        self.class_encoder = pointwise(sum(dims), hidden, rngs)
        self.classifier = pointwise(hidden, num_classes, rngs)
        self.embedding_encoders = nnx.List([pointwise(dim, hidden, rngs) for dim in dims])
        self.attention = nnx.List([pointwise(hidden, 1, rngs) for _ in dims])
        self.dims, self.cas_weight = tuple(dims), cas_weight
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
          mask: True for real snippets; features elsewhere are read as zeros. Default all.
          key: not used, since there is no dropout.

        Returns:
          Predictions with one class activation sequence for all streams.

        Raises:
          ValueError: other streams than the network has.
        """
        features = read_streams(features, self.dims, mask=mask)
        joint = jnp.concatenate(features, axis=2)
        cas = self.classifier(jax.nn.relu(self.class_encoder(joint)))
        embedding, attention = attend(self.embedding_encoders, self.attention, features)
        select = losses.calibrate([cas], stream_mean(attention), cas_weight=self.cas_weight)
        return BaseOutputs((cas,), embedding, attention, select)


def asl_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int = 8,
    gce_exponent: float = 0.7,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch: video classification, and for every stream foreground against background.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      mask: True for real snippets; default all.
      top_k_divisor: one in so many snippets is selected.
      gce_exponent: of the generalized cross-entropy.

    Returns:
      The loss, and its terms: `loss_video` and `loss_attention`, which add up to it.
    """
    video, attention = selection_losses(
        outputs, labels, mask=mask, top_k_divisor=top_k_divisor, gce_exponent=gce_exponent
    )
    terms = {"loss_video": video.mean(), "loss_attention": attention.mean()}
    return terms["loss_video"] + terms["loss_attention"], terms


def selection_losses(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    top_k_divisor: int,
    gce_exponent: float,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Losses of the selected snippets: their class logits against the labels, all attention against themselves.

    Returns:
      (B,) cross-entropies of the pooled logits, and (B,) generalized cross-entropies, summed over streams.
    """
    selected = select_top_k(outputs.select_scores, divisor=top_k_divisor, mask=mask)
    foreground = foreground_labels(selected, labels)
    video = stream_mean(
        [losses.video_cross_entropy(losses.selected_mean(cas, selected), labels) for cas in outputs.cas]
    )
    attention = [losses.generalized_bce(a, foreground, exponent=gce_exponent, mask=mask) for a in outputs.attention]
    return video, jnp.stack(attention).sum(axis=0)


def asl_scores(
    outputs: BaseOutputs,
    foreground: Float[Array, "_ _"] | None = None,
    *,
    mask: Bool[Array, "b t"] | None = None,
    cas_weight: float | Float[Array, ""] = 1 / 3,
    top_k_divisor: int = 8,
) -> InferenceScores:
    """Inference: class probabilities and attention are averaged, and that is both thresholded and ranked.

    Args:
      outputs: the network's predictions.
      foreground: P^M or another foreground probability in the place of the mean attention.
      mask: True for real snippets; default all. Scores elsewhere are 0.
      cas_weight: of the class probability; published with P^M: 1/5.
      top_k_divisor: one in so many snippets is selected in the video's scores.
    """
    attention = foreground_or(foreground, stream_mean(outputs.attention))
    fused = losses.calibrate(outputs.cas, attention, cas_weight=cas_weight)
    selected = select_top_k(fused, divisor=top_k_divisor, mask=mask)
    video = stream_mean([jax.nn.softmax(losses.selected_mean(cas, selected)) for cas in outputs.cas])
    fused = losses.without_padding(fused, mask=mask)
    return InferenceScores(fused, fused, video)


BASE = Base(THUMOS14, ASLNet, plain(asl_objective), asl_scores, case_cas_weight=1 / 5)
