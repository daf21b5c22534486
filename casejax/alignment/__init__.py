"""Temporal alignment of videos: smooth dynamic time warping, global cycle consistency, and five baselines."""
