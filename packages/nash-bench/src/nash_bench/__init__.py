"""NASH: nash-bench."""
