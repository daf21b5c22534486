"""Temporal alignment of videos of one action: smooth dynamic time warping, GTA's loss, and five baselines.

Pure functions of arrays; this room loads jax and numpy alone. What a run needs besides lies inside, and is imported by
its own name: `alignment.data` (files and invented worlds), `alignment.networks` (embedders), `alignment.evaluate`
(Kendall's tau, phases) and `alignment.train` (training and whole benchmarks).
"""

from casejax.alignment.d3tw import d3tw_loss
from casejax.alignment.gta import (
    PairLosses,
    all_pairs,
    anchor_pairs,
    contrastive_cost,
    cycle_cross_entropy,
    cycle_cross_entropy_published,
    gta_loss,
    pair_losses,
)
from casejax.alignment.pairwise import inner_product, squared_distance
from casejax.alignment.sampling import (
    Cycles,
    SpeedClips,
    Triplets,
    context_indices,
    frames_without_portions,
    random_cycles,
    random_triplets,
    regular_speed_clips,
    sample_frames,
    speed_clips,
    tcn_pairs,
)
from casejax.alignment.shuffle_and_learn import shuffle_and_learn_loss, triplet_features
from casejax.alignment.soft_dtw import Barycenter, soft_dtw_barycenter, soft_dtw_divergence
from casejax.alignment.soft_min import hard_min, min_gamma, smooth_min
from casejax.alignment.speednet import clip_features, speednet_loss
from casejax.alignment.tcc import (
    classification,
    negative_squared_distance,
    regression_huber,
    regression_mse,
    regression_mse_var,
    stochastic_tcc_loss,
    tcc_loss,
)
from casejax.alignment.tcn import tcn_npairs_loss, tcn_triplet_loss
from casejax.alignment.warping import Path, alignment_matrix, dtw, dtw_path, dtw_table, visitation_matrix

__all__ = [
    # dynamic time warping
    "dtw",
    "dtw_table",
    "dtw_path",
    "Path",
    "alignment_matrix",
    "visitation_matrix",
    "soft_dtw_divergence",
    "soft_dtw_barycenter",
    "Barycenter",
    "smooth_min",
    "min_gamma",
    "hard_min",
    # costs of matching frames
    "contrastive_cost",
    "squared_distance",
    "inner_product",
    # GTA
    "gta_loss",
    "pair_losses",
    "PairLosses",
    "anchor_pairs",
    "all_pairs",
    "cycle_cross_entropy_published",
    "cycle_cross_entropy",
    # the baselines
    "tcc_loss",
    "stochastic_tcc_loss",
    "negative_squared_distance",
    "regression_mse_var",
    "regression_mse",
    "regression_huber",
    "classification",
    "tcn_npairs_loss",
    "tcn_triplet_loss",
    "d3tw_loss",
    "shuffle_and_learn_loss",
    "triplet_features",
    "speednet_loss",
    "clip_features",
    # which frames a step sees
    "sample_frames",
    "context_indices",
    "tcn_pairs",
    "random_cycles",
    "Cycles",
    "random_triplets",
    "Triplets",
    "speed_clips",
    "regular_speed_clips",
    "SpeedClips",
    "frames_without_portions",
]
