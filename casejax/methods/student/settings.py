"""All that only the student has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from casejax.methods.contract import Number
from casejax.records import option


def _weak(options: Any) -> bool:
    return options.supervision == "weak"


def _has_teacher(options: Any) -> bool:
    return options.supervision != "segments"


def _uses_video(options: Any) -> bool:
    return bool(options.video_weight or options.video_share)


@dataclass(frozen=True)
class StudentSettings:
    """Settings of the student; lengths are in snippets."""

    supervision: Literal["weak", "segments", "points"] = option(
        "weak",
        "what it learns from: instances that a teacher finds in the training videos, annotated segments, or one time "
        "stamp an instance",
    )
    teacher: str = option("", "folder of the run that finds instances, of any method", when=_has_teacher)
    relabel: int = option(
        0,
        "times that the running mean of the student itself makes the labels anew, from half of the run on",
        within="[0, inf)",
        when=_weak,
    )
    average: float = option(
        0.99, "decay a step of that running mean", within="[0, 1)", when=lambda o: o.supervision == "weak" and o.relabel
    )
    keep: float = option(
        0.7, "share of the best score of a class in a video from which an instance is kept", within="[0, 1]", when=_weak
    )
    doubt: float = option(0.3, "share from which it is ignored; below, it is background", within="[0, 1]", when=_weak)
    spread_weight: float = option(
        2.0, "how fast the uncertainty of start and end lowers the weight of an instance", within="[0, inf)", when=_weak
    )
    fusion_temperature: float = option(
        0.05, "of the weights by which proposals are fused", within="(0, inf)", when=_has_teacher
    )
    point_width: float = option(
        5.0,
        "length of the segment around a time stamp that no proposal of a teacher covers",
        within="(0, inf)",
        when=lambda o: o.supervision == "points",
    )
    max_instances: int = option(128, "instances of a training video that there is room for", within="[1, inf)")
    hidden: int = option(96, "dimension of the embedding", within="[1, inf)")
    levels: int = option(6, "levels of the pyramid, of strides 1, 2, 4, ...", within="[1, 16]")
    blocks: int = option(2, "convolutional blocks before the pyramid", within="[0, inf)")
    width: int = option(3, "snippets that the convolution of a block sees, odd", within="[1, inf)")
    dropout: float = option(0.2, "rate of dropout", within="[0, 1)")
    reach: float = option(
        4.0, "farthest start or end that the first level regresses; twice as far with every level", within="(0, inf)"
    )
    radius: float = option(
        1.5, "strides around the middle of an instance in which locations are trained to find it", within="(0, inf)"
    )
    per_class: bool = option(False, "regress start and end for each class, not for all together")
    bins: int = option(
        8,
        "places nearby over which a distribution of start and end is learnt, whose mean is the boundary; 0 to regress "
        "the boundary itself",
        within="[0, 256]",
    )
    focal_alpha: Number = option(
        0.25, "weight of positives in the focal loss; negatives have the rest", within="[0, 1]"
    )
    focal_gamma: Number = option(2.0, "exponent of the focal loss", within="[0, inf)")
    boundary_weight: Number = option(1.0, "weight of the boundaries' loss", within="[0, inf)")
    video_weight: Number = option(0.5, "weight of the loss of the video's labels", within="[0, inf)")
    top_k_divisor: int = option(
        16, "snippets a selected one, whose mean logit is the video's", within="[1, inf)", when=_uses_video
    )
    video_share: float = option(
        0.5, "exponent of the video's probability in the score of a proposal", within="[0, inf)", inference=True
    )
    warmup: float = option(0.1, "share of the run in which the learning rate rises from 0", within="[0, 1]")
    clip: float = option(1.0, "largest norm of a step's gradient", within="(0, inf)")
    max_proposals: int = option(
        2000, "proposals of a video before suppression, the best", within="[1, inf)", inference=True
    )
    proposal_score: float = option(
        0.01, "score below which a proposal is left out before suppression", within="[0, 1]", inference=True
    )
