"""The student: loss, scores, optimizer and the settings that it starts from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from casejax.array_types import Array, Bool, Float
from casejax.losses import top_k_mean, without_padding
from casejax.methods.contract import WHOLE, Loss, Method, Number, Outputs, Schedule, Step, adam
from casejax.methods.student.decoding import decode
from casejax.methods.student.losses import diou_loss, focal_loss
from casejax.methods.student.network import StudentNet
from casejax.methods.student.settings import StudentSettings
from casejax.methods.student.targets import Targets, assign, locations
from casejax.records import SnippetScores


def student_loss(
    outputs: Outputs,
    labels: Float[Array, "b c"],
    step: Step,
    *,
    settings: StudentSettings = StudentSettings(),
    mask: Bool[Array, "b t"] | None = None,
) -> Loss:
    """The loss of one batch: focal loss of classes, DIoU loss of boundaries, and that of the labels of the videos.

    Args:
      outputs: the network's predictions.
      labels: (B, C) video-level labels, zeros and ones.
      step: has the instances of the batch.
      settings: the method's.
      mask: True for real snippets; default all.

    Raises:
      ValueError: a step without instances.
    """
    if step.instances is None:
        raise ValueError("the student's loss needs the instances of the batch, Step.instances, got None")
    own = outputs.own
    num_classes = own.logits.shape[2]
    room = -outputs.cas[0].shape[1] % 2 ** (settings.levels - 1)
    places = locations(outputs.cas[0].shape[1] + room, settings.levels)
    target: Targets = jax.vmap(
        lambda *instance: assign(
            places,
            *instance[:3],
            mask=instance[3],
            num_classes=num_classes,
            levels=settings.levels,
            reach=settings.reach,
            radius=settings.radius,
        )
    )(step.instances.segments, step.instances.labels, step.instances.weights, step.instances.mask)
    positive = own.mask[:, :, None] & (target.weights > 0)
    known = own.mask[:, :, None] & ~target.ignored
    weights = jnp.where(positive, target.weights, 0.0)
    total = jnp.maximum(weights.sum(), 1.0)
    logits = without_padding(own.logits, mask=own.mask)
    focal = focal_loss(logits, positive.astype(logits.dtype), alpha=settings.focal_alpha, gamma=settings.focal_gamma)
    offsets = jnp.broadcast_to(own.offsets, target.offsets.shape)
    offsets = jnp.where(positive[..., None], offsets, 1.0)
    boundary = diou_loss(offsets, jnp.where(positive[..., None], target.offsets, 0.0))
    terms = {
        "loss_class": (jnp.where(positive, target.weights, 1.0) * jnp.where(known, focal, 0.0)).sum() / total,
        "loss_boundary": settings.boundary_weight * (weights * boundary).sum() / total,
    }
    video = optax.sigmoid_binary_cross_entropy(video_logits(outputs, settings, mask), labels)
    terms["loss_video"] = settings.video_weight * video.mean()
    return Loss.of(terms)


def student_scores(
    outputs: Outputs, *, settings: StudentSettings = StudentSettings(), mask: Bool[Array, "b t"] | None = None
) -> SnippetScores:
    """Inference: proposals; and for pictures and thresholds, class probabilities of snippets."""
    probability = without_padding(jax.nn.sigmoid(outputs.cas[0]), mask=mask)
    video = jax.nn.sigmoid(video_logits(outputs, settings, mask))
    found = decode(
        outputs.own,
        levels=settings.levels,
        max_proposals=settings.max_proposals,
        min_score=settings.proposal_score,
        factors=video**settings.video_share,
        mask=mask,
    )
    return SnippetScores(probability, video, attention=probability.max(axis=2), proposals=found)


def video_logits(outputs: Outputs, settings: StudentSettings, mask: Bool[Array, "b t"] | None) -> Float[Array, "b c"]:
    """(B, C) mean of the greatest logits of each class over the snippets, as in multiple-instance learning."""
    return top_k_mean(outputs.cas[0], divisor=settings.top_k_divisor, mask=mask)


class Averaged(NamedTuple):
    """State of `running_mean`."""

    average: Any


def running_mean(decay: float) -> optax.GradientTransformation:
    """Keeps the running mean of the parameters, which is the teacher of a student that relabels; changes no update."""

    def update(updates: Any, state: Averaged, params: Any) -> tuple[Any, Averaged]:
        new = optax.apply_updates(params, updates)
        return updates, Averaged(jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, new))

    return optax.GradientTransformation(lambda params: Averaged(jax.tree.map(jnp.copy, params)), update)


def optimizer(
    params: Any, rate: Number, *, settings: StudentSettings, schedule: Schedule
) -> optax.GradientTransformation:
    """Adam on gradients of bounded norm; beside it the running mean, where the student relabels."""
    parts = [optax.clip_by_global_norm(settings.clip), adam(params, rate, schedule=schedule)]
    return optax.chain(*parts, *([running_mean(settings.average)] if settings.relabel else []))


def rate(settings: StudentSettings, step: Step) -> Number:
    """Up in a straight line, then down along half a cosine."""
    done, warmup = step.progress, max(settings.warmup, 1e-6)
    return jnp.minimum((done + 1 / step.total) / warmup, 1.0) * (1 + jnp.cos(math.pi * done)) / 2


METHOD = Method(
    "student",
    StudentSettings(),
    Schedule(num_snippets=512, batch_size=8, epochs=40, learning_rate=3e-3, weight_decay=1e-4, sampling="crop"),
    replace(
        WHOLE,
        proposals="regressed",
        class_threshold=0.0,
        nms="soft",
        nms_decay=0.5,
        nms_plus_one=False,
        nms_unit="seconds",
    ),
    StudentNet,
    student_loss,
    student_scores,
    optimizer=optimizer,
    rate=rate,
    has_attention=False,
    learns_instances=True,
)
"""Ours; no published program has these numbers."""
