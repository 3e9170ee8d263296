"""NASH: nash-qat."""
