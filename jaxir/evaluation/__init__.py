"""Evaluation of retrieval: exact ranks, metrics, language bias, significance, tables, pictures."""
