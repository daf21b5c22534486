"""DELU: the network of CO2-Net, whose class logits are also read as evidence, of videos and of snippets.

Chen et al., "Dual-Evidential Learning for Weakly-supervised Temporal Action Localization", ECCV 2022, after the
published program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from casejax import losses, ot
from casejax.array_types import Array, Bool, Float
from casejax.losses import lengths, select_top_k, stream_mean, time_mean
from casejax.methods import co2net
from casejax.methods.contract import Loss, Number, Outputs, Step, supervised
from casejax.records import option

Evidence = Callable[[Float[Array, "b c"]], Float[Array, "b c"]]
VideoLoss = Callable[[Float[Array, "b c"], Float[Array, "b c"]], Float[Array, " b"]]
Rank = Callable[..., Float[Array, " t"]]  # of (values, *, mask)


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
    """The settings of DELU, beside those of CO2-Net."""

    guide_weight: Number = option(
        0.4, "of the distance between attention and what is not background, alpha_2", within="[0, inf)"
    )
    evidence_divisor: int = option(
        9, "snippets to one of those, by attention, that speak for the video", within="[1, inf)"
    )
    evidence_weight: Number = option(1.3, "of the loss of their evidence", within="[0, inf)")
    uncertain_weight: Number = option(0.4, "of the guidance that is weighted by uncertainty", within="[0, inf)")
    amplitude: Number = option(0.7, "by how much that weight departs from 1 at the most", within="[0, 1]")
    evidence: Literal["exp", "relu"] = option("exp", "from logits to evidence")
    video_loss: Literal["log", "square"] = option("log", "of evidence and labels; square as published for ActivityNet")
    uncertainty_rank: Literal["true", "argsort"] = option(
        "true", "of uncertainty: its rank, or the permutation that sorts it, as published"
    )


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


EVIDENCE = {"exp": exp_evidence, "relu": jax.nn.relu}
VIDEO_LOSSES = {"log": evidence_log_loss, "square": evidence_square_loss}
RANKS = {"true": ot.ascending_rank, "argsort": published_order}


def delu_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: DELUSettings = DELUSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch: that of CO2-Net, and of the evidence of videos and snippets.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: when and with what the loss is computed.
      settings: the method's.
      mask: True for real snippets; default all.

    Returns:
      The loss, whose terms add up to it: those of CO2-Net, `loss_evidence` and `loss_uncertain`.
    """
    terms = co2net.co2_terms(outputs, labels, step, settings=settings, mask=mask)
    cas, attention = outputs.cas[0], outputs.own.attention
    fused = stream_mean(attention)
    suppressed = co2net.suppress(cas, fused)
    found = video_evidence(
        suppressed, fused, mask=mask, divisor=settings.evidence_divisor, evidence=EVIDENCE[settings.evidence]
    )
    weights = progress_weights(
        uncertainty(suppressed),
        step.progress,
        mask=mask,
        amplitude=settings.amplitude,
        rank=RANKS[settings.uncertainty_rank],
    )
    guide = time_mean(weights * co2net.guide_distance((fused, *attention), cas), mask=mask)
    terms |= {
        "loss_evidence": settings.evidence_weight * VIDEO_LOSSES[settings.video_loss](found, labels).mean(),
        "loss_uncertain": settings.uncertain_weight * guide.mean(),
    }
    foreground = co2net.co2_foreground(outputs, labels, settings=settings, mask=mask)
    return Loss.of(supervised(terms, outputs, step, mask=mask), foreground)


METHOD = replace(
    co2net.METHOD,
    name="delu",
    settings=DELUSettings(),
    schedule=replace(co2net.METHOD.schedule, num_snippets=320),
    localization=replace(co2net.LOCALIZATION, thresholds=tuple(np.linspace(0.1, 0.9, 20).tolist()), min_snippets=2),
    loss=delu_loss,
    datasets={
        "activitynet12": {
            **co2net.METHOD.datasets["activitynet12"],
            "guide_weight": 0.8,
            "evidence_divisor": 5,
            "evidence_weight": 1.2,
            "uncertain_weight": 0.2,
            "amplitude": 0.2,
            "evidence": "relu",
            "video_loss": "square",
        }
    },
)
"""As in the published commands. Network and inference are those of CO2-Net."""
