"""Training: the step, the loop, the checkpoint."""
