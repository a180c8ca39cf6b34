"""What runs a training or a test: options, the loop, checkpoints, logging."""
