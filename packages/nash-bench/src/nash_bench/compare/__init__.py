"""Which networks belong together, what one has over the other at equal width and cost, and who wins."""
