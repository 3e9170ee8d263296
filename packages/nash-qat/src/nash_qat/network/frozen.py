"""A quantized network as plain torch layers, for inference in any precision."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn

from ..quant import layers, quantizers


class _FixedQuantizer(nn.Module):
    """A quantizer whose scale is a number: round(x / scale) held to low..high, times scale; of several x the sum."""

    def __init__(self, scale: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self._low, self._high = low, high

    def forward(self, *terms: Tensor) -> Tensor:
        quantized = [(term / self.scale).round().clamp(self._low, self._high) * self.scale for term in terms]
        return functools.reduce(torch.add, quantized)


class _FixedFactor(nn.Module):
    """Multiplication by constants (1, C, 1, 1)."""

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@torch.no_grad()
def freeze(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return an inference copy in plain torch layers that uses exactly the scales and weights of the exported file.

    Scales and weights are those of the float32 network, converted to `dtype` only then: in float64 the copy is the
    reference to which every other execution is compared.
    """
    result = copy.deepcopy(network).eval()
    for name, module in network.eval().named_modules():
        replacement = _frozen_layer(module, dtype)
        if replacement is not None:
            parent, _, child = name.rpartition(".")
            setattr(result.get_submodule(parent), child, replacement)
    return result.to(dtype)


def _frozen_layer(module: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    if isinstance(module, layers.Conv2d):
        layer: nn.Module = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            groups=module.groups,
            bias=False,
        )
    elif isinstance(module, layers.Linear):
        layer = nn.Linear(module.in_features, module.out_features, bias=False)
    elif isinstance(module, layers.ReLU | layers.Signed | layers.Pixels):
        quantizer = _FixedQuantizer(quantizers.act_scale(module), *module.levels)
        return nn.Sequential(nn.ReLU(), quantizer) if isinstance(module, layers.ReLU) else quantizer
    elif isinstance(module, layers.States):
        return _FixedFactor(module.factor.detach().clone())
    else:
        return None
    module.follow()
    quantized = module.quant_weight()
    integers = (quantized.value / quantized.scale).round()
    layer.weight = nn.Parameter(integers.to(dtype) * quantized.scale.to(dtype), requires_grad=False)
    return layer
