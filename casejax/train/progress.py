"""How far a run is: a bar on a terminal, else a line of text every so often, which a log file shows at once."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

EVERY = 30.0  # seconds between two lines


class Progress:
    """Progress from a step to the last; a context, which shows what it is told.

    Args:
      console: where it goes.
      step: that the run goes on from.
      total: steps of the run.
      every: seconds between two lines where the console is no terminal.
    """

    def __init__(self, console: Console, step: int, total: int, *, every: float = EVERY) -> None:
        self._console, self._first, self._total, self._every = console, step, total, every
        self._bar = Bar(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._began = self._said = time.monotonic()
        self._compiled = False

    def __enter__(self) -> Progress:
        if self._first < self._total:
            steps = f"{self._total - self._first} steps"
            self._console.print(f"compiling, then training for {steps}", highlight=False)
        self._bar.start()
        self._task = self._bar.add_task("compiling", total=self._total, completed=self._first, said="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, loss: float, rate: float) -> None:
        """Show a step that is done, with its loss and the snippets a second."""
        said = f"loss {loss:.3f}, {rate:,.0f} snippets/s"
        self._bar.update(self._task, description="training", completed=step, said=said)
        now = time.monotonic()
        if not self._console.is_terminal and (not self._compiled or now - self._said >= self._every):
            left = (now - self._began) / max(step - self._first, 1) * (self._total - step)
            self._console.print(f"step {step} of {self._total}, {said}, {_clock(left)} left", highlight=False)
            self._said = now
        self._compiled = True


def _clock(seconds: float) -> str:
    """A time such as 2:05:09, or 4:31."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
