"""Losses, the step, the optimizer, checkpoints and reports."""
