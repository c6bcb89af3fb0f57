"""Training: the loop, the optimizer and checkpoints."""
