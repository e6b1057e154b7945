"""Foundations under every run: mesh, processes, files, claims, hub, memory, versions."""
