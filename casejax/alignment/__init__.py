"""Temporal alignment of videos: smooth dynamic time warping, global cycle consistency, and five baselines.

Pure functions of arrays. The losses of the methods are here by name; what they share, and their variants, are in the
modules: `soft_min`, `dtw`, `gta`, `tcc`, `tcn`, `shuffle_and_learn`, `speednet`, `d3tw`, and `sampling` for the frames
that each method draws.
"""

from casejax.alignment.d3tw import d3tw_loss
from casejax.alignment.gta import contrastive_cost, gta_loss
from casejax.alignment.shuffle_and_learn import shuffle_and_learn_loss
from casejax.alignment.soft_min import hard_min, min_gamma, smooth_min
from casejax.alignment.speednet import speednet_loss
from casejax.alignment.tcc import stochastic_tcc_loss, tcc_loss
from casejax.alignment.tcn import tcn_npairs_loss, tcn_triplet_loss
from casejax.alignment.warping import alignment_matrix, dtw, dtw_path, dtw_table, visitation_matrix

__all__ = [
    "alignment_matrix",
    "contrastive_cost",
    "d3tw_loss",
    "dtw",
    "dtw_path",
    "dtw_table",
    "gta_loss",
    "hard_min",
    "min_gamma",
    "shuffle_and_learn_loss",
    "smooth_min",
    "speednet_loss",
    "stochastic_tcc_loss",
    "tcc_loss",
    "tcn_npairs_loss",
    "tcn_triplet_loss",
    "visitation_matrix",
]
