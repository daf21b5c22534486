"""The loss of the two-branch network of CASE, without its clusters (Eq. 14)."""

from __future__ import annotations

import jax.numpy as jnp

from casejax import losses
from casejax.array_types import Array, Bool, Float
from casejax.labels import foreground_labels
from casejax.methods.case.settings import CaseSettings
from casejax.methods.contract import Loss, Outputs, Step


def case_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step = Step(),
    *,
    settings: CaseSettings = CaseSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of the two-branch network, without its clusters: the terms of Eq. 14 of CASE for video and attention.

    Args:
      outputs: the network's predictions for B videos.
      labels: (B, C) video-level labels, zeros and ones.
      step: omega falls to its value over the first `warmup_epochs`.
      settings: the method's.
      mask: True for real snippets; default all.
    """
    streams = range(len(outputs.cas))
    rest = jnp.clip(1 - (step.done + 1) / jnp.maximum(settings.warmup_epochs * step.steps_per_epoch, 1e-9), 0, 1)
    cas_weight = settings.cas_weight + (1 - settings.cas_weight) * rest
    loss_video, loss_attention, foreground = {}, {}, {}
    for group in stream_groups(len(streams), together=settings.co_label_selection):
        selected, group_foreground = group_selection(
            outputs, group, labels, cas_weight=cas_weight, settings=settings, mask=mask
        )
        for s in group:
            foreground[s] = group_foreground
            video = losses.pooled(outputs.cas[s], selected, probabilities=settings.pooling == "probabilities")
            loss_video[s] = losses.video_cross_entropy(video, labels)
            loss_attention[s] = losses.generalized_bce(
                outputs.attention[s], foreground[s], exponent=settings.gce_exponent, mask=mask
            )
    terms = {
        "loss_video": mean_over_streams(loss_video),
        "loss_attention": len(streams) * mean_over_streams(loss_attention),
    }
    value = terms["loss_video"] + settings.attention_weight * terms["loss_attention"]
    return Loss(value, terms, tuple(foreground[s] for s in streams))


def stream_groups(num_streams: int, *, together: bool) -> list[tuple[int, ...]]:
    """Streams that are labelled together: all in one group, or each in its own."""
    streams = range(num_streams)
    return [tuple(streams)] if together else [(s,) for s in streams]


def group_selection(
    outputs: Outputs,
    group: tuple[int, ...],
    labels: Float[Array, "b c"],
    *,
    cas_weight: float | Float[Array, ""],
    settings: CaseSettings,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[Bool[Array, "b t c"], Float[Array, "b t"]]:
    """Snippets that pool into a video's scores, and Q^A, of one co-labelling group."""
    attention = losses.stream_mean([outputs.attention[s] for s in group])
    calibrated = losses.calibrate([outputs.cas[s] for s in group], attention, cas_weight=cas_weight)
    selected = active = losses.select_top_k(calibrated, divisor=settings.top_k_divisor, mask=mask)
    if settings.foreground_divisor is not None:
        active = losses.select_top_k(calibrated, divisor=settings.foreground_divisor, mask=mask)
    return selected, foreground_labels(active, labels)


def mean_over_streams(values: dict[int, Float[Array, "*b"]]) -> Float[Array, ""]:
    """Mean over streams, and over videos where there is a value for each."""
    return jnp.stack(list(values.values())).mean()
