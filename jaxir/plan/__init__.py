"""Memory and time of a training step on a TPU slice, computed by the TPU compiler without a TPU."""
