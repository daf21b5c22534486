"""Every option of a run, in frozen dataclasses. The fields' comments are the command line's help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import jax

from casejax.errors import OptionError
from casejax.localize import THRESHOLDS
from casejax.records import option

T = TypeVar("T")
Number = float | jax.Array
"""A float; inside a compiled step of an ensemble, a traced value."""
BaseName = Literal[
    "case",
    "baseline",
    "asl",
    "aicl",
    "co2net",
    "delu",
    "rskp",
    "zhou",
    "wtalc",
    "basnet",
    "cola",
    "acmnet",
    "a2cl_pt",
]
"""Networks and losses: "case" and the names of `casejax.methods.BASES`."""


@dataclass(frozen=True)
class NetworkConfig:
    """The network: that of CASE (Table 9), or a base, with or without CASE's clustering head."""

    base: BaseName = option(
        "case", "CASE in one program, or the base whose network and losses are used; --case puts the head on it"
    )
    case: bool = option(False, "attach the clustering head of CASE, its losses and its inference to the base")
    base_options: str = option("", "numbers of the base's own settings to change, such as margin=0.3,pair_weight=0.5")
    num_clusters: int = option(16, "latent clusters K; 16 for THUMOS14, 64 for ActivityNet")
    hidden: int = option(512, "width of the embedding encoders")
    encoder_dtype: Literal["float32", "bfloat16"] = option("float32", "type the encoders compute in")


@dataclass(frozen=True)
class MethodConfig:
    """The method: labels and losses. The defaults are those of the published program."""

    num_snippets: int = option(750, "snippets T sampled from every video; 750 for THUMOS14, 50 for ActivityNet")
    sampling: Literal["random", "stratified", "uniform", "crop"] = option(
        "random",
        "how training picks the T snippets: one from each cell with its end, without it, or its first; or a stretch, "
        "padded where a video is shorter",
    )
    similar_pairs: int = option(0, "pairs of videos that share a class, at the head of every batch")
    top_k_divisor: int = option(8, "snippets a selected one (k = T // divisor); 8 for THUMOS14, 2 for ActivityNet")
    foreground_divisor: int | None = option(None, "the same for the foreground labels Q^A; default top_k_divisor")
    cas_weight: Number = option(1 / 3, "omega, weight of P^V in the T-CAS that selects snippets; paper: 0.25")
    warmup_epochs: Number = option(0.0, "epochs over which omega falls from 1 to its value; 0 as published")
    pooling: Literal["logits", "probabilities"] = option("logits", "what is averaged over the top k for a video")
    gce_exponent: float = option(0.7, "gamma of the generalized cross-entropy (Eq. 2); 0 is plain cross-entropy")
    co_label_selection: bool = option(True, "select snippets from both streams together (Eq. 21)")
    co_label_clusters: bool = option(True, "share Q^S and Q^C between the streams (Eqs. 17-20)")
    fuse: Literal["logits", "probabilities"] = option("logits", "what co-labelling averages over the streams")
    transport: bool = option(True, "label by optimal transport; off: the model's own predictions (Table 5)")
    hard_labels: bool = option(False, "one-hot instead of soft Q^S (Table 5)")
    epsilon: Number = option(1 / 20, "entropic strength on cosines; the paper prints its inverse, 20")
    sinkhorn_iters: int = option(3, "Sinkhorn iterations")
    sinkhorn_tolerance: float | None = option(None, "iterate to this marginal error instead of a fixed count")
    prior: bool = option(True, "tie Q^S to Q^C by the Gaussian rank prior (Eq. 12); off: entropy only (Eq. 10)")
    rank: Literal["argsort", "true", "attention"] = option(
        "argsort", "what Eq. 11 ranks by: the published permutation, the true rank, or P^A itself"
    )
    prior_std: Number = option(10.0, "sigma of Eq. 11; 0.1 to 0.5 acts, 10 is all but flat")
    initial_foreground: float | None = option(None, "Q^C before the first step; default 1/K as published")
    cluster_marginal: Literal["foreground", "attention", "equal"] = option(
        "foreground", "column marginal of Q^C: mean Q^A (Eq. 13), mean P^A, or equipartition (Eq. 9)"
    )
    cluster_momentum: Number = option(0.0, "share of the step before in Q^C, a running mean; 0: the last batch alone")
    prototype_features: Literal["raw", "unit"] = option("raw", "embeddings averaged into prototypes (Eq. 4)")
    prototype_gradient: bool = option(True, "L_C reaches the encoder through the prototypes; off: it trains nothing")
    cluster_gradient: bool = option(True, "L_S reaches the encoder; off: it trains the cluster head alone")
    projected: bool = option(True, "project cluster directions before each step; off: differentiate the norm")
    head_temperature: float = option(10.0, "factor on the cosines of the cluster head")
    cluster_temperature: Number = option(10.0, "rho, factor on the cosines of Eq. 5")
    attention_weight: Number = option(1.0, "weight of the attention loss (Eq. 14)")
    snippet_weight: Number = option(1.0, "lambda_S, weight of the snippet clustering loss (Eq. 14)")
    cluster_weight: Number = option(0.3, "lambda_C, weight of the cluster classification loss (Eq. 14)")
    sum_streams: bool = option(True, "sum the streams' losses, the video loss apart, which is averaged")
    pseudo_labels: bool = option(
        False,
        "train on labels from fused proposals as well, from the epochs of Zhou et al. on; needs a background class",
    )


@dataclass(frozen=True)
class InferenceConfig:
    """From scores to segments. The defaults are those of the published program."""

    test_num_snippets: int | None = option(None, "snippets T sampled in inference; default num_snippets")
    test_sampling: Literal["resampled", "whole"] = option(
        "resampled", "test videos are resampled to T snippets, or keep as many as they have"
    )
    test_cas_weight: float = option(1 / 5, "omega in inference; paper: 0.25")
    transformed_weight: float = option(0.5, "share of P^T in P^M; 0 leaves clustering out of inference")
    test_cluster_labels: Literal["last", "train"] = option(
        "last", "Q^C in inference: the state's, from the last step, or one computed on the whole train split"
    )
    proposals: Literal["thresholds", "positive"] = option(
        "thresholds",
        "stretches above each threshold; or those of positive scores, ranked by their greatest and the class's "
        "confidence, without suppression (A2CL-PT)",
    )
    class_threshold: float = option(0.25, "video score from which a class is localised")
    thresholds: tuple[float, ...] = option(THRESHOLDS, "activation thresholds, comma-separated")
    scale: int = option(24, "upsampling of the T-CAS before thresholds are applied")
    outer_ratio: float = option(0.15, "width of the outer margins of a proposal, as a share of its length")
    outer_power: float = option(1.0, "power of the length in that width")
    score_weight: float = option(0.2, "weight of the video score in a proposal's score")
    nms: Literal["decay_once", "soft", "hard"] = option("decay_once", "non-maximum suppression")
    nms_threshold: float = option(0.4, "tIoU from which a proposal is suppressed")
    nms_decay: float = option(0.35, "scale of the decay exp(-tIoU^2 / decay) of suppressed scores")
    nms_plus_one: bool = option(True, "add one unit to lengths in the tIoU of NMS, as published")
    nms_unit: Literal["seconds", "snippets"] = option("seconds", "that unit")
    min_snippets: int = option(1, "shorter proposals are dropped")
    fusion: Literal["none", "gaussian", "uniform", "exponential", "student_t"] = option(
        "none", "replace overlapping proposals by one, with this template, instead of NMS"
    )
    fusion_temperature: float = option(0.2, "temperature of the scores that weigh the proposals of a fused one")
    fusion_overlap: Literal["candidate", "iou"] = option(
        "candidate", "what decides who is fused: the share of a proposal that a better one covers, or tIoU"
    )
    fusion_threshold: float = option(0.25, "overlap above which proposals are fused")
    extrapolate: bool = option(True, "continue the last slope beyond the last snippet, as published; off: hold it")
    drop_lone_first: bool = option(True, "drop a threshold whose only active position is the first, as published")


@dataclass(frozen=True)
class TrainConfig:
    """The run: optimisation, placement, output."""

    epochs: int = option(300, "passes over the training videos")
    batch_size: int = option(16, "videos a step, over all devices")
    data_parts: int = option(1, "contiguous parts of the training videos that fill an equal share of every batch")
    model_devices: int = option(1, "devices that share one copy of the network, split over its hidden dimension")
    feed: Literal["auto", "device", "stream"] = option(
        "auto",
        "features stay on the device and are sampled there, or are streamed a batch at a time; auto: if they fit",
    )
    learning_rate: Number = option(1e-4, "step size of Adam")
    weight_decay: Number = option(5e-4, "L2 penalty added to the gradient before Adam, on all parameters")
    second_moment: float = option(0.999, "beta_2 of Adam")
    decoupled_decay: bool = option(False, "decay the parameters themselves, as AdamW does")
    seed: int = option(0, "seed of parameters, order and sampling")
    log_every: int = option(12, "steps a line of metrics.jsonl; that many run in one dispatch")
    checkpoint_every: int = option(120, "steps between checkpoints, rounded up to a log step")
    select: Literal["last", "train-holdout", "test-oracle"] = option(
        "last", "the model to evaluate: the last step's, or the best by mAP on held-out training videos or on test"
    )
    select_every: int = option(50, "steps between the candidates of a selection")
    holdout: float = option(0.2, "share of the training videos that --select train-holdout sets aside")


@dataclass(frozen=True)
class Config:
    """All that decides the outcome of a run, given its data.

    `variant` names the set of options this one started from (`casejax.methods.case.variants`).
    """

    variant: str = "official"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return asdict(self)

    def flat(self) -> dict[str, Any]:
        """Every option under its own name; the names are unique over the groups."""
        return {name: value for group in self.groups().values() for name, value in vars(group).items()}

    def groups(self) -> dict[str, Any]:
        """The dataclasses of options, by name."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "variant"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Inverse of `as_dict`.

        Raises:
          ValueError: a group or an option that does not exist.
        """
        groups = cls().groups()
        unknown = [name for name in values if name not in groups and name != "variant"]
        unknown += [
            f"{name}.{own}" for name, group in groups.items() for own in values.get(name, {}) if own not in vars(group)
        ]
        if unknown:
            raise ValueError(f"unknown options {unknown}: the file is of another version of casejax")
        parts = {name: replace(group, **_with_tuples(values.get(name, {}))) for name, group in groups.items()}
        return cls(values.get("variant", "official"), **parts)

    def changed(self, **values: Any) -> Config:
        """A copy with single options replaced, named without their group."""
        variant = values.pop("variant", self.variant)
        parts = {}
        for name, group in self.groups().items():
            own = {f.name: values.pop(f.name) for f in fields(group) if f.name in values}
            parts[name] = replace(group, **own)
        if values:
            raise ValueError(f"unknown options: {sorted(values)}")
        return Config(variant, **parts)

    def check(self) -> None:
        """Refuse values that no run can use.

        Raises:
          OptionError: naming the option, its value and what is allowed.
        """
        counts = "num_clusters hidden num_snippets top_k_divisor sinkhorn_iters scale epochs batch_size log_every"
        positive = "epsilon prior_std head_temperature cluster_temperature learning_rate nms_threshold nms_decay"
        shares = "cas_weight cluster_momentum gce_exponent test_cas_weight transformed_weight class_threshold"
        flat = self.flat()
        for name in (
            *counts.split(),
            "data_parts",
            "model_devices",
            "checkpoint_every",
            "select_every",
            "min_snippets",
        ):
            if flat[name] < 1:
                raise OptionError(f"{name} must be at least 1, got {flat[name]}")
        for name in ("foreground_divisor", "test_num_snippets"):
            if flat[name] is not None and flat[name] < 1:
                raise OptionError(f"{name} must be at least 1 or None, got {flat[name]}")
        for name in (*positive.split(), "fusion_temperature"):
            if not flat[name] > 0:
                raise OptionError(f"{name} must be positive, got {flat[name]}")
        for name in (*shares.split(), "fusion_threshold"):
            if not 0 <= flat[name] <= 1:
                raise OptionError(f"{name} must lie in [0, 1], got {flat[name]}")
        if flat["base_options"] and flat["base"] == "case":
            raise OptionError(
                f"base_options {flat['base_options']!r} are for a --base; the options of CASE are flags of their own"
            )
        if not flat["thresholds"]:
            raise OptionError("thresholds must name at least one threshold, got none")
        if not 0 <= 2 * flat["similar_pairs"] <= flat["batch_size"]:
            raise OptionError(
                f"similar_pairs must fit a batch of {flat['batch_size']} videos, got {flat['similar_pairs']}"
            )
        if not 0 <= flat["second_moment"] < 1:
            raise OptionError(f"second_moment must lie in [0, 1), got {flat['second_moment']}")
        if not 0 < flat["holdout"] < 1:
            raise OptionError(f"holdout must lie between 0 and 1, got {flat['holdout']}")
        weights = "attention_weight snippet_weight cluster_weight weight_decay"
        for name in (*weights.split(), "warmup_epochs", "outer_ratio", "outer_power"):
            if not flat[name] >= 0:
                raise OptionError(f"{name} must not be negative, got {flat[name]}")


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gave them, lists as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
