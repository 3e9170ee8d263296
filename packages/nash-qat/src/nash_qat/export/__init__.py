"""From a trained network to QONNX and golden outputs, executed and held against each other."""
