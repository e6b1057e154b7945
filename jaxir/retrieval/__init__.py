"""Exact ranks, metrics and language bias."""
