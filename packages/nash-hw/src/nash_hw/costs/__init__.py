"""Prices: of a search space's operations, of the bits of a model's tensors."""
