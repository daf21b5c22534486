"""From detections to numbers, each with its protocol: mAP of detections, video-level classification, bootstrap.

Functions of tables in NumPy; segments are in seconds. A number is only comparable with one of the same protocol.
"""

from casejax.evaluate.bootstrap import Bootstrap, bootstrap_detections, bootstrap_difference
from casejax.evaluate.classification import ClassificationMetrics, classification_metrics
from casejax.evaluate.detection import (
    TIOUS,
    DetectionResult,
    Matches,
    average_precision,
    between,
    evaluate_detections,
    match_detections,
)
from casejax.evaluate.diagnosis import (
    KINDS,
    Diagnosis,
    GroupPrecision,
    average_precision_of_groups,
    diagnose,
    gain_without,
    kinds_by_rank,
    quantile_groups,
)
from casejax.evaluate.protocols import A2CL_PT, CASE, PROTOCOLS, Protocol, judge, touches
from casejax.evaluate.results import ParsedResults, parse_results, results_dict
from casejax.records import bare_name, match_names

__all__ = [
    "judge",
    "PROTOCOLS",
    "Protocol",
    "CASE",
    "A2CL_PT",
    "DetectionResult",
    "TIOUS",
    "between",
    "evaluate_detections",
    "match_detections",
    "Matches",
    "average_precision",
    "touches",
    "bootstrap_detections",
    "bootstrap_difference",
    "Bootstrap",
    "classification_metrics",
    "ClassificationMetrics",
    "diagnose",
    "Diagnosis",
    "KINDS",
    "kinds_by_rank",
    "gain_without",
    "average_precision_of_groups",
    "GroupPrecision",
    "quantile_groups",
    "results_dict",
    "parse_results",
    "ParsedResults",
    "match_names",
    "bare_name",
]
