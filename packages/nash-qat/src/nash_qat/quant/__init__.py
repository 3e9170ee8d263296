"""Quantizers: presets of bit widths, scales, fused kernels and Brevitas' own, and the layers that have them."""
