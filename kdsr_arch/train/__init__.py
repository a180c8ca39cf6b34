"""Training: the loop, its checkpoints, its log."""
