"""From scores of snippets to segments in seconds: proposals, three kinds of non-maximum suppression, and fusion."""

from casejax.localize.fusion import (
    FusedInstances,
    FusedTable,
    fuse_instances,
    fuse_table,
)
from casejax.localize.nms import Survivors, decay_once_nms, hard_nms, soft_nms
from casejax.localize.overlap import candidate_overlap, temporal_iou
from casejax.localize.proposals import (
    Runs,
    outer_inner_contrast,
    propose,
    select_classes,
    upsample,
)
from casejax.localize.segments import localize, localize_proposals
from casejax.localize.smoothing import smooth
from casejax.localize.tcam import confidences, localize_tcam
from casejax.localize.templates import Fit, exponential, gaussian, student_t, uniform
from casejax.records import THRESHOLDS

__all__ = [
    "localize",
    "localize_proposals",
    "localize_tcam",
    "select_classes",
    "smooth",
    "upsample",
    "propose",
    "Runs",
    "THRESHOLDS",
    "outer_inner_contrast",
    "soft_nms",
    "hard_nms",
    "decay_once_nms",
    "Survivors",
    "temporal_iou",
    "fuse_table",
    "FusedTable",
    "fuse_instances",
    "FusedInstances",
    "candidate_overlap",
    "gaussian",
    "exponential",
    "uniform",
    "student_t",
    "Fit",
    "confidences",
]
