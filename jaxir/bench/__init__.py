"""Speed and memory of jaxir's parts, measured beside other libraries (`python -m jaxir.bench`)."""
