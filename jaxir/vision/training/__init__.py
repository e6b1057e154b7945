"""ALBEF: its losses, momentum model and training task."""
