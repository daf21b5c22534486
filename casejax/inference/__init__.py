"""A trained network used: it scores videos, segments are localised in them, and their mAP is evaluated and reported."""

from casejax.inference.evaluate import evaluate_run, evaluate_scores, report_on_grid, report_scores
from casejax.inference.judging import Judged, Truth, judge_file, judged_summary, notes, print_judged, read_truth
from casejax.inference.scoring import (
    Scored,
    Scorer,
    make_scorer,
    make_test_scorer,
    score_videos,
    score_whole_videos,
)

__all__ = [
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
