"""Text in, batches out: sources, collection, tokens, hybrid, pipeline."""

import os

# TensorFlow logs how it was built at every start, in the middle of the progress line; it only
# carries batches here, so the faster arithmetic that it announces (oneDNN) is of no use.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
