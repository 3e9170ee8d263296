"""The terms of a layer's sum: convolutions, pools and skips of states, as the backbone or the search put them there.

Shapes: states (B, C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..quant import quantizers
from .genotype import Layer, NasOp

_MIN_GAMMA = 1e-3


class ConvBN(nn.Module):
    """Convolution and batch normalization; `mask` marks the weights that may differ from zero.

    With `is_summed` there is no batch normalization, as that is behind a sum; `leader` is the convolution whose
    weights' scales these have then, None if they have their own.
    """

    mask: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bits: int,
        reads_bits: int,
        has_learned_scale: bool = False,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        mask: Tensor | None = None,
        is_summed: bool = False,
        leader: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.weight_bits, self.reads_bits = bits, reads_bits
        self.conv = quantizers.conv(
            in_channels,
            out_channels,
            kernel,
            bits=bits,
            has_learned_scale=has_learned_scale,
            stride=stride,
            padding=padding,
            groups=groups,
            leader=leader,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = nn.Identity() if is_summed else nn.BatchNorm2d(out_channels)
        self.register_buffer("mask", mask, persistent=False)
        self.constrain()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    @torch.no_grad()
    def constrain(self) -> None:
        """Set the structural zeros to zero."""
        if self.mask is not None:
            self.conv.weight.mul_(self.mask)


def factorized_reduction(
    in_channels: int,
    out_channels: int,
    *,
    bits: int,
    reads_bits: int,
    size: tuple[int, int],
    **settings: Any,
) -> ConvBN:
    """Return two stride-2 1x1 convolutions, the second on the input shifted by one pixel, as one masked convolution.

    The first half of the outputs reads pixel (2y, 2x), the second (2y + 1, 2x + 1); beyond an odd edge there is zero.
    """
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    kernel, padding, tap = (2, 0, 0) if even else (3, 1, 1)
    mask = torch.zeros(out_channels, in_channels, kernel, kernel)
    mask[: out_channels // 2, :, tap, tap] = 1
    mask[out_channels // 2 :, :, tap + 1, tap + 1] = 1
    bits = max(bits, 2)  # one bit has no zero
    return ConvBN(
        in_channels,
        out_channels,
        kernel,
        bits=bits,
        reads_bits=reads_bits,
        stride=2,
        padding=padding,
        mask=mask,
        **settings,
    )


class MaxPool(nn.Module):
    """3x3 max-pool, its channels repeated to fill `out_channels`."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self._repeats = out_channels // in_channels
        self.pool = nn.MaxPool2d(3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return torch.cat([x] * self._repeats, dim=1) if self._repeats > 1 else x


class MaxPoolBN(MaxPool):
    """The same with a batch normalization behind it whose gamma is positive."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride=stride)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(super().forward(x))

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep gamma positive: the hardware then needs no multiplication after the pool."""
        self.bn.weight.clamp_(min=_MIN_GAMMA)


@dataclass(frozen=True, kw_only=True)
class Edge:
    """From one state of a cell to another; `size` is (H, W) of the state it starts from."""

    in_channels: int
    out_channels: int
    stride: int
    size: tuple[int, int]


def nas_operation(nas_op: NasOp, edge: Edge, bits: dict[str, Any], *, is_direct: bool) -> nn.Module:
    """Return the module of an operation; `is_direct`: it is added as it is, a pool without batch normalization then."""
    if nas_op.op == "max_pool_3x3":
        pool = MaxPool if is_direct else MaxPoolBN
        return pool(edge.in_channels, edge.out_channels, stride=edge.stride)
    if nas_op.op != "skip_connect":
        kernel = {"conv_1x1": 1, "conv_3x3": 3, "conv_5x5": 5}[nas_op.op]
        return ConvBN(edge.in_channels, edge.out_channels, kernel, stride=edge.stride, **bits)
    if edge.stride == 2:
        return factorized_reduction(edge.in_channels, edge.out_channels, size=edge.size, **bits)
    if edge.in_channels != edge.out_channels:
        return ConvBN(edge.in_channels, edge.out_channels, 1, **bits)
    return nn.Identity()


def residual(layer: Layer, edge: Edge, bits: dict[str, Any]) -> nn.Module:
    """Return the module of a residual: the state itself, or its projection."""
    if not layer.projection:
        return nn.Identity()
    return ConvBN(edge.in_channels, edge.out_channels, 1, stride=edge.stride, **bits)
