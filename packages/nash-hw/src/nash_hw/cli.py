"""Command line of nash-hw."""
