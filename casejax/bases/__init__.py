"""Base models that the clustering head of CASE attaches to, each in one file: network, losses, scores, settings."""
