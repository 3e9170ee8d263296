"""Train a searched CNN with quantization and export it as QONNX."""

from .errors import NashError

__all__ = ["NashError"]
