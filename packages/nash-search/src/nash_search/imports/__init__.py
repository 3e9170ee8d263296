"""One's own CNN, from ONNX or torchvision, as a backbone with its weights."""
