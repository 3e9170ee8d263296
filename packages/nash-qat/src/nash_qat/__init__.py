"""Train a searched CNN with quantization and export it as QONNX."""

from .base.errors import NashError

__all__ = ["NashError"]
