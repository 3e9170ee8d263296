"""The operations as the supernet runs them: from a state of the cell to a term of a later one.

Shapes: a state is (B, C_in, H, W), an operation's features (B, C_out, H / stride, W / stride).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .binary import BinaryConv2d, Signs
from .convolution import Conv2d, Every
from .shape import Shape
from .sums import BatchNorm, Term


class MaxPool3x3(torch.autograd.Function):
    """3x3 max-pool that remembers where the maxima were in 16 bits where those suffice; torch takes 64.

    >>> x = torch.tensor([[[[1.0, 3.0, 2.0, 0.0]]]], requires_grad=True)
    >>> MaxPool3x3.apply(x, 2).sum().backward()
    >>> x.grad
    tensor([[[[0., 2., 0., 0.]]]])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        y, places = torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [stride, stride], [1, 1])
        fits = x.shape[2] * x.shape[3] <= torch.iinfo(torch.int16).max
        ctx.save_for_backward(x, places.to(torch.int16) if fits else places)
        ctx.stride = stride
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, places = ctx.saved_tensors
        window = [3, 3], [ctx.stride, ctx.stride], [1, 1], [1, 1], False
        return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *window, places.long()), None


class State:
    """One state of a cell, with the forms of it that the operations reading it share.

    before: what the signs are taken of instead of x, where x has been through a ReLU: its signs are all +1.
    act: the state as convolutions of the backbone read it, if that is not x.
    """

    def __init__(self, x: Tensor, before: Tensor | None = None, act: Tensor | None = None) -> None:
        self.x = x
        self.act = x if act is None else act
        self._before = x if before is None else before
        self._signs: Signs | None = None
        self._pooled: dict[int, Tensor] = {}

    def max_pooled(self, kernel: int, stride: int) -> State:
        """Return the state behind a max-pool of the backbone: 3x3 padded by a pixel, or 2x2."""
        x = F.max_pool2d(self.x, kernel, stride, kernel // 3)
        return State(x, act=None if self.act is self.x else F.max_pool2d(self.act, kernel, stride, kernel // 3))

    def signs(self) -> Signs:
        """Return the signs, +1 at 0."""
        if self._signs is None:
            self._signs = Signs.of(self._before)
        return self._signs

    def pooled(self, stride: int) -> Tensor:
        """Return the 3x3 max-pool."""
        if stride not in self._pooled:
            self._pooled[stride] = MaxPool3x3.apply(self.x, stride)
        return self._pooled[stride]


class Operation(nn.Module):
    """What a mixed operation may sample: calling it with a `State` returns its term, or None for nothing."""

    def forward(self, state: State) -> Term | None:
        raise NotImplementedError


class Nothing(Operation):
    """No connection: no term in the sum (zero times the state would let a NaN through)."""

    def forward(self, state: State) -> None:
        return None


class Identity(Operation):
    """The state itself."""

    def forward(self, state: State) -> Term:
        return Term(state.x)


class MaxPool(Operation):
    """3x3 max-pool and BN; where channels grow by a factor, the pooled state is repeated that often."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stride = shape.stride
        self.repeats = shape.out_channels // shape.in_channels
        self.bn = BatchNorm(shape.out_channels)

    def forward(self, state: State) -> Term:
        pooled = state.pooled(self.stride)
        return Term(torch.cat([pooled] * self.repeats, 1) if self.repeats > 1 else pooled, self.bn)


class Reduction(Operation):
    """Binary 1x1 convolutions, ReLU and BN: at stride 2 one on even and one on odd pixels, half of the outputs each."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stride = shape.stride
        self.convs = nn.ModuleList(
            BinaryConv2d(shape.in_channels, shape.out_channels // shape.stride, 1) for _ in range(shape.stride)
        )
        self.bn = BatchNorm(shape.out_channels)

    def forward(self, state: State) -> Term:
        signs = state.signs()
        parts = [conv(signs.every(self.stride, first)) * conv.scale() for first, conv in enumerate(self.convs)]
        return Term(F.relu_(torch.cat(parts, 1)), self.bn)


class BinaryConvolution(Operation):
    """Binary convolution, ReLU and BN."""

    def __init__(self, shape: Shape, kernel: int) -> None:
        super().__init__()
        self.conv = BinaryConv2d(shape.in_channels, shape.out_channels, kernel, shape.stride, is_rectified=True)
        self.bn = BatchNorm(shape.out_channels)

    def forward(self, state: State) -> Term:
        return Term(self.conv(state.signs()), self.bn, self.conv.eps())


class QuantizedReduction(Operation):
    """The 1x1 convolutions of `Reduction` with quantized weights, on the state itself and without a ReLU, and BN."""

    def __init__(self, shape: Shape, bits: int) -> None:
        super().__init__()
        self.stride = shape.stride
        bits = bits if shape.stride == 1 else max(bits, 2)  # retrained as one convolution, most of whose weights are 0
        self.convs = nn.ModuleList(
            Conv2d(shape.in_channels, shape.out_channels // shape.stride, 1, bits=bits) for _ in range(shape.stride)
        )
        self.bn = BatchNorm(shape.out_channels)

    def forward(self, state: State) -> Term:
        parts = [conv(self._pixels(state.x, first)) for first, conv in enumerate(self.convs)]
        return Term(torch.cat(parts, 1), self.bn)

    def _pixels(self, x: Tensor, first: int) -> Tensor:
        """Return each stride-th pixel from `first` on, past an odd edge zeros."""
        if self.stride == 1:
            return x
        missing = [first * (side % self.stride) for side in (x.shape[3], x.shape[2])]
        return Every.apply(F.pad(x, (0, missing[0], 0, missing[1])) if any(missing) else x, self.stride, first)


class QuantizedConvolution(Operation):
    """Convolution with quantized weights, and BN."""

    def __init__(self, shape: Shape, kernel: int, bits: int) -> None:
        super().__init__()
        self.conv = Conv2d(shape.in_channels, shape.out_channels, kernel, shape.stride, bits=bits)
        self.bn = BatchNorm(shape.out_channels)

    def forward(self, state: State) -> Term:
        return Term(self.conv(state.x), self.bn)
