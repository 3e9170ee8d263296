"""Every stage of the flow, executed and held against the network's own reference."""
