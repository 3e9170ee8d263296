"""FINN+ as a library: without Vivado, without its noise, without what it imports and nobody needs."""
