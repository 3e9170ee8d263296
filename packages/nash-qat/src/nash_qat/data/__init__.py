"""Datasets, their splits, and random changes of their pictures."""
