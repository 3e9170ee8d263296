"""Boards: their FPGAs and what these hold, clocks, prices of resources, FINN's shells."""
