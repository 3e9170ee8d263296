"""Command line of nash-search."""
