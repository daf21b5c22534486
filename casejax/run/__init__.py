"""What a run is: its options, its state, and the folder it leaves.

Examples begin where `run` is the folder of a run, as `casejax train --demo --out run` leaves it.
"""

from casejax.run.config import Config, Option, Training
from casejax.run.conversion import convert, export_published
from casejax.run.folder import Restored, describe, restore_run
from casejax.run.state import TrainState, initial_state

__all__ = [
    "Config",
    "Training",
    "Option",
    "TrainState",
    "initial_state",
    "restore_run",
    "Restored",
    "describe",
    "convert",
    "export_published",
]
