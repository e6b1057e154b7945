"""Text in, batches out: sources, tokens, hybrid, pipeline."""

import os

# TensorFlow tells how it was built at every start, in the middle of the progress line; it only
# moves batches here, so the faster mathematics that it announces is of no use.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
