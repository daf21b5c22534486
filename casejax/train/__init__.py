"""From a data set to a trained network: step, feed, loop, selection, pseudo labels, ensembles, the whole experiment.

The room can be called: `casejax.train(features, labels, out)` is `train_on_table`.
"""

import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from casejax.train import ensemble, experiment, loop, own_data, selection, step
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


class Room(ModuleType):
    """A module that can be called."""

    __call__ = staticmethod(train_on_table)

    if TYPE_CHECKING:  # they know no modules that can be called: to them `casejax.train` is of this class
        train_on_table = staticmethod(own_data.train_on_table)
        run = staticmethod(experiment.run)
        run_seeds = staticmethod(experiment.run_seeds)
        RunResult = experiment.RunResult
        train = staticmethod(loop.train)
        Trained = loop.Trained
        train_ensemble = staticmethod(ensemble.train_ensemble)
        Member = ensemble.Member
        Selection = selection.Selection
        hold_out = staticmethod(selection.hold_out)
        make_train_steps = staticmethod(step.make_train_steps)
        make_batch_step = staticmethod(step.make_batch_step)
        update = staticmethod(step.update)


# Python looks calls up in the class of a module, and lets it be changed for this.
sys.modules[__name__].__class__ = Room
__signature__ = inspect.signature(train_on_table)
