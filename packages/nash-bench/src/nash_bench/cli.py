"""Command line of nash-bench."""
