"""Sweeps: training runs that differ in their mixture of batch kinds and in their seed, and the
report that compares them."""
