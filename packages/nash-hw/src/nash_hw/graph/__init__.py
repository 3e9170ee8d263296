"""From QONNX to integers, and from those to FINN's specialized hardware layers."""
