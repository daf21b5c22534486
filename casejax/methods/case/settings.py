"""The settings of CASE: those of its two-branch network, and those of the clustering head that goes on any method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from casejax.methods.contract import Number
from casejax.records import option


@dataclass(frozen=True)
class CaseSettings:
    """The two-branch network, its losses and its inference, without clusters."""

    hidden: int = option(512, "width of the encoders", within="[1, inf)")
    encoder_dtype: Literal["float32", "bfloat16"] = option("float32", "type the encoders compute in")
    top_k_divisor: int = option(
        8, "snippets a selected one (k = T // divisor); 8 for THUMOS14, 2 for ActivityNet", within="[1, inf)"
    )
    foreground_divisor: int | None = option(
        None, "the same for the foreground labels Q^A; default top_k_divisor", within="[1, inf)"
    )
    cas_weight: Number = option(
        1 / 3, "omega, weight of P^V in the T-CAS that selects snippets; paper: 0.25", within="[0, 1]"
    )
    warmup_epochs: Number = option(
        0.0, "epochs over which omega falls from 1 to its value; 0 as published", within="[0, inf)"
    )
    pooling: Literal["logits", "probabilities"] = option(
        "logits", "what is averaged over the top k for a video", flag=False
    )
    gce_exponent: float = option(
        0.7, "gamma of the generalized cross-entropy (Eq. 2); 0 is plain cross-entropy", within="[0, 1]"
    )
    co_label_selection: bool = option(True, "select snippets from both streams together (Eq. 21)")
    attention_weight: Number = option(1.0, "weight of the attention loss (Eq. 14)", within="[0, inf)")
    test_cas_weight: float = option(1 / 3, "omega in inference; paper: 0.25", within="[0, 1]", inference=True)


def _transports(options: HeadSettings) -> bool:
    return options.transport


def _has_prior(options: HeadSettings) -> bool:
    return options.transport and options.prior


def _judges_members(options: HeadSettings) -> bool:
    return options.cluster_judge == "members"


def _shares_labels(options: HeadSettings) -> bool:
    return options.co_label_clusters


@dataclass(frozen=True)
class HeadSettings:
    """The clustering head: its labels, its losses and its part in inference."""

    num_clusters: int = option(16, "latent clusters K; 16 for THUMOS14, 64 for ActivityNet", within="[1, inf)")
    cluster_context: int = option(
        1,
        "snippets around each that share its P^S, in inference as far as they are alike; odd, 1: each alone",
        within="[1, inf)",
    )
    co_label_clusters: bool = option(True, "share Q^S and Q^C between the streams (Eqs. 17-20)")
    fuse: Literal["logits", "probabilities"] = option("logits", "what co-labelling averages over the streams")
    transport: bool = option(True, "label by optimal transport; off: the model's own predictions (Table 5)")
    hard_labels: bool = option(False, "one-hot instead of soft Q^S (Table 5)")
    epsilon: Number = option(
        1 / 20, "entropic strength on cosines; the paper prints its inverse, 20", within="(0, inf)"
    )
    sinkhorn_iters: int = option(3, "Sinkhorn iterations", within="[1, inf)")
    sinkhorn_tolerance: float | None = option(None, "iterate to this marginal error instead of a fixed count")
    prior: bool = option(
        True, "tie Q^S to Q^C by the Gaussian rank prior (Eq. 12); off: entropy only (Eq. 10)", when=_transports
    )
    rank: Literal["argsort", "true", "attention"] = option(
        "argsort",
        "what Eq. 11 ranks by: the published permutation, the true rank, or P^A itself",
        when=_has_prior,
    )
    prior_std: Number = option(
        10.0, "sigma of Eq. 11; 0.1 to 0.5 acts, 10 is all but flat", within="(0, inf)", when=_has_prior
    )
    cluster_judge: Literal["prototypes", "members"] = option(
        "prototypes",
        "what Q^C judges clusters by: the cosine of their prototypes with foreground and background (Eq. 5), or the "
        "share of foreground labels among their members",
    )
    judge_epsilon: Number = option(
        1.0,
        "entropic strength of that transport on the log-odds of the shares; below 1 clusters are told apart more",
        within="(0, inf)",
        when=_judges_members,
    )
    cluster_marginal: Literal["foreground", "attention", "equal"] = option(
        "foreground", "column marginal of Q^C: mean Q^A (Eq. 13), mean P^A, or equipartition (Eq. 9)"
    )
    cluster_momentum: Number = option(
        0.0, "share of the step before in Q^C, a running mean; 0: the last batch alone", within="[0, 1]"
    )
    prototype_features: Literal["raw", "unit"] = option("raw", "embeddings averaged into prototypes (Eq. 4)")
    prototype_gradient: bool = option(True, "L_C reaches the encoder through the prototypes; off: it trains nothing")
    cluster_gradient: bool = option(True, "L_S reaches the encoder; off: it trains the cluster head alone")
    projected: bool = option(True, "project cluster directions before each step; off: differentiate the norm")
    head_temperature: float = option(
        10.0, "factor on the cosines of the cluster head (appendix F.3)", within="(0, inf)"
    )
    cluster_temperature: Number = option(10.0, "rho, factor on the cosines of Eq. 5", within="(0, inf)")
    snippet_weight: Number = option(1.0, "lambda_S, weight of the snippet clustering loss (Eq. 14)", within="[0, inf)")
    cluster_weight: Number = option(
        0.3, "lambda_C, weight of the cluster classification loss (Eq. 14)", within="[0, inf)"
    )
    transformed_weight: float = option(
        0.5, "share of P^T in P^M; 0 leaves clustering out of inference", within="[0, 1]", inference=True
    )
    transformed_streams: Literal["mean", "product"] = option(
        "mean",
        "P^S of several streams in P^T: each its own and P^T their mean, or one, their product",
        inference=True,
        when=_shares_labels,
    )
    test_cluster_labels: Literal["last", "train"] = option(
        "last",
        "Q^C in inference: the state's, from the last step, or one computed on the whole train split",
        inference=True,
    )


@dataclass(frozen=True)
class Clustered:
    """The settings of a method with the clustering head on it."""

    base: Any
    head: HeadSettings = HeadSettings()
