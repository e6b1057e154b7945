"""Sweeps: many runs that differ in their shares and seeds, and what they say together."""
