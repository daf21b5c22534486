"""."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


SYNTHETIC = {"num_snippets": 256, "epochs": 60, "learning_rate": 1e-3, "log_every": 10}
"""Sizes for the embedded world, smaller than THUMOS14: fewer snippets and, for fewer steps, larger ones."""
