"""Training: configuration, objective, sharded step, loop, checkpoints."""
