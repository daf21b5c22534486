"""Data sets: records, readers of public layouts, sampling, and a synthetic world."""
