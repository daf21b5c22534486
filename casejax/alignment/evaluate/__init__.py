"""Embeddings to numbers: Kendall's tau and synchronised playback, phases and progress, and the table of methods."""

from casejax.alignment.evaluate.kendall import (
    KendallTau,
    cosine_distance,
    kendall_tau,
    monotone_match,
    nearest_neighbours,
    squared_euclidean,
    synchronise,
    tau_of_neighbours,
    warping_path,
)
from casejax.alignment.evaluate.phases import (
    FewShot,
    LabelledVideos,
    Scores,
    classify_frames,
    classify_frames_by_event,
    few_shot_classification,
    phase_classification,
    phase_progression,
    progression_targets,
)
from casejax.alignment.evaluate.table import HONEST, PUBLISHED, Protocol, Row, format_table

__all__ = [
    # order in time
    "kendall_tau",
    "KendallTau",
    "tau_of_neighbours",
    "nearest_neighbours",
    "squared_euclidean",
    "cosine_distance",
    # playback
    "synchronise",
    "monotone_match",
    "warping_path",
    # phases
    "LabelledVideos",
    "phase_classification",
    "few_shot_classification",
    "phase_progression",
    "progression_targets",
    "classify_frames",
    "classify_frames_by_event",
    "Scores",
    "FewShot",
    # tables
    "Protocol",
    "PUBLISHED",
    "HONEST",
    "Row",
    "format_table",
]
