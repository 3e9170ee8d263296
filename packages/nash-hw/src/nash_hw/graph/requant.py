"""Uniform quantizers as one multiplication and one addition, where that gives the same integer for every input.

Shapes: parameters (C,), thresholds (C, steps).

FINN's RTL Requant (finn-rtllib/requant/hdl/requant.sv) turns a float32 scale and bias into integers and computes
``clip((x * scale + bias) >> shift)``. Its Python model rounds in float32 instead and may be one step off, so what
counts here, for the search of the parameters and for execution, is the arithmetic of the RTL. Its embedded form
writes the parameters with six decimals; the decoupled form, which is the one used, has them in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from qonnx.core.datatype import BaseDataType

REQUANT_MEMORY = "internal_decoupled"  # the other, "internal_embedded", keeps six decimals of scale and bias
MAX_INPUT_BITS = 18  # of the narrowest DSP's second port: up to there the RTL keeps all 24 bits of the scale
_SCALE_BITS = 25
_MANTISSA_BITS = 23
_NEIGHBOURS = sorted(range(-8, 9), key=abs)  # float32 steps away from the scale of the network


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """What the RTL makes of a scale and a bias (C,): ``(x * scale + bias) >> shift``, the half to round included."""

    scale: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    bias_exponent: np.ndarray
    is_positive: np.ndarray  # of the scale

    def value(self, x: np.ndarray) -> np.ndarray:
        """Return the output before it is clipped, for integers (C, ...)."""
        scale, bias, shift = (
            part.reshape(-1, *(1,) * (x.ndim - 1)) for part in (self.scale, self.bias, np.clip(self.shift, 0, 62))
        )
        return (x.astype(np.int64) * scale + bias) >> shift

    def fits(self, input_bits: int, output_bits: int) -> np.ndarray:
        """Tell (C,) where the RTL takes the parameters and its datapath holds them."""
        width = _SCALE_BITS + input_bits
        return (
            self.is_positive
            & (self.shift > 0)
            & (width + 1 >= self.shift + output_bits)
            & (self.bias_exponent <= input_bits - output_bits)
            & (np.abs(self.bias) < 1 << (width - 1))
        )


def fixed_point(scale: np.ndarray, bias: np.ndarray) -> FixedPoint:
    """Decompose positive float32 scales and float32 biases as the RTL does (derive_PARAMS), for up to 18 input bits."""
    scale_bits, bias_bits = (np.ascontiguousarray(part, np.float32).view(np.int32) for part in (scale, bias))
    scale_exponent, bias_exponent = (((bits >> _MANTISSA_BITS) & 0xFF) - 127 for bits in (scale_bits, bias_bits))
    scale_mantissa, bias_mantissa = (
        ((bits & 0x7FFFFF) | (1 << _MANTISSA_BITS)).astype(np.int64) for bits in (scale_bits, bias_bits)
    )
    shift = (_SCALE_BITS - 2) - scale_exponent
    left = bias_exponent - (_MANTISSA_BITS - shift)
    magnitude = np.where(left < 0, bias_mantissa >> np.clip(-left, 0, 63), bias_mantissa << np.clip(left, 0, 38))
    half = np.where(shift > 0, np.int64(1) << np.clip(shift - 1, 0, 61).astype(np.int64), 0)
    return FixedPoint(
        scale=scale_mantissa,
        bias=np.where(bias_bits < 0, -magnitude, magnitude) + half,
        shift=shift.astype(np.int64),
        bias_exponent=bias_exponent,
        is_positive=(scale_bits > 0) & (left <= 38),
    )


def needed_bits(scale: np.ndarray, bias: np.ndarray, output_type: BaseDataType) -> int:
    """Return the fewest bits of a signed input with which the RTL takes these parameters.

    Raises:
        ValueError: it never does.
    """
    fixed = fixed_point(np.asarray(scale, np.float32), np.asarray(bias, np.float32))
    for bits in range(1, MAX_INPUT_BITS + 1):
        if fixed.fits(bits, output_type.bitwidth()).all():
            return bits
    raise ValueError(f"no input of up to {MAX_INPUT_BITS} bits")


def requantize(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, output_type: BaseDataType) -> np.ndarray:
    """Return what the RTL gives for integers (..., C)."""
    scale, bias = (np.broadcast_to(part.reshape(-1), x.shape[-1]) for part in (scale, bias))
    values = fixed_point(scale, bias).value(np.moveaxis(x, -1, 0))
    return np.moveaxis(np.clip(values, output_type.min(), output_type.max()), 0, -1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A quantizer as thresholds: its output is ``lowest`` plus the number of thresholds that x reaches."""

    thresholds: np.ndarray  # (C, steps), ascending integers
    lowest: int
    input_type: BaseDataType
    output_type: BaseDataType
    low: np.ndarray  # (C,): the smallest and largest x
    high: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the levels (steps,), the inputs (C, steps) that must reach them, and those that must not.

        Where there is no such input, it is NaN. The output rises with x, so these inputs stand for all.
        """
        thresholds, lowest = self.thresholds, self.lowest
        if self.output_type.max() > lowest + thresholds.shape[1]:  # where clipping does not end the range
            thresholds = np.hstack([thresholds, self.high[:, None] + 1])
        if self.output_type.min() < lowest:
            thresholds, lowest = np.hstack([self.low[:, None], thresholds]), lowest - 1
        low, high = self.low[:, None], self.high[:, None]
        reach = np.where(thresholds <= high, np.maximum(thresholds, low), np.nan)
        miss = np.where(thresholds > low, np.minimum(thresholds - 1, high), np.nan)
        return lowest + 1 + np.arange(thresholds.shape[1]), reach, miss


def solve(steps: Steps, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a float32 scale and bias (C,) whose Requant equals the thresholds for every input, None if none is found.

    scale: (C,) or (1,), the real one, in output steps per input step. Given a scale, each threshold bounds the bias
    from both sides; the bias tried is the middle of that, the scale the nearest float32 to the real one with which
    every threshold is met in the arithmetic of the RTL.
    """
    bits = steps.input_type.bitwidth(), steps.output_type.bitwidth()
    if not steps.input_type.signed() or bits[0] > MAX_INPUT_BITS:
        return None
    channels = len(steps.low)
    levels, reach, miss = steps.bounds()
    scales = np.broadcast_to(np.asarray(scale, np.float32), channels).copy()
    biases = np.zeros(channels, np.float32)
    is_open = np.ones(channels, bool)
    for distance in _NEIGHBOURS:
        rows = np.flatnonzero(is_open)
        if not rows.size:
            break
        trial = (np.broadcast_to(np.asarray(scale, np.float32), channels)[rows].view(np.int32) + distance).view(
            np.float32
        )
        least, most = _bias_range(levels, reach[rows], miss[rows], trial.astype(np.float64))
        bias = ((least + most) / 2).astype(np.float32)
        fixed = fixed_point(trial, bias)
        is_exact = fixed.fits(*bits) & _is_exact(fixed, levels, reach[rows], miss[rows])
        scales[rows[is_exact]], biases[rows[is_exact]] = trial[is_exact], bias[is_exact]
        is_open[rows[is_exact]] = False
    return None if is_open.any() else (scales, biases)


def _bias_range(
    levels: np.ndarray, reach: np.ndarray, miss: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest bias (C,) that a scale leaves; where nothing bounds it, one input step."""
    least = np.fmax.reduce(levels - 0.5 - scale[:, None] * reach, axis=1)
    most = np.fmin.reduce(levels - 0.5 - scale[:, None] * miss, axis=1)
    least = np.where(np.isnan(least), most - scale, least)
    return least, np.where(np.isnan(most), least + scale, most)


def _is_exact(fixed: FixedPoint, levels: np.ndarray, reach: np.ndarray, miss: np.ndarray) -> np.ndarray:
    reached = fixed.value(np.nan_to_num(reach)) >= levels
    missed = fixed.value(np.nan_to_num(miss)) < levels
    return (reached | np.isnan(reach)).all(axis=1) & (missed | np.isnan(miss)).all(axis=1)
