"""Text in, batches out: sources, tokens, hybrid, pipeline."""
