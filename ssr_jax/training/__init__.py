"""Training: the loop, state, sharding, checkpoints, export and logging."""
