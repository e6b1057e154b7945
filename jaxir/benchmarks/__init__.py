"""Benchmarks, each read into a `RetrievalDataset`, and a model's report on them."""
