"""Public benchmarks, each read into a `RetrievalSet`."""
