"""NASH: turn a quantized CNN into a streaming FPGA accelerator with FINN."""
