"""A2CL-PT on THUMOS14 in its own file layout, or on the embedded synthetic world.

Run:     python examples/train_a2cl_pt.py                      synthetic world, a minute on 2 CPU cores
         python examples/train_a2cl_pt.py --data DIR           DIR/annotation.json  DIR/feature_{train,val}.npy
Resume:  the same command with --resume.

Results are printed twice: by the protocol of every example here, and by that of the published program, on the grid
of snippets, without predictions in ambiguous intervals and with its mean over classes.

--help-all lists every option, such as --center-weight and --multi-label-from.
"""

import sys
from pathlib import Path

from casejax.cli.main import Defaults, train

SMALL = {"epochs": 60, "batch_size": 16, "learning_rate": 1e-3, "hidden": 256, "log_every": 10}
"""Sizes for the embedded world."""

DEFAULTS = Defaults(method="a2cl_pt", layout="a2cl_pt", out=Path("runs", "a2cl_pt"), sizes=SMALL, help=__doc__)

if __name__ == "__main__":
    sys.exit(train(defaults=DEFAULTS, command=f"python {sys.argv[0]}"))
