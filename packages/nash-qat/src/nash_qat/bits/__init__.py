"""Which tensors get which bits: what a tensor loses with fewer, and the best choice within budgets."""
