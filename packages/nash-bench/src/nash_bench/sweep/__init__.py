"""Run a whole grid of networks through the four command lines, on Snakemake."""
