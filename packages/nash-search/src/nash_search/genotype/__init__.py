"""Networks as data: backbones, operations, variants, the search space, and how probabilities become a genotype."""
