"""Exact dense retrieval: embeddings of texts, top-k search, indexes, hard negatives."""
