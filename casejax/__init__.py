"""casejax: learning from video with weak temporal supervision, in JAX."""

__version__ = "0.1.0"
