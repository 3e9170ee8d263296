"""The network with every candidate, float or quantized, and that of one genotype."""
