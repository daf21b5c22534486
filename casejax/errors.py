"""The errors and warnings that a user of casejax can meet; each message names the value, its place and a remedy."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Input that cannot be used; the message names the file, the value and the remedy."""


class OptionError(ValueError):
    """An option that no run can use; the message names it, its value and what is allowed."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder, what differs and the remedy."""


class WriteError(OSError):
    """A file that cannot be written; the message names it, the reason, bytes needed and free, and the remedy."""

    def __str__(self) -> str:
        return str(self.args[-1])


class Interrupted(Exception):  # noqa: N818 (a request that was honoured, not an error)
    """Training stopped on a signal, after saving."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by signal {signum} at step {step}")
        self.signum, self.step = signum, step


class DivergedError(ArithmeticError):
    """The loss, or something in the state, is no longer finite."""


class TrainingWarning(UserWarning):
    """A run has most likely gone wrong; the message names the step, the figure and a remedy."""


class PeerLostError(RuntimeError):
    """A step or a checkpoint failed in a run of several processes, most likely since one of them is gone."""


class DataWarning(UserWarning):
    """Something in the data is odd, and is used as the message says.

    Attributes:
      kind: a short name for what is odd.
      places: where it is, such as ids of videos.
    """

    def __init__(self, message: str, *, kind: str = "", places: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kind, self.places = kind, tuple(places)


class DurationMismatchWarning(DataWarning):
    """Stated durations and feature lengths disagree, so predicted times may be wrong."""
