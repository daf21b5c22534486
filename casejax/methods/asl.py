"""ASL: a class branch on all streams together, and an attention trained on its most certain snippets.

Ma et al., "Weakly Supervised Action Selection Learning in Video", CVPR 2021, after the published program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.labels.self_labels import foreground_labels
from casejax.losses import select_top_k, stream_mean
from casejax.methods.case.variants import SELECTION
from casejax.methods.contract import Loss, Method, Number, Outputs, Schedule, Step
from casejax.methods.layers import attend, calibrated_scores, check_counts, pointwise, read_streams
from casejax.records import Localization, SnippetScores, option


@dataclass(frozen=True)
class ASLSettings:
    """The settings of ASL."""

    hidden: int = option(512, "width of all encoders, and of the embedding", within="[1, inf)")
    top_k_divisor: int = option(8, "snippets a selected one, in training and inference", within="[1, inf)")
    gce_exponent: float = option(0.7, "exponent of the generalized cross-entropy", within="[0, 1]")
    cas_weight: Number = option(
        1 / 3,
        "omega, weight of the class probability beside the mean attention where snippets are selected",
        within="[0, 1]",
    )
    test_cas_weight: float = option(1 / 3, "omega in inference", within="[0, 1]", inference=True)


LOCALIZATION = Localization(outer_ratio=0.2)
"""As in the published command. The value named gamma, 0.2, is in effect the ratio of the outside, since it is passed
in that one's place; the weight of the score is its default, also 0.2."""


class ASLNet(nnx.Module):
    """The network of ASL.

    Two streams of 1024 dimensions and 20 classes make 2,109,974 parameters.

    Args:
      dims: feature dimension of each stream; as many streams as there are entries.
      num_classes: action classes C.
      settings: `hidden`.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a dimension or count below 1, or no stream.
    """

    def __init__(
        self, dims: Sequence[int], num_classes: int, *, settings: ASLSettings = ASLSettings(), rngs: nnx.Rngs
    ) -> None:
        hidden = settings.hidden
        check_counts(dims, num_classes=num_classes, hidden=hidden)
        self.class_encoder = pointwise(sum(dims), hidden, rngs)
        self.classifier = pointwise(hidden, num_classes, rngs)
        self.embedding_encoders = nnx.List([pointwise(dim, hidden, rngs) for dim in dims])
        self.attention = nnx.List([pointwise(hidden, 1, rngs) for _ in dims])
        self.dims, self.embedding_dims = tuple(dims), (hidden,) * len(dims)

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
        return Outputs((cas,), embedding, attention)


def asl_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: ASLSettings = ASLSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch: video classification, and for every stream foreground against background.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: when and with what the loss is computed.
      settings: the method's.
      mask: True for real snippets; default all.

    Returns:
      The loss, whose terms `loss_video` and `loss_attention` add up to it.
    """
    return Loss.of(*selection_losses(outputs, labels, settings=settings, mask=mask))


def selection_losses(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    *,
    settings: ASLSettings,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[dict[str, Float[Array, ""]], tuple[Float[Array, "b t"], ...]]:
    """The losses of selected snippets: their class logits against the labels, all attention against themselves.

    Returns:
      `loss_video`, the cross-entropy of the pooled logits, and `loss_attention`, the generalized cross-entropy summed
      over streams; and Q^A, (B, T), one array an embedding.
    """
    scores = losses.calibrate(outputs.cas, stream_mean(outputs.attention), cas_weight=settings.cas_weight)
    selected = select_top_k(scores, divisor=settings.top_k_divisor, mask=mask)
    foreground = foreground_labels(selected, labels)
    video = stream_mean(
        [losses.video_cross_entropy(losses.selected_mean(cas, selected), labels) for cas in outputs.cas]
    )
    attention = [
        losses.generalized_bce(a, foreground, exponent=settings.gce_exponent, mask=mask) for a in outputs.attention
    ]
    terms = {"loss_video": video.mean(), "loss_attention": jnp.stack(attention).sum(axis=0).mean()}
    return terms, (foreground,) * len(outputs.embedding)


def asl_scores(
    outputs: Outputs, *, settings: ASLSettings = ASLSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: class probabilities and attention are averaged, and that is both thresholded and ranked."""
    return calibrated_scores(
        outputs, cas_weight=settings.test_cas_weight, top_k_divisor=settings.top_k_divisor, mask=mask
    )


METHOD = Method(
    "asl",
    ASLSettings(),
    Schedule(epochs=100),
    LOCALIZATION,
    ASLNet,
    asl_loss,
    asl_scores,
    with_head={"test_cas_weight": 1 / 5},
    variants=SELECTION,
)
"""As published."""
