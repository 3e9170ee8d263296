"""Measure quantized networks and set them side by side: accuracy, speed, hardware."""

from .errors import NashError
from .facts import Accuracy, ClassAccuracy, CpuThroughput, Hardware, Identity
from .records import Record, require_comparable

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
