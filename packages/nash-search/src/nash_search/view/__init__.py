"""Genotypes and alphas for the eye."""
