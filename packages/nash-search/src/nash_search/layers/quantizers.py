"""Fake quantization: numbers on the grid of a few bits, still kept as floating point.

Shapes: states (B, C, H, W), pooled features (B, C), weights (C_out, C_in, kH, kW) or (C_out, C_in).

No scale is a parameter: one of weights follows from the weights, one of a state from the batch, as the batch normalizes
it. A scale that is learned, or runs along, would be that of a mixture of all sampled paths and fit no single one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..base import parallel

_SMALLEST_SCALE = 1e-8
_TERNARY = 1.4  # times mean|W|: thresholds of 0.7 mean|W| (arXiv 1605.04711, eq. 6)
# By bits, the scale of least square error for what a ReLU leaves of normal numbers, in units of its root mean square
# (half-wave Gaussian quantization, arXiv 1702.00953, section 3.2.2).
_STEPS = {1: 1.7311, 2: 0.9204, 3: 0.4998, 4: 0.2733, 5: 0.1492, 6: 0.0810, 7: 0.0437, 8: 0.0234}


def quantized_relu(x: Tensor, bits: int) -> Tensor:
    """Return ReLU(x) rounded, half to even, to a scale times 0..2^bits - 1; the scale is that of the batch.

    >>> quantized_relu(torch.tensor([[-3.0, 0.0, 0.5, 1.0, 1.0, 4.0]]), 2)
    tensor([[0.0000, 0.0000, 0.0000, 1.6052, 1.6052, 3.2104]])
    """
    return _QuantizedReLU.apply(x, bits)


def quantized_signed(x: Tensor, bits: int) -> Tensor:
    """Return x rounded to levels from -(2^(bits - 1) - 1) to 2^(bits - 1) - 1, at 1 bit to -1, 0 and 1.

    What a ReLU leaves of x and of -x is quantized apart, each by `quantized_relu` at one bit less.

    >>> quantized_signed(torch.tensor([[-3.0, 0.0, 0.5, 1.0, 1.0, 3.0]]), 3)
    tensor([[-3.3818,  0.0000,  0.0000,  1.2603,  1.2603,  2.5206]])
    """
    bits = max(bits - 1, 1)
    return quantized_relu(x, bits) - quantized_relu(-x, bits)


def quantized_weight(weight: Tensor, bits: int, *, per_channel: bool = True) -> Tensor:
    """Return weights on the grid of their bits, with one scale an output channel, or one of all.

    1 bit: plus or minus mean|W|, plus at 0; 2 bits: -1, 0, 1 times 1.4 mean|W|; above: rounded, half to even, to the
    scale that has the largest magnitude at the largest level, 2^(bits - 1) - 1. The gradient passes as though nothing
    were rounded; none goes through the scale, for which the batch normalization behind a convolution makes up.

    >>> weight = torch.tensor([[0.5, -1.5], [0.0, 3.0]], requires_grad=True)
    >>> quantized_weight(weight, 1).detach()
    tensor([[ 1.0000, -1.0000],
            [ 1.5000,  1.5000]])
    >>> quantized_weight(weight, 3, per_channel=False).detach()
    tensor([[ 0., -2.],
            [ 0.,  3.]])
    """
    return _QuantizedWeight.apply(weight, bits, per_channel)


class _QuantizedReLU(torch.autograd.Function):
    """With levels q = clamp(round(x / s), 0, high) the gradient of s q is that of x where 0 < x < (high + 1/2) s.

    In s it is q - x / s there and q elsewhere (learned step size quantization, arXiv 1902.08153, eq. 3), and s takes it
    on to the batch, of which it is a multiple of the root mean square.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        x = x.clamp(min=0)
        squares = parallel.summed(dot(x, x))
        num_values = parallel.total(x.numel())
        scale = ((squares / num_values).sqrt_() * _STEPS[bits]).clamp_(min=_SMALLEST_SCALE)
        high = (1 << bits) - 1
        y = (x / scale).round_().clamp_(max=high).mul_(scale)
        ctx.save_for_backward(x, y, squares)
        ctx.bound = (high + 0.5) * float(scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, y, squares = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(grad, x, 0, ctx.bound)
        of_scale = parallel.summed(dot(grad, y) - dot(passed, x))  # times the scale
        return passed.addcmul_(x, of_scale / squares.clamp(min=_SMALLEST_SCALE**2)), None


class _QuantizedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, per_channel: bool) -> Tensor:
        magnitude = weight.abs().flatten(1 if per_channel else 0)
        high = max((1 << bits - 1) - 1, 1)
        threshold = magnitude.amax(-1) if bits > 2 else magnitude.mean(-1) * (_TERNARY if bits == 2 else 1.0)
        scale = (threshold / high).clamp_(min=_SMALLEST_SCALE)
        if per_channel:
            scale = scale.view(-1, *[1] * (weight.ndim - 1))
        if bits == 1:
            return torch.where(weight >= 0, scale, -scale)
        return (weight / scale).round_().clamp_(-high, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the sum of x * y; channels last takes no copy."""
    if x.ndim == 4:
        x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
    return torch.dot(x.reshape(-1), y.reshape(-1))
