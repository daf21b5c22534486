"""DELU: the network of CO2-Net, whose class logits are also read as evidence, of videos and of snippets.

Chen et al., "Dual-Evidential Learning for Weakly-supervised Temporal Action Localization", ECCV 2022, after the
published program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from casejax import losses, ot
from casejax.losses import lengths, select_top_k, stream_mean, time_mean
from casejax.methods import co2net
from casejax.methods.co2net import CO2Net as DELUNet  # the same network
from casejax.methods.co2net import co2_scores as delu_scores  # and the same inference
from casejax.methods.contract import Base, Moment, options_of, supervised
from casejax.methods.outputs import BaseOutputs, Schedule
from casejax.records import Localization

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

    Evidence = Callable[[Float[Array, "b c"]], Float[Array, "b c"]]
    VideoLoss = Callable[[Float[Array, "b c"], Float[Array, "b c"]], Float[Array, " b"]]
    Rank = Callable[..., Float[Array, " t"]]  # of (values, *, mask)

__all__ = [
    "ACTIVITYNET12",
    "THUMOS14",
    "DELUNet",
    "DELUSettings",
    "delu_objective",
    "delu_scores",
    "evidence_log_loss",
    "evidence_square_loss",
    "exp_evidence",
    "progress_weights",
    "published_order",
    "uncertainty",
    "video_evidence",
]


def exp_evidence(logits: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Evidence for each class, e^x with x clipped to ±10."""
    return jnp.exp(jnp.clip(logits, -10, 10))


def evidence_log_loss(evidence: Float[Array, "b c"], labels: Float[Array, "b c"]) -> Float[Array, " b"]:
    """Log loss of a Dirichlet distribution, in which certain videos count more, and of a video its unlikely classes.

    With alpha = evidence + 1, S its sum and u = C / S the uncertainty: the sum over classes of g (log S - log alpha),
    where g is proportional to y / alpha and sums to (1 - u) times the number of labels. No gradient goes through u.

    Args:
      evidence: (B, C), not negative.
      labels: (B, C) zeros and ones.

    Returns:
      (B,) losses; 0 for a video without a label.
    """
    alpha = evidence + 1
    total = alpha.sum(axis=1, keepdims=True)
    certainty = 1 - jax.lax.stop_gradient(labels.shape[1] / total)
    share = labels / alpha
    mass = share.sum(axis=1, keepdims=True)
    weight = certainty * labels.sum(axis=1, keepdims=True) * share / jnp.where(mass > 0, mass, 1)
    return (weight * (jnp.log(total) - jnp.log(alpha))).sum(axis=1)


def evidence_square_loss(evidence: Float[Array, "b c"], labels: Float[Array, "b c"]) -> Float[Array, " b"]:
    """Squared distance of the mean of a Dirichlet distribution from the labels, as published for ActivityNet."""
    alpha = evidence + 1
    return ((labels - alpha / alpha.sum(axis=1, keepdims=True)) ** 2).sum(axis=1)


@dataclass(frozen=True)
class DELUSettings(co2net.CO2Settings):
    """Settings of DELU beside those of CO2-Net; `THUMOS14` and `ACTIVITYNET12` are the published ones.

    Attributes:
      guide_weight: 0.4 here.
      evidence_divisor: one in so many snippets, those of highest attention, gives evidence for the video.
      evidence_weight: of the loss of their evidence.
      uncertain_weight: of the guidance that is weighted by uncertainty.
      amplitude: greatest difference of that weight from 1.
      evidence: from logits to evidence.
      video_loss: of evidence and labels.
    """

    guide_weight: float = 0.4
    evidence_divisor: int = 9
    evidence_weight: float = 1.3
    uncertain_weight: float = 0.4
    amplitude: float = 0.7
    evidence: Evidence = exp_evidence
    video_loss: VideoLoss = evidence_log_loss


_LOCALIZATION: Localization = replace(
    co2net.LOCALIZATION, thresholds=tuple(np.linspace(0.1, 0.9, 20).tolist()), min_snippets=2
)

THUMOS14 = DELUSettings(
    Schedule(num_snippets=320, batch_size=10, epochs=250, learning_rate=5e-5, weight_decay=1e-3, similar_pairs=3),
    _LOCALIZATION,
)
"""As in the published command."""

ACTIVITYNET12 = DELUSettings(
    Schedule(num_snippets=60, batch_size=10, epochs=48, learning_rate=3e-5, weight_decay=5e-4, similar_pairs=3),
    _LOCALIZATION,
    top_k_divisor=5,
    smoothing=13,
    guide_weight=0.8,
    evidence_divisor=5,
    evidence_weight=1.2,
    uncertain_weight=0.2,
    amplitude=0.2,
    evidence=jax.nn.relu,
    video_loss=evidence_square_loss,
)
"""As published."""


def video_evidence(
    suppressed: Float[Array, "b t k"],
    attention: Float[Array, "b t"],
    *,
    mask: Bool[Array, "b t"] | None = None,
    divisor: int = 9,
    evidence: Evidence = exp_evidence,
) -> Float[Array, "b c"]:
    """Evidence for each class of a video, from the mean logits of its most attended snippets.

    Args:
      suppressed: (B, T, C + 1) suppressed class logits; the last, background, is left out.
      attention: (B, T).
      mask: True for real snippets; default all.
      divisor: one in so many snippets is taken, those of highest attention.
      evidence: from logits to evidence.
    """
    attended = select_top_k(attention[..., None], divisor=divisor, mask=mask)
    logits = suppressed[..., :-1]
    return evidence(losses.selected_mean(logits, jnp.broadcast_to(attended, logits.shape)))


def uncertainty(suppressed: Float[Array, "b t k"]) -> Float[Array, "b t"]:
    """Uncertainty of snippets, C over the sum of C + 1 times 1 + evidence; background counts as evidence, too."""
    return (suppressed.shape[2] - 1) / (exp_evidence(suppressed) + 1).sum(axis=2)


def published_order(values: Float[Array, " t"], *, mask: Bool[Array, " t"] | None = None) -> Float[Array, " t"]:
    """What the published program uses instead of a rank: the permutation that sorts, as a share of T."""
    return 1 - ot.published_rank(-values, mask=mask)


def progress_weights(
    uncertainty: Float[Array, "b t"],
    progress: float | Float[Array, ""],
    *,
    mask: Bool[Array, "b t"] | None = None,
    amplitude: float | Float[Array, ""] = 0.7,
    rank: Rank = ot.ascending_rank,
) -> Float[Array, "b t"]:
    """Weights of snippets: at first the more uncertain count more, in the end the more certain.

    1 + amplitude * tanh(theta * delta), where theta goes from -1 to 1 by rank and delta from 1 to -1 by progress.

    Args:
      uncertainty: (B, T).
      progress: share of the training that is done, in [0, 1].
      mask: True for real snippets; default all.
      amplitude: greatest difference of a weight from 1.
      rank: `ot.ascending_rank`, or `published_order` as published.

    Returns:
      (B, T) without a gradient.
    """
    share = jax.vmap(lambda values, own: rank(values, mask=own))(jax.lax.stop_gradient(uncertainty), mask)
    theta = 2 * share - 1 - 1 / lengths(uncertainty, mask=mask)[:, None]
    return 1 + amplitude * jnp.tanh(theta * (1 - 2 * jnp.asarray(progress, theta.dtype)))


def delu_objective(
    outputs: BaseOutputs,
    labels: Float[Array, "b c"],
    progress: float | Float[Array, ""],
    *,
    mask: Bool[Array, "b t"] | None = None,
    pairs: int = 3,
    top_k_divisor: int = 7,
    margin: float = 0.5,
    norm_weight: float | Float[Array, ""] = 0.8,
    guide_weight: float | Float[Array, ""] = 0.4,
    pair_weight: float | Float[Array, ""] = 1.0,
    mutual_weight: float | Float[Array, ""] = 1.0,
    evidence_divisor: int = 9,
    evidence_weight: float | Float[Array, ""] = 1.3,
    uncertain_weight: float | Float[Array, ""] = 0.4,
    amplitude: float | Float[Array, ""] = 0.7,
    evidence: Evidence = exp_evidence,
    video_loss: VideoLoss = evidence_log_loss,
    rank: Rank = ot.ascending_rank,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of one batch.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      progress: share of the training that is done, in [0, 1].
      mask: True for real snippets; default all.
      pairs: see `co2net.co2_objective`, and so with all up to `mutual_weight`.
      top_k_divisor: one in so many snippets is pooled.
      margin: of the co-activity loss.
      norm_weight: alpha_1.
      guide_weight: alpha_2.
      pair_weight: alpha_3.
      mutual_weight: alpha_4.
      evidence_divisor: one in so many snippets is taken in `video_evidence`.
      evidence_weight: of the loss of the videos' evidence.
      uncertain_weight: of the guidance that is weighted by the snippets' uncertainty.
      amplitude: of `progress_weights`.
      evidence: from pooled logits to evidence of the video.
      video_loss: `evidence_log_loss` or `evidence_square_loss`.
      rank: of `progress_weights`; `published_order` as published.

    Returns:
      The loss, and its terms, which add up to it: those of CO2-Net, `loss_evidence` and `loss_uncertain`.
    """
    _, terms = co2net.co2_objective(
        outputs,
        labels,
        mask=mask,
        pairs=pairs,
        top_k_divisor=top_k_divisor,
        margin=margin,
        norm_weight=norm_weight,
        guide_weight=guide_weight,
        pair_weight=pair_weight,
        mutual_weight=mutual_weight,
    )
    cas, attention = outputs.cas[0], outputs.own.attention
    fused = stream_mean(attention)
    suppressed = co2net.suppress(cas, fused)
    found = video_evidence(suppressed, fused, mask=mask, divisor=evidence_divisor, evidence=evidence)
    weights = progress_weights(uncertainty(suppressed), progress, mask=mask, amplitude=amplitude, rank=rank)
    guide = time_mean(weights * co2net.guide_distance((fused, *attention), cas), mask=mask)
    terms |= {
        "loss_evidence": evidence_weight * video_loss(found, labels).mean(),
        "loss_uncertain": uncertain_weight * guide.mean(),
    }
    return jnp.stack(list(terms.values())).sum(), terms


def _objective(
    outputs: BaseOutputs, labels: Float[Array, "b c"], mask: Bool[Array, "b t"] | None, moment: Moment
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    options = options_of(delu_objective, moment.settings)
    loss, terms = delu_objective(outputs, labels, moment.progress, mask=mask, pairs=moment.pairs, **options)
    return supervised(outputs, mask, moment, loss, terms)


BASE = Base(THUMOS14, DELUNet, _objective, delu_scores, has_background=True)
