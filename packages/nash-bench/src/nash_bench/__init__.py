"""Measure quantized networks and set them side by side: accuracy, speed, hardware."""

from .errors import NashError
from .records import Accuracy, ClassAccuracy, CpuThroughput, Hardware, Identity, Record, require_comparable

__all__ = [
    "Accuracy",
    "ClassAccuracy",
    "CpuThroughput",
    "Hardware",
    "Identity",
    "NashError",
    "Record",
    "require_comparable",
]
