"""Fake quantization in few operations: what training runs in place of Brevitas' quantizers.

Forward values are Brevitas' bit for bit, gradients equal within float tolerance; the tests hold both together.
Rounding, clamping and scaling work in place on one tensor, and the gradient of a scale takes two dot products:
with q = clamp(round(x / s)), d(q s)/ds = q - x / s inside the range and q outside (arXiv 1902.08153, eq. 3).
A scale is 2^log2_threshold / divisor: the largest level, or a power of two times it (see `divisor`).
Shapes: activations (B, C, H, W) or (B, C) and one scale; weights (O, I, kH, kW) or (O, I) and O scales or one; learned
scales of weights (O, 1, 1, 1) or ().
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MIN_SCALE = 1e-8
TWO_BIT_FACTOR = 1.4  # times mean|W|: the rounding threshold 0.7 mean|W| of ternary weights (arXiv 1605.04711, eq. 6)
_LN2 = math.log(2)
# A number of levels as Brevitas has it for logarithmic scales, 2^log2(n) in float32; a table, as reading a tensor's
# value in the forward pass would break a compiled network into pieces.
_DIVISORS = {n: (2.0 ** torch.tensor(float(n), dtype=torch.float32).log2()).item() for n in range(1, 257)}


def divisor(low: int, high: int) -> float:
    """Return the divisor of a scale whose threshold is what the largest level of low..high stands for.

    >>> divisor(-8, 7), divisor(0, 1)
    (8.0, 1.0)
    """
    return _DIVISORS[max(high, -low)]


def scale(log2_threshold: Tensor, divisor: float, *, is_short: bool = False) -> Tensor:
    """Return the scale, as all that is quantized with it has it; a short one has 12 significant bits."""
    found = (2.0**log2_threshold).clamp_min(MIN_SCALE) / divisor
    return _Short.apply(found) if is_short else found


class _Short(torch.autograd.Function):
    """float32 numbers rounded to 12 of their 24 significant bits; the gradient passes.

    T. J. Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18 (1971).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        larger = x * (2.0**12 + 1)
        return larger - (larger - x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def activation(
    x: Tensor, log2_threshold: Tensor, divisor: float, low: int, high: int, *, is_short: bool = False
) -> Tensor:
    """Return ReLU(x) quantized to low..high, of which low is 0, with the learned scale 2^log2_threshold / divisor.

    >>> x = torch.tensor([-1.0, 0.0, 0.3, 2.4, 9.0], requires_grad=True)
    >>> y = activation(x, torch.tensor(1.0), 2.0, 0, 2)
    >>> y.sum().backward()
    >>> y.detach(), x.grad
    (tensor([0., 0., 0., 2., 2.]), tensor([0., 0., 1., 1., 0.]))
    """
    return _QuantizedSum.apply(log2_threshold, divisor, is_short, low, high, 0.0, x)


def joined(
    terms: tuple[Tensor, ...], log2_threshold: Tensor, divisor: float, low: int, high: int, *, is_short: bool = False
) -> Tensor:
    """Return the sum of tensors, each quantized to low..high with the one learned scale 2^log2_threshold / divisor."""
    return _QuantizedSum.apply(log2_threshold, divisor, is_short, low, high, low - 0.5, *terms)


def pixels(x: Tensor, scale: float) -> Tensor:
    """Return pictures quantized to the 8-bit multiples of `scale`; there is no gradient."""
    return (x.detach() / scale).round_().clamp_(0, 255).mul_(scale)


def quantized_weight(weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    """Return weights quantized with a scale of their own: mean|W| below three bits, max|W| from there on.

    >>> quantized_weight(torch.tensor([[0.5, -1.5], [0.0, 3.0]]), 1, per_channel=True)
    tensor([[ 1., -1.],
            [ 3.,  3.]])
    """
    scale = statistics_scale(weight, bits, per_channel=per_channel)
    return _Signs.apply(weight, scale) if bits == 1 else _Rounded.apply(weight, scale, max((1 << bits - 1) - 1, 1))


def statistics_scale(weight: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    """Return the scale (O, 1, 1, 1) or () that follows the weights: mean|W| below three bits, max|W| from there on."""
    magnitude = weight.abs().flatten(1 if per_channel else 0)
    if bits > 2:
        threshold = magnitude.max(1)[0] if per_channel else magnitude.max()
    else:
        threshold = mean_magnitude(magnitude, -1, TWO_BIT_FACTOR if bits == 2 else 1.0)
    high = max((1 << bits - 1) - 1, 1)
    bounded = threshold + (threshold.clamp_min(MIN_SCALE) - threshold).detach()  # the gradient passes the bound
    scale = bounded / high
    return scale.view(-1, *[1] * (weight.ndim - 1)) if per_channel else scale


def learned_weight(weight: Tensor, log2_threshold: Tensor, low: int, high: int) -> Tensor:
    """Return weights quantized to low..high with the learned scale 2^log2_threshold / max(high, -low).

    At low = -1, high = 1 they are plus or minus the scale, plus at zero.

    >>> weight = torch.tensor([-9.0, -1.2, 0.0, 0.6], requires_grad=True)
    >>> quantized = learned_weight(weight, torch.tensor(2.0), -4, 3)
    >>> quantized.sum().backward()
    >>> quantized.detach(), weight.grad
    (tensor([-4., -1.,  0.,  1.]), tensor([0., 1., 1., 1.]))
    """
    scale = learned_scale(log2_threshold, low, high)
    return following_weight(weight, scale, low, high, has_zero=not low == -high == -1)


def learned_scale(log2_threshold: Tensor, low: int, high: int) -> Tensor:
    """Return the learned scale of weights, 2^log2_threshold / max(high, -low)."""
    threshold = 2.0**log2_threshold
    bounded = threshold + (threshold.clamp_min(MIN_SCALE) - threshold).detach()
    return bounded / _DIVISORS[max(high, -low)]


def following_weight(weight: Tensor, scale: Tensor, low: int, high: int, *, has_zero: bool) -> Tensor:
    """Return weights quantized to low..high with a given scale, which has a gradient, too; without zero to its signs.

    >>> following_weight(torch.tensor([-9.0, 0.0, 0.9]), torch.tensor(1.0), -1, 1, has_zero=False)
    tensor([-1.,  1.,  1.])
    """
    return _Clipped.apply(weight, scale, low, high) if has_zero else _Signs.apply(weight, scale)


def mean_magnitude(magnitude: Tensor, dim: int, factor: float) -> Tensor:
    """Return `factor` times the mean of the magnitudes that are not zero, so that structural zeros do not count.

    >>> mean_magnitude(torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]), 1, 1.0)
    tensor([2., 0.])
    """
    return factor * magnitude.sum(dim) / magnitude.count_nonzero(dim).clamp(min=1)


class _QuantizedSum(torch.autograd.Function):
    """Sum of quantized terms; gradients pass where a term, in steps, lies above `passes_from` and below high + 1/2."""

    @staticmethod
    def forward(
        ctx: Any,
        log2_threshold: Tensor,
        divisor: float,
        is_short: bool,
        low: int,
        high: int,
        passes_from: float,
        *terms: Tensor,
    ) -> Tensor:
        step_size = scale(log2_threshold, divisor, is_short=is_short)
        steps = [term.float() / step_size for term in terms]
        total = steps[0].round().clamp_(low, high).mul_(step_size)
        for step in steps[1:]:
            total += step.round().clamp_(low, high).mul_(step_size)
        ctx.save_for_backward(step_size, total, *steps)
        ctx.passes_from, ctx.passes_to = passes_from, high + 0.5
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        step_size, total, *steps = ctx.saved_tensors
        gradient = _in_layout_of(total, gradient)
        of_scale = _dot(gradient, total) / step_size
        of_terms = []
        for step in steps:
            step = _in_layout_of(total, step)
            passed = torch.ops.aten.hardtanh_backward(gradient, step, ctx.passes_from, ctx.passes_to)
            of_scale -= _dot(passed, step)
            of_terms.append(passed)
        return of_scale * step_size * _LN2, None, None, None, None, None, *of_terms


class _Rounded(torch.autograd.Function):
    """Weights rounded to -high..high steps; the gradient passes the clamping, too."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, high: int) -> Tensor:
        steps = weight / scale
        rounded = steps.round().clamp_(-high, high)
        result = rounded * scale
        ctx.save_for_backward(rounded.sub_(steps), scale)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        error, scale = ctx.saved_tensors
        return gradient, (gradient * error).sum_to_size(scale.shape), None


class _Clipped(torch.autograd.Function):
    """Weights rounded to low..high steps; the gradient of those beyond goes to the scale (arXiv 1902.08153, eq. 3)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = weight / scale
        rounded = steps.round().clamp_(low, high)
        ctx.save_for_backward(rounded, steps, scale)
        ctx.passes_from, ctx.passes_to = low - 0.5, high + 0.5
        return rounded * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rounded, steps, scale = ctx.saved_tensors
        passed = torch.ops.aten.hardtanh_backward(gradient, steps, ctx.passes_from, ctx.passes_to)
        of_scale = (gradient * rounded).sub_(passed * steps).sum_to_size(scale.shape)
        return passed, of_scale, None, None


class _Signs(torch.autograd.Function):
    """Plus or minus the scale, plus at zero; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        sign = torch.where(weight >= 0, 1.0, -1.0)
        ctx.save_for_backward(sign, scale)
        return sign * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sign, scale = ctx.saved_tensors
        return gradient * scale, (gradient * sign).sum_to_size(scale.shape)


def _in_layout_of(like: Tensor, x: Tensor) -> Tensor:
    return x if x.stride() == like.stride() else torch.empty_like(like).copy_(x)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b of two tensors in the same dense layout."""
    if torch.compiler.is_compiling():  # a view would hold the layout that tracing foresees, which may not come true
        return (a * b).sum()
    if a.ndim == 4 and not a.is_contiguous():
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))
