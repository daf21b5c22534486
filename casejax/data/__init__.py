"""Data sets and weights on disk: read and checked, written, packed, and invented.

    layouts    the folder layouts in which data sets are published
    pickles    weights and features in pickles, which are never executed
    store      features packed into one memory-mapped file
    synthetic  an invented world of videos; surrogate  invented features for real annotations
    penn_action, poses, untrimmed_motion  annotated poses of Penn Action, and untrimmed videos composed of them
    sampling   the videos and snippets of every training step

Every reader ends in a record or in one sentence that names file, value and remedy. This package needs NumPy alone;
`sampling` needs JAX too and is imported by its own name, `from casejax.data import sampling`.
"""

from casejax.data.layouts import (
    LAYOUTS,
    Arrangement,
    Layout,
    ReadOptions,
    Splitting,
    find_videos,
    load_features_file,
    read_a2cl_pt,
    read_activitynet,
    read_annotations,
    read_bsn,
    read_charades,
    read_dataset,
    read_features,
    read_multithumos,
    read_opentad,
    read_table,
    read_wtalc,
    timing_of,
    write_a2cl_pt,
    write_dataset,
)
from casejax.data.penn_action import PoseTrack, read_penn_action, read_pose_track
from casejax.data.pickles import read_object_array, read_pickle, read_torch, write_torch
from casejax.data.poses import Poses, normalise_pose, pose_features
from casejax.data.store import packed, release
from casejax.data.surrogate import make_surrogate_features
from casejax.data.synthetic import make_activitynet_world, make_world, write_world
from casejax.data.untrimmed_motion import make_untrimmed_motion
from casejax.errors import DataWarning, DurationMismatchWarning

__all__ = [
    "LAYOUTS",
    "Layout",
    "read_table",
    "Splitting",
    "find_videos",
    "read_dataset",
    "write_dataset",
    "ReadOptions",
    "Arrangement",
    "timing_of",
    "read_a2cl_pt",
    "write_a2cl_pt",
    "read_wtalc",
    "read_activitynet",
    "read_opentad",
    "read_bsn",
    "read_multithumos",
    "read_charades",
    "read_features",
    "load_features_file",
    "read_annotations",
    "make_world",
    "make_activitynet_world",
    "write_world",
    "make_surrogate_features",
    "make_untrimmed_motion",
    "read_penn_action",
    "read_pose_track",
    "PoseTrack",
    "pose_features",
    "normalise_pose",
    "Poses",
    "packed",
    "release",
    "read_torch",
    "write_torch",
    "read_object_array",
    "read_pickle",
    "DataWarning",
    "DurationMismatchWarning",
]
