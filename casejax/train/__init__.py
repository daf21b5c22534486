"""From a data set to a trained network: step, feed, loop, selection, pseudo labels, ensembles, the whole experiment.

The room can be called: `casejax.train(features, labels, out)` is `train_on_table`.
"""

import inspect
import sys
from types import ModuleType

from casejax.train.ensemble import Member, train_ensemble
from casejax.train.experiment import RunResult, run, run_seeds
from casejax.train.loop import Trained, train
from casejax.train.own_data import train_on_table
from casejax.train.selection import Selection, hold_out
from casejax.train.step import make_batch_step, make_train_steps, update

__all__ = [
    "train_on_table",
    "run",
    "run_seeds",
    "RunResult",
    "train",
    "Trained",
    "train_ensemble",
    "Member",
    "Selection",
    "hold_out",
    "make_train_steps",
    "make_batch_step",
    "update",
]


class _Room(ModuleType):
    """A module that can be called."""

    __call__ = staticmethod(train_on_table)


# Python looks calls up in the class of a module, and lets it be changed for this.
sys.modules[__name__].__class__ = _Room
__signature__ = inspect.signature(train_on_table)
