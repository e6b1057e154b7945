"""The configs that come with jaxir; each docstring has the command, see also configs/README.md."""
