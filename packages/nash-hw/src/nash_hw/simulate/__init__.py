"""Simulate a whole accelerator, cycle by cycle and bit by bit, with Verilator."""

FILES = "simulation"  # the folder in a build that a simulation writes
