"""What float networks are made of: convolutions, max-pools and reductions with batch normalization.

Shapes: (B, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBN(nn.Sequential):
    """Convolution and batch normalization."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, *, groups: int = 1, pad: int | None = None
    ) -> None:
        pad = kernel // 2 if pad is None else pad
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, pad, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(out_channels))


class MaxPoolBN(nn.Module):
    """3x3 max-pool, its channels repeated to fill the output, and batch normalization."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.repeats = out_channels // in_channels
        self.pool = nn.MaxPool2d(3, stride, 1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return self.bn(torch.cat([x] * self.repeats, 1) if self.repeats > 1 else x)


class FactorizedReduction(nn.Module):
    """Two 1x1 convolutions of stride 2, the second one pixel further, half of the outputs each, and BN."""

    def __init__(self, in_channels: int, out_channels: int, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False) for _ in range(2))
        self.bn = nn.BatchNorm2d(out_channels)
        self.padding = (0, size[1] % 2, 0, size[0] % 2)  # an odd size gets a row or column of zeros

    def forward(self, x: Tensor) -> Tensor:
        shifted = x[:, :, 1:, 1:]
        if any(self.padding):
            shifted = F.pad(shifted, self.padding)
        return self.bn(torch.cat([self.convs[0](x), self.convs[1](shifted)], 1))
