"""A trained network used: it finds segments in any videos; on a test split, their mAP is evaluated and reported.

Examples begin where `run` is the folder of a run, as `casejax train --demo --out run` leaves it.
"""

from casejax.inference.evaluate import evaluate_run, evaluate_scores, report_on_grid, report_scores
from casejax.inference.export import export_run
from casejax.inference.judging import Judged, Truth, judge_file, judged_summary, notes, print_judged, read_truth
from casejax.inference.predict import Localizer
from casejax.inference.predictions import (
    Prediction,
    Segment,
    draw_timeline,
    print_segments,
    write_results,
    write_segments,
)
from casejax.inference.scoring import (
    Scored,
    Scorer,
    make_scorer,
    make_test_scorer,
    score_videos,
    score_whole_videos,
)

__all__ = [
    "Localizer",
    "Prediction",
    "Segment",
    "write_results",
    "write_segments",
    "print_segments",
    "draw_timeline",
    "export_run",
    "evaluate_run",
    "evaluate_scores",
    "report_scores",
    "report_on_grid",
    "read_truth",
    "judge_file",
    "print_judged",
    "judged_summary",
    "notes",
    "Truth",
    "Judged",
    "make_scorer",
    "make_test_scorer",
    "score_videos",
    "score_whole_videos",
    "Scored",
    "Scorer",
]
