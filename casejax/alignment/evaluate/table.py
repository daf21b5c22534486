"""Kendall's tau of several methods side by side, under two protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from casejax.alignment.evaluate.kendall import MIN_SAMPLES, KendallTau


@dataclass(frozen=True)
class Protocol:
    """From which frames Kendall's tau is taken.

    Attributes:
      title: what a table is headed with.
      first_frame: the first frame that counts.
      stride: frames from one sample to the next.
    """

    title: str
    first_frame: int
    stride: int = 5

    def reaches(self, num_frames: int) -> bool:
        """Whether a video of that many frames is measured: `kendall_tau` leaves out what is too short."""
        samples = len(range(self.first_frame, num_frames, self.stride))
        return samples >= (MIN_SAMPLES if self.first_frame else 1)


PUBLISHED = Protocol("published protocol: every 5th frame, ties ignored", 0)
HONEST = Protocol("frames t >= 15 alone, whose context was not clipped at the start", 15)


@dataclass(frozen=True)
class Row:
    """One method's results.

    Attributes:
      name: the method.
      taus: for each seed (one where nothing is learned), for each action, the result.
    """

    name: str
    taus: Sequence[Mapping[str, KendallTau]]

    def of(self, action: str) -> float:
        """Tau of an action, mean over seeds."""
        return float(np.mean([seed[action].tau for seed in self.taus]))

    @property
    def mean(self) -> float:
        """Unweighted mean over actions, then over seeds."""
        return float(np.mean(self._means))

    @property
    def spread(self) -> float:
        """Standard deviation of the mean over seeds; NaN for a single one."""
        return float(np.std(self._means, ddof=1)) if len(self.taus) > 1 else float("nan")

    def rate(self, name: str) -> float:
        """Mean over actions and seeds of `tie_rate`, `nan_rate` or `tau_a`."""
        return float(np.mean([getattr(tau, name) for seed in self.taus for tau in seed.values()]))

    @property
    def _means(self) -> list[float]:
        return [float(np.mean([tau.tau for tau in seed.values()])) for seed in self.taus]

    def as_dict(self) -> dict[str, Any]:
        """Numbers for a JSON file."""
        return {
            "mean": self.mean,
            "spread": self.spread if len(self.taus) > 1 else None,
            **{name: self.rate(name) for name in ("tau_a", "tie_rate", "nan_rate")},
            "actions": {action: [seed[action].tau for seed in self.taus] for action in self.taus[0]},
        }


def format_table(protocol: Protocol, rows: Sequence[Row]) -> str:
    """A table for a terminal: actions down, methods across, then means, spreads and rates; tau in percent."""
    actions = list(rows[0].taus[0])
    width = max(len(action) for action in (*actions, "mean over actions"))
    columns = [max(len(row.name), 6) for row in rows]

    def line(label: str, cells: Sequence[str]) -> str:
        return "  ".join([label.ljust(width), *(c.rjust(w) for c, w in zip(cells, columns, strict=True))]).rstrip()

    def percent(value: float) -> str:
        return "" if np.isnan(value) else f"{100 * value:.1f}"

    return "\n".join(
        [
            f"Kendall's tau in percent, {protocol.title}",
            line("", [row.name for row in rows]),
            *(line(action, [percent(row.of(action)) for row in rows]) for action in actions),
            line("mean over actions", [percent(row.mean) for row in rows]),
            line("sd over seeds", [percent(row.spread) for row in rows]),
            line("ties counted (tau-a)", [percent(row.rate("tau_a")) for row in rows]),
            line("tie rate", [percent(row.rate("tie_rate")) for row in rows]),
            line("NaN rate", [percent(row.rate("nan_rate")) for row in rows]),
        ]
    )
