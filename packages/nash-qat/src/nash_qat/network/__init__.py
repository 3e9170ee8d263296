"""The quantized network of a genotype: its tensors and their bits, its joins, its weights, its calibration."""
