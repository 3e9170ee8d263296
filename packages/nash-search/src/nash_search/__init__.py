"""NASH: nash-search."""
