"""How much of each layer works in parallel, chosen exactly; FIFOs, converters, devices, SLRs and partitions."""
