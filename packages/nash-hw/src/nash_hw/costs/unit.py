"""The unit of a fused sum: scales that the weights of its convolutions share but for powers of two (nash-qat, sums.py).

Shapes: weights (out, in / groups, kH, kW), scales (out, 1, 1, 1).
"""

from __future__ import annotations

import numpy as np

# as nash-qat has them (quantizers.py, fused.py)
_FINE_ENOUGH = 0.01  # of the squares of weights: what rounding to another's scales may take
_TERNARY = 1.4  # times mean|W|, the scale of 2-bit weights
_FACTORS = tuple(2.0**exponent for exponent in sorted(range(-10, 13), key=abs))  # the nearest to 1 first


class Unit:
    """What the weights of a fused sum's convolutions have in common: the scales of the first one."""

    def __init__(self) -> None:
        self._scales: np.ndarray | None = None  # (out, 1, 1, 1)

    def scales_of(self, values: np.ndarray, bits: int) -> np.ndarray:
        """Return the scales of weights (out, in, kH, kW): the first one's own, those of others a power of two of them.

        That is the power of two nearest to 1 with which rounding is fine enough, or that of least error.
        """
        if self._scales is None:
            magnitude = np.abs(values)
            mean = magnitude.mean(axis=(1, 2, 3), keepdims=True) * (_TERNARY if bits == 2 else 1.0)
            largest = magnitude.max(axis=(1, 2, 3), keepdims=True)
            self._scales = mean if bits <= 2 else largest / largest_weight(bits)
            return self._scales
        errors = [_rounding_error(values, units * self._scales, bits) for units in _FACTORS]
        enough = max(min(errors), _FINE_ENOUGH)
        units = next(units for units, error in zip(_FACTORS, errors, strict=True) if error <= enough)
        return self._scales * np.float32(units)

    def of_states(self) -> np.ndarray:
        """Return what a state is multiplied by, (1, out, 1, 1): a power of two of the scales, 1 in the mean.

        A convolution has that variance, too.
        """
        units = 2.0 ** np.round(-np.log2(self._scales).mean())
        return self._scales.reshape(1, -1, 1, 1) * np.float32(units)


def _rounding_error(values: np.ndarray, scales: np.ndarray, bits: int) -> float:
    """Return which part of the weights' squares rounding to some bits takes."""
    steps, largest = values / scales, largest_weight(bits)
    rounded = np.where(steps >= 0, 1, -1) if bits == 1 else steps.round().clip(-largest, largest)
    return float(np.square((rounded - steps) * scales).sum() / np.square(values).sum())


def largest_weight(bits: int) -> int:
    """Return the largest integer of symmetric weights."""
    return 2 ** (bits - 1) - 1
