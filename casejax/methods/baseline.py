"""The baseline of CASE: in every stream a class branch, and an attention trained on its most certain snippets.

Liu et al., "Revisiting Foreground and Background Separation in Weakly-supervised Temporal Action Localization: A
Clustering-based Approach", ICCV 2023, appendix F.1, after the published program. Losses and inference are those of ASL.
With the clustering head it is CASE: `casejax.methods.case.network.CaseNet` is the same network in one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import jax
from flax import nnx

from casejax import losses
from casejax.losses import stream_mean
from casejax.methods import asl
from casejax.methods.asl import ASLSettings as BaselineSettings
from casejax.methods.asl import asl_objective as baseline_objective
from casejax.methods.asl import asl_scores as baseline_scores
from casejax.methods.contract import Base, plain
from casejax.methods.layers import attend, check_counts, pointwise, read_streams
from casejax.methods.outputs import BaseOutputs, Schedule
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Key

__all__ = ["THUMOS14", "BaselineNet", "BaselineSettings", "baseline_objective", "baseline_scores"]

_LOCALIZATION: Localization = replace(asl.THUMOS14.localization, outer_ratio=0.15)

THUMOS14 = BaselineSettings(
    Schedule(num_snippets=750, batch_size=16, epochs=300, learning_rate=1e-4, weight_decay=5e-4), _LOCALIZATION
)
"""As published."""


class BaselineNet(nnx.Module):
    """The network of CASE without its clustering head.

    Two streams of 1024 dimensions and 20 classes make 2,120,746 parameters.

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
        self.class_encoders = nnx.List([pointwise(dim, hidden, rngs) for dim in dims])
        self.classifiers = nnx.List([pointwise(hidden, num_classes, rngs) for _ in dims])
        self.embedding_encoders = nnx.List([pointwise(dim, hidden, rngs) for dim in dims])
        self.attention = nnx.List([pointwise(hidden, 1, rngs) for _ in dims])
        self.dims, self.cas_weight, self.embedding_dims = tuple(dims), cas_weight, (hidden,) * len(dims)

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

        Raises:
          ValueError: other streams than the network has.
        """
        features = read_streams(features, self.dims, mask=mask)
        branches = zip(self.class_encoders, self.classifiers, features, strict=True)
        cas = [classifier(jax.nn.relu(encoder(x))) for encoder, classifier, x in branches]
        embedding, attention = attend(self.embedding_encoders, self.attention, features)
        select = losses.calibrate(cas, stream_mean(attention), cas_weight=self.cas_weight)
        return BaseOutputs(tuple(cas), embedding, attention, select)


BASE = Base(THUMOS14, BaselineNet, plain(baseline_objective), baseline_scores, case_cas_weight=1 / 5)
