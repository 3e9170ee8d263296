"""Simulate a whole accelerator, cycle by cycle and bit by bit, with Verilator."""
