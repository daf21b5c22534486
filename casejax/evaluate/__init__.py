"""From detections to numbers, each with its protocol: mAP of detections, video-level classification, bootstrap.

Functions of tables in NumPy; segments are in seconds. A number is only comparable with one of the same protocol.
"""

from casejax.evaluate.bootstrap import Bootstrap, bootstrap_detections, bootstrap_difference
from casejax.evaluate.classification import ClassificationMetrics, classification_metrics
from casejax.evaluate.detection import (
    CASE,
    TIOUS,
    DetectionResult,
    Matches,
    Protocol,
    between,
    evaluate_detections,
    match_detections,
)
from casejax.evaluate.results import parse_results, results_dict
from casejax.evaluate.snippet_grid import A2CL_PT, evaluate_on_grid, on_grid, touches

__all__ = [
    "evaluate_detections",
    "DetectionResult",
    "Protocol",
    "CASE",
    "TIOUS",
    "between",
    "match_detections",
    "Matches",
    "evaluate_on_grid",
    "A2CL_PT",
    "on_grid",
    "touches",
    "bootstrap_detections",
    "bootstrap_difference",
    "Bootstrap",
    "classification_metrics",
    "ClassificationMetrics",
    "results_dict",
    "parse_results",
]
