"""From a data set to a trained network: step, feed, loop, selection, pseudo labels, ensembles, the whole experiment."""

from casejax.train.ensemble import Member, train_ensemble
from casejax.train.experiment import RunResult, run, run_seeds
from casejax.train.loop import Trained, train
from casejax.train.selection import Selection, hold_out
from casejax.train.step import make_batch_step, make_train_steps, update

__all__ = [
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
