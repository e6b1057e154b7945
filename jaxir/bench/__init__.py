"""What `python -m jaxir.bench` measures: how fast the parts are, and what they need."""
