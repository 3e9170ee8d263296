"""Command line of nash-qat."""
