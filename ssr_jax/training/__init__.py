"""Training: the loop, its state, sharding, checkpoints, export, logging."""
