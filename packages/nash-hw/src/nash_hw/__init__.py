"""NASH: nash-hw."""
