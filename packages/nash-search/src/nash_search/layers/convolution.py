"""Convolutions of the supernet, in float32, float64 or, where it pays, bfloat16.

Shapes: inputs (B, C_in, H, W), outputs (B, C_out, H / stride, W / stride), channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .quantizers import quantized_weight

_FEWEST_MACS = 2**25  # below that, converting to bfloat16 and back takes as long as it saves


class Conv2d(nn.Conv2d):
    """Convolution without a bias that may multiply in bfloat16 where that is worth the conversion.

    low: the type to multiply in; None is that of the weights. Inputs, outputs and gradients are of the weights' type.
    bits: those that the weights are quantized to; None leaves them as they are.

    A strided 1x1 kernel is handed only the pixels it reads. torch 2.13 on several CPU threads, channels last, up to 8
    channels and an odd batch: the backward pass of the strided form writes past its memory and the process dies.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bits: int | None = None,
        padding: int | None = None,
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.low: torch.dtype | None = None
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            x = Every.apply(x, self.stride[0])
        weight = self.weight if self.bits is None else quantized_weight(self.weight, self.bits)
        if self.type_for(x) == x.dtype:
            return F.conv2d(x, weight, None, self.step(), self.padding, 1, self.groups)
        return _LowConvolution.apply(x, weight, self)

    def type_for(self, x: Tensor) -> torch.dtype:
        """Return what to multiply in for an input x or a gradient of its size."""
        num_macs = x.numel() * self.weight.numel() // (self.weight.shape[1] * self.stride[0] ** 2)
        is_worth_it = self.low is not None and self.kernel_size != (1, 1) and num_macs >= _FEWEST_MACS
        return self.low if is_worth_it else self.weight.dtype

    def step(self) -> int:
        """Return the stride of the kernel itself: a 1x1 kernel is handed only the pixels it reads."""
        return 1 if self.kernel_size == (1, 1) else self.stride[0]

    def gradients(
        self,
        grad: Tensor,
        x: Callable[[torch.dtype], Tensor],
        weight: Tensor,
        size: Sequence[int],
        dtype: torch.dtype,
        wanted: Sequence[bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the wanted ones of the gradients of input and weights, multiplied in `dtype`.

        x: returns the input in a type; called only if the weights' gradient is wanted. size: its height and width.
        """
        whole = self.weight.dtype
        grad, weight = grad.to(dtype), weight.to(dtype)
        step, padding = [self.step()] * 2, list(self.padding)
        of_input = of_weight = None
        if wanted[0]:
            sides = zip(size, grad.shape[2:], padding, self.kernel_size, strict=True)
            rest = [side - ((taken - 1) * step[0] - 2 * pad + kernel) for side, taken, pad, kernel in sides]
            of_input = F.conv_transpose2d(grad, weight, None, step, padding, rest, self.groups).to(whole)
        if wanted[1]:
            window = None, step, padding, [1, 1], False, [0, 0], self.groups
            _, of_weight, _ = torch.ops.aten.convolution_backward(grad, x(dtype), weight, *window, [False, True, False])
            of_weight = of_weight.to(whole)
        return of_input, of_weight


class _LowConvolution(torch.autograd.Function):
    """It keeps the input itself, which others hold too, and converts it once more for the gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: Conv2d) -> Tensor:
        ctx.conv, ctx.low = conv, conv.low
        ctx.save_for_backward(x, weight)
        y = F.conv2d(x.to(ctx.low), weight.to(ctx.low), None, conv.step(), conv.padding, 1, conv.groups)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *ctx.conv.gradients(grad, x.to, weight, x.shape[2:], ctx.low, ctx.needs_input_grad), None


@cache
def multiplies_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 natively, which takes half of float32's time."""
    return torch.cpu._is_avx512_bf16_supported()


class Every(torch.autograd.Function):
    """Each stride-th pixel a row and a column, from `first` on.

    Slicing would do, but its backward pass takes an axis at a time and leaves channels last.

    >>> x = torch.ones(1, 1, 2, 3, requires_grad=True)
    >>> Every.apply(x, 2, 1).sum().backward()
    >>> x.grad
    tensor([[[[0., 0., 0.],
              [0., 1., 0.]]]])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, first: int = 0) -> Tensor:
        ctx.shape, ctx.pixels = x.shape, slice(first, None, stride)
        return x[:, :, ctx.pixels, ctx.pixels]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        whole = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last).zero_()
        whole[:, :, ctx.pixels, ctx.pixels] = grad
        return whole, None, None
