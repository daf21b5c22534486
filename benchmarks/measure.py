"""What the benchmarks share: the machine in a line, medians of interleaved runs, a table of rates."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

import jax


def machine(*packages: str) -> str:
    """The machine and the versions of jax and of some other packages, for the head of a printout."""
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", *packages)]
    return ", ".join([_processor(), f"{os.cpu_count()} cores", jax.devices()[0].device_kind, *versions])


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call; whatever JAX arrays it returns are waited for."""
    since = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - since


def medians(runs: Mapping[str, Callable[[], object]], *, repeats: int, warm: bool = True) -> dict[str, float]:
    """Median wall time of each run, in seconds.

    The runs take turns, so that a machine that slows down or speeds up does so for all of them.

    Args:
      runs: functions to time; one that computes with JAX returns what it computed.
      repeats: rounds.
      warm: call each once before the first round, untimed.
    """
    if warm:
        for run in runs.values():
            seconds(run)
    rounds = [{name: seconds(run) for name, run in runs.items()} for _ in range(repeats)]
    return {name: statistics.median(times[name] for times in rounds) for name in runs}


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, the first aligned to the left, the others to the right."""
    widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]
    for row in (head, *rows):
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *rest]).rstrip())


def milliseconds(value: float) -> str:
    """Seconds as milliseconds, with no more than three digits after the leading zeros."""
    value *= 1e3
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
