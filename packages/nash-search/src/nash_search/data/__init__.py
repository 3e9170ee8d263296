"""Datasets, and the part of them that a search leaves alone."""
