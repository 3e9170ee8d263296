"""Integer tensors, what they stand for, and the thresholds that make them.

The thresholds are exact: the k-th output step of a quantizer begins at the smallest integer x with
``round_half_even((scale * x + bias) / step) >= k``. That is QONNX's Quant (qonnx custom_op/general/quant.py) solved
for x, so no floating-point noise is left in the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from qonnx.core.datatype import BaseDataType, DataType

from .activations import Quantizer
from .model import GraphBuilder, range_datatype
from .qonnx_graph import Weights
from .requant import MAX_INPUT_BITS, Steps, needed_bits, solve

_FLOAT64_NOISE = 1e-12  # relative; a threshold this near to an integer is computed again, in rational numbers


@dataclass(frozen=True, kw_only=True)
class Integers:
    """An integer tensor of the new graph and what it stands for: ``real = scale * x + bias``, ReLU'd if `relu`.

    With a `leak` it is a leaky ReLU: what lies below 0 counts times `leak`.
    """

    name: str
    shape: tuple[int, ...]
    datatype: BaseDataType
    scale: np.ndarray  # (C,) or (1,), float64
    bias: np.ndarray  # (C,) or (1,), float64
    low: np.ndarray  # (C,) or (1,): smallest and largest value x can take
    high: np.ndarray
    relu: bool = False
    leak: float = 0.0

    @property
    def channels(self) -> int:
        return self.shape[1]


@dataclass(frozen=True, kw_only=True)
class Dequantization:
    """What turns the accelerator's output integers into logits: ``logits = scale * x + bias``."""

    scale: np.ndarray  # (K,)
    bias: np.ndarray  # (K,)


@dataclass(frozen=True, kw_only=True)
class Product:
    """A convolution or matrix product that is not written yet."""

    node: onnx.NodeProto
    x: Integers
    weights: Weights
    shape: tuple[int, ...]
    attributes: dict[str, Any]

    def flipped(self, negative: np.ndarray) -> Product:
        """Return the product with the signs of some output channels changed."""
        return replace(self, weights=self.weights.flipped(negative))

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and largest value of each output channel; padding adds zeros."""
        weights = self.weights.integers.reshape(len(self.weights.integers), -1)
        low, high = min(0, int(self.x.low.min())), max(0, int(self.x.high.max()))
        positive, negative = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
        return positive * low + negative * high, positive * high + negative * low

    def write(self, graph: GraphBuilder, result: Integers) -> None:
        """Add the node and its weights to the graph."""
        title = self.node.output[0]
        values = self.weights.integers
        is_matrix = values.ndim == 2
        name = graph.constant(f"{title}_weights", values.T if is_matrix else values, self.weights.datatype)
        op_type = "MatMul" if is_matrix else "Conv"
        output = (result.name, self.shape, result.datatype)
        graph.node(op_type, [self.x.name, name], output, **self.attributes)


def quantized_integers(name: str, shape: tuple[int, ...], quantizer: Quantizer) -> Integers:
    """Return the integers a quantizer gives."""
    return Integers(
        name=name,
        shape=shape,
        datatype=quantizer.datatype,
        scale=quantizer.output_scale,
        bias=quantizer.output_bias,
        low=np.full(1, float(quantizer.low)),
        high=np.full(1, float(quantizer.high)),
    )


def exact_thresholds(x: Integers, quantizer: Quantizer) -> np.ndarray:
    """Return the integer thresholds (C or 1, steps) at which the output of `quantizer` rises, reading `x`.

    Step k (from low + 1 to high) of a Quant is taken where ``round_half_even(real / step) >= k``, that is at
    ``real >= (k - 1/2) * step``, the bound itself included if k is even: 2.5 rounds to 2, 3.5 to 4.
    """
    steps, bounds, tie_rises = quantizer.steps, quantizer.bounds(), quantizer.tie_rises()
    scale, bias, low, high = (_column(values) for values in (x.scale, x.bias, x.low, x.high))
    if x.relu and x.leak:  # below 0 the real value is less by the leak, so its bounds are farther
        bounds = np.where(bounds < 0, bounds / x.leak, bounds)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (bounds - bias) / scale
        noise = _FLOAT64_NOISE * np.maximum(1.0, (np.abs(bounds) + np.abs(bias)) / scale)
        is_near = np.abs(ratio - np.round(ratio)) <= noise
    thresholds = np.ceil(ratio)
    for row, column in np.argwhere(is_near):
        line = (float(values[min(row, len(values) - 1), 0]) for values in (scale, bias))
        bound = quantizer.exact_bound(row, int(steps[column]))
        if x.relu and x.leak and bound < 0:
            bound /= Fraction(x.leak)
        thresholds[row, column] = _first_integer(*line, bound, tie_rises=bool(tie_rises[column]))
    constant = np.broadcast_to(scale == 0, thresholds.shape)
    risen = np.where(tie_rises, bias >= bounds, bias > bounds)
    thresholds = np.where(constant, np.where(risen, -np.inf, np.inf), thresholds)
    if x.relu and not x.leak:  # the real value is at least 0
        always = np.where(tie_rises, bounds <= 0, bounds < 0)
        thresholds = np.where(always, -np.inf, thresholds)
    return _upper_float32(np.clip(thresholds, low, high + 1.0))


def within_reach(x: Integers, quantizer: Quantizer, thresholds: np.ndarray) -> tuple[Quantizer, np.ndarray]:
    """Return the quantizer and its thresholds without the outputs that no input reaches, in the narrowest datatype.

    Of an 8-bit quantizer that reads 4 unsigned bits, at most 16 of the 255 steps are ever taken. All values of the
    new datatype are kept: the RTL of thresholds searches a full binary tree. Thresholds (C or 1, steps) that are the
    same for every channel are returned once, and stored once by the RTL.
    """
    lowest = quantizer.low + int((thresholds <= _column(x.low)).sum(axis=1).min())
    highest = quantizer.low + int((thresholds <= _column(x.high)).sum(axis=1).max())
    datatype = range_datatype(lowest, highest)
    low, high = max(quantizer.low, int(datatype.min())), min(quantizer.high, int(datatype.max()))
    kept = thresholds[:, low - quantizer.low : high - quantizer.low]
    kept = kept[:1] if (kept == kept[0]).all() else kept
    return replace(quantizer, low=low, high=high, datatype=datatype), kept


def requant_attributes(
    x: Integers, quantizer: Quantizer, thresholds: np.ndarray, *, may_widen: bool = False
) -> dict[str, Any]:
    """Return the scale and bias of the Requant that equals the thresholds for every input, nothing if there is none.

    The RTL takes its input for signed, and a bias up to a bound that rises with the bits of the input. So
    `requant_input` is the datatype that x has to be stored in: wider than its own where x may be widened.
    """
    own = x.datatype.bitwidth() + (not x.datatype.signed())
    widths = [own] if x.datatype.signed() else []
    widths += [MAX_INPUT_BITS] if may_widen and own <= MAX_INPUT_BITS else []
    for bits in widths:
        steps = Steps(
            thresholds=np.broadcast_to(thresholds, (x.channels, thresholds.shape[1])),
            lowest=quantizer.low,
            input_type=DataType[f"INT{bits}"],
            output_type=quantizer.datatype,
            low=np.broadcast_to(x.low, x.channels),
            high=np.broadcast_to(x.high, x.channels),
        )
        found = solve(steps, x.scale / quantizer.step_sizes)
        if found is not None:
            bits = max(needed_bits(*found, quantizer.datatype), own)
            scale, bias = (values.tolist() for values in found)
            return {"requant_scale": scale, "requant_bias": bias, "requant_input": f"INT{bits}"}
    return {}


def _first_integer(scale: float, bias: float, bound: Fraction, *, tie_rises: bool) -> int:
    """Return the first integer to reach a bound, in rational arithmetic: for those too near to it for floats."""
    ratio = (bound - Fraction(bias)) / Fraction(scale)
    if ratio.denominator > 1:
        return math.ceil(ratio)
    return int(ratio) if tie_rises else int(ratio) + 1


def _upper_float32(values: np.ndarray) -> np.ndarray:
    """Round integers up to what float32, FINN's container of integers, can hold: it has gaps beyond 2**24."""
    rounded = values.astype(np.float32)
    too_low = rounded.astype(np.float64) < values
    return np.where(too_low, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, 1)
