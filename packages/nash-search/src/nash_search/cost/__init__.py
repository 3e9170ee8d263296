"""What operations cost on a board: of a genotype, expected of a search, and of random networks of equal cost."""
