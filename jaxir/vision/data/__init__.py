"""Images and captions in, batches out."""
