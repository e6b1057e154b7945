"""Memory and time of a step on a TPU slice, from the TPU compiler, before one is paid for."""
