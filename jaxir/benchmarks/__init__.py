"""Public benchmarks, each read into a `RetrievalDataset`."""
