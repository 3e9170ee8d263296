"""Measure quantized networks and set them side by side: accuracy, speed, hardware."""

from .base.errors import NashError
from .records.facts import Accuracy, ClassAccuracy, CpuThroughput, Hardware, Identity
from .records.record import Record, require_comparable

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
