"""The configs that come with jaxir; each one's docstring has its command."""
