"""Image-text retrieval by language, and in a pool of all languages."""
