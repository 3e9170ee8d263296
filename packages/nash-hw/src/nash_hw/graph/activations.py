"""Quantizers of activations as steps: the real value at which each step of the output begins.

QONNX has three. Quant rounds, ``clip(round_half_even(real / scale + zero_point), low, high)``; BipolarQuant takes the
sign, 0 being positive; Trunc cuts the low bits of a sum that already is an integer (qonnx/custom_op/general/quant.py,
bipolar_quant.py, trunc.py).

Arrays: bounds (C or 1, steps); scales (C,) or (1,).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from qonnx.core.datatype import BaseDataType


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """Rounds: ``clip(round_half_even(real / scale + zero_point), low, high)``; a scale for all, or one a channel."""

    scale: float | tuple[float, ...]
    zero_point: int
    low: int
    high: int
    datatype: BaseDataType

    @property
    def scales(self) -> np.ndarray:
        """The scales, (C,) or (1,)."""
        return np.atleast_1d(np.asarray(self.scale, np.float64))

    @property
    def steps(self) -> np.ndarray:
        """The outputs that a step begins at, (steps,)."""
        return np.arange(self.low + 1, self.high + 1)

    @property
    def output_scale(self) -> np.ndarray:
        """The scale of the integers it gives, (C,) or (1,)."""
        return self.scales

    @property
    def output_bias(self) -> np.ndarray:
        """What the output 0 stands for, (C,) or (1,)."""
        return np.zeros(1) - self.zero_point * self.scales

    @property
    def step_sizes(self) -> np.ndarray:
        """What the real value rises by from one bound to the next, (C,) or (1,)."""
        return self.scales

    def bounds(self) -> np.ndarray:
        """Return the real value at which each step begins, (C or 1, steps)."""
        return (self.steps - 0.5 - self.zero_point) * self.scales[:, None]

    def tie_rises(self) -> np.ndarray:
        """Tell of each step whether the bound itself belongs to it: 2.5 rounds to 2, 3.5 to 4."""
        return self.steps % 2 == 0

    def exact_bound(self, channel: int, step: int) -> Fraction:
        """Return the bound of a step in rational arithmetic."""
        scale = self.scales[min(channel, len(self.scales) - 1)]
        return (Fraction(2 * step - 1, 2) - self.zero_point) * Fraction(float(scale))


@dataclass(frozen=True, kw_only=True)
class Sign(Quantizer):
    """Takes the sign: `scale` from 0 on, -`scale` below.

    As bits, low 0 and high 1, an output stands for ``scale * (2 x - 1)``; as numbers, low -1 and high 1, for
    ``scale * x``, in two steps at the same bound.
    """

    @property
    def output_scale(self) -> np.ndarray:
        return self.scales * (2 if self.low == 0 else 1)

    @property
    def output_bias(self) -> np.ndarray:
        return -self.scales if self.low == 0 else np.zeros(1)

    def bounds(self) -> np.ndarray:
        return np.zeros((1, self.high - self.low))

    def tie_rises(self) -> np.ndarray:
        return np.ones(self.high - self.low, bool)

    def exact_bound(self, channel: int, step: int) -> Fraction:
        return Fraction(0)


@dataclass(frozen=True, kw_only=True)
class Truncation(Quantizer):
    """Cuts `bits` low bits of the integer n nearest to real / input_scale: floored, or rounded half to even.

    A bound lies midway between two integers, so no noise of the input's scale moves it.
    """

    input_scale: float
    bits: int
    is_floor: bool

    @property
    def step_sizes(self) -> np.ndarray:
        return np.full(1, self.input_scale * 2**self.bits)

    def bounds(self) -> np.ndarray:
        return np.array([[float(self.exact_bound(0, int(step))) for step in self.steps]])

    def tie_rises(self) -> np.ndarray:
        return np.ones(len(self.steps), bool)

    def exact_bound(self, channel: int, step: int) -> Fraction:
        step -= self.zero_point
        if self.is_floor:
            first = Fraction(step * 2**self.bits)
        else:
            middle = Fraction((2 * step - 1) * 2**self.bits, 2)
            first = middle if middle.denominator > 1 or step % 2 == 0 else middle + 1
            first = Fraction(-(-first.numerator // first.denominator))
        return (first - Fraction(1, 2)) * Fraction(self.input_scale)
