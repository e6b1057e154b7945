"""Exact ranks, metrics, language bias and significance, from embeddings to tables and pictures."""
