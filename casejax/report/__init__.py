"""What a run leaves for a person: tables, result files, and pictures where matplotlib is installed.

`canvas` is the look that all pictures share; other rooms draw on it too.
"""

from casejax.report.canvas import save
from casejax.report.pictures import cluster_foreground, draw_pictures, score_curves, timeline, training_curves
from casejax.report.tables import print_results, print_seeds, summary, write_average_precision, write_predictions

__all__ = [
    "print_results",
    "print_seeds",
    "summary",
    "write_predictions",
    "write_average_precision",
    "draw_pictures",
    "timeline",
    "score_curves",
    "training_curves",
    "cluster_foreground",
    "save",
]
