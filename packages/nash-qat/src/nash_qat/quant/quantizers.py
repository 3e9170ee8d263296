"""Quantizers as the network asks for them; how Brevitas puts them together is in injectors.py.

Weights (O, I, kH, kW) have one scale an output channel and no zero point. Where it follows the weights, they are narrow
signed integers from 2 bits on (at 2 bits the scale follows the mean magnitude, above the largest) and +-mean|W| at 1
bit; where it is learned, they are all signed integers of the bits, or plus or minus the scale. Activations (B, C, H, W)
have one learned scale a tensor, or that of another tensor: unsigned behind a ReLU, signed on both sides of an addition.
Learned scales are kept positive by their logarithms.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import fused, injectors, layers, scales

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.export.onnx.qonnx.function import BrevitasQuantOp
    from brevitas.export.onnx.qonnx.handler import BrevitasActQuantProxyHandler
    from brevitas.export.onnx.qonnx.manager import QONNXManager

INPUT_SCALE = layers.INPUT_SCALE
_EXPONENTS = range(-10, 13)  # of the units of a sum
_FINE_ENOUGH = 0.01  # square error over squares, 20 dB: that of four bits


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    bits: int,
    has_learned_scale: bool = False,
    stride: int = 1,
    padding: int,
    groups: int = 1,
    leader: nn.Module | None = None,
) -> nn.Conv2d:
    """Return a convolution without bias whose weights have one scale an output channel.

    It is learned or follows the weights, or it is that of the weights of `leader` times a power of two.
    """
    own = injectors.LEARNED_PER_CHANNEL if has_learned_scale else injectors.PER_CHANNEL
    following = injectors.FOLLOWING_LEARNED if has_learned_scale else injectors.FOLLOWING
    return layers.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        weight_bits=bits,
        has_learned_scale=has_learned_scale,
        leader=leader,
        **_weight_quant(bits, own if leader is None else following),
    )


def linear(in_features: int, out_features: int, *, bits: int, has_learned_scale: bool = False) -> nn.Linear:
    """Return a classifier without bias whose weights have one scale."""
    return layers.Linear(
        in_features,
        out_features,
        weight_bits=bits,
        has_learned_scale=has_learned_scale,
        **_weight_quant(bits, injectors.LEARNED_PER_TENSOR if has_learned_scale else injectors.PER_TENSOR),
    )


def _weight_quant(bits: int, quantizers: injectors.Quantizers) -> dict[str, Any]:
    if bits in quantizers:
        return {"weight_quant": quantizers[bits]}
    return {"weight_quant": quantizers[None], "weight_bit_width": bits}


def pixels() -> nn.Module:
    """Return the network's input quantizer: uint8 with the scale 1/255."""
    return layers.Pixels(act_quant=injectors.Pixels)


def relu(*, bits: int, leader: nn.Module | None = None, shift: int = 0, leads: bool = False) -> nn.Module:
    """Return a ReLU with an unsigned quantizer behind it.

    It has the scale of `leader` over 2^shift if there is one; `leads` says that others will have its own.
    """
    if leader is not None:
        return layers.ReLU(act_quant=injectors.UnsignedFollower, bits=bits, leader=leader, shift=shift)
    return layers.ReLU(
        act_quant=injectors.UnsignedLeader if leads else injectors.UnsignedAct, bits=bits, is_short=leads
    )


def signed(*, bits: int, leader: nn.Module | None = None, shift: int = 0) -> nn.Module:
    """Return a signed quantizer; called with several tensors it returns the sum of all, each quantized.

    Its scale is learned, or that of `leader` over 2^shift.
    """
    act_quant = injectors.SignedAct if leader is None else injectors.SignedFollower
    return layers.Signed(act_quant=act_quant, bits=bits, leader=leader, shift=shift)


def states(conv: nn.Module) -> nn.Module:
    """Return what brings states into the sum of a convolution's accumulators and others."""
    return layers.States(conv)


def is_scale(name: str) -> bool:
    """Say whether a tensor of a network's state is a learned scale or the power of two of one, by its name."""
    return name.endswith(("scaling_impl.value", ".units"))


def is_activation(module: nn.Module) -> bool:
    """Say whether a module quantizes activations with a scale of its own or another's."""
    return isinstance(module, layers.ReLU | layers.Signed)


def is_learned(module: nn.Module) -> bool:
    """Say whether a module is an activation quantizer with a learned scale of its own."""
    return is_activation(module) and module.leader is None


def shares_scale(module: nn.Module) -> bool:
    """Say whether a module is an activation quantizer whose scale others have, too."""
    return is_activation(module) and module.is_short


def has_ceiling(module: nn.Module) -> bool:
    """Say whether a module is a quantized ReLU that lets no more than some value through."""
    return is_relu(module) and module.ceiling is not None


def is_relu(module: nn.Module) -> bool:
    """Say whether a module is a ReLU with a quantizer behind it."""
    return isinstance(module, layers.ReLU)


def act_scale(quantizer: nn.Module) -> Tensor:
    """Return the scale of an activation quantizer."""
    if is_activation(quantizer):
        return quantizer.scale
    return quantizer.act_quant.scale().detach()


@torch.no_grad()
def set_act_scale(quantizer: nn.Module, scale: float) -> None:
    """Set the learned scale of an activation quantizer, or that of its leader so that it gets this one."""
    low, high = (quantizer.leader or quantizer).levels
    threshold = scale * 2.0**quantizer.shift * (high if low == 0 else -low)
    log2_threshold = torch.log2(torch.tensor(max(threshold, fused.MIN_SCALE), dtype=torch.float64))
    quantizer.log2_threshold.fill_(log2_threshold.item())
    if has_ceiling(quantizer):
        quantizer.constrain()


def has_learned_weight_scale(module: nn.Module) -> bool:
    """Say whether a module's weights have a learned scale."""
    return isinstance(module, layers.Conv2d | layers.Linear) and module.has_learned_scale


def follows_weights(module: nn.Module) -> bool:
    """Say whether a module's weights have the scale of another's times a power of two."""
    return isinstance(module, layers.Conv2d) and module.leader is not None


@torch.no_grad()
def fit_weight_scale(layer: nn.Module) -> None:
    """Set the learned scales of a layer's weights to those of least square error."""
    low, high = layer.levels
    found = scales.best_weight_scales(layer.weight_rows(), low, high)
    thresholds = (found * max(high, -low)).clamp_min(fused.MIN_SCALE)
    layer.log2_threshold.copy_(thresholds.log2().view_as(layer.log2_threshold))


@torch.no_grad()
def fit_units(conv: nn.Module) -> None:
    """Set the units of a layer whose weights follow the scale of another's to the power of two nearest to 1 that is
    fine enough (a square error of a hundredth of the weights' squares), or to that of least error if none is.

    The nearer to 1, the fewer bits the sum has. The error of a channel counts in relation to its own weights.
    """
    low, high = conv.levels
    rows, scales = conv.weight_rows().double(), conv.leader.weight_scale.double().view(-1, 1)
    squares = rows.square().sum(1).clamp_min(fused.MIN_SCALE**2)

    def error(units: float) -> float:
        scale = units * scales
        is_sign = conv.weight_bits == 1
        steps = torch.where(rows >= 0, 1.0, -1.0) if is_sign else (rows / scale).round().clamp(low, high)
        return float(((steps * scale - rows).square().sum(1) / squares).mean())

    errors = {exponent: error(2.0**exponent) for exponent in _EXPONENTS}
    enough = max(min(errors.values()), _FINE_ENOUGH)
    conv.units.fill_(2.0 ** min((exponent for exponent in errors if errors[exponent] <= enough), key=abs))


@torch.no_grad()
def set_units(follower: nn.Module, wanted: Tensor) -> None:
    """Let a layer or states count as many units of their leader's scales (C values) as come nearest to `wanted` (C)."""
    ratio = wanted.double().flatten() / follower.leader.weight_scale.double().flatten()
    exponent = round(float(ratio.clamp_min(fused.MIN_SCALE).log2().mean()))
    follower.units.fill_(2.0 ** max(_EXPONENTS.start, min(exponent, _EXPONENTS.stop - 1)))


def set_mode(network: nn.Module, mode: layers.Mode) -> None:
    """Let all layers of a network run fused, through Brevitas, or in float, where learned scales have no gradient."""
    for module in network.modules():
        if hasattr(module, "mode"):
            module.mode = mode
        if hasattr(module, "follow"):
            with torch.no_grad():  # of a tensor with a gradient the network could not be copied
                module.follow()
        if is_learned(module) or has_learned_weight_scale(module):
            module.log2_threshold.requires_grad_(mode != "float")


@contextmanager
def through_brevitas(network: nn.Module) -> Iterator[None]:
    """Let a network run through Brevitas' own quantizers within a block, fused again after it."""
    set_mode(network, "brevitas")
    try:
        yield
    finally:
        set_mode(network, "fused")


class _ActHandler(BrevitasActQuantProxyHandler):
    """Export a 1-bit activation as the unsigned quantizer it is; the stock handler makes it bipolar."""

    def prepare_for_export(self, module: Any) -> None:
        super().prepare_for_export(module)
        self.quant_op = BrevitasQuantOp


class _Manager(QONNXManager):
    handlers = [_ActHandler, *(h for h in QONNXManager.handlers if h is not BrevitasActQuantProxyHandler)]  # noqa: RUF012


def export_qonnx(network: nn.Module, x: Tensor, path: str, *, opset: int) -> None:
    """Write a network as QONNX, in one file."""
    with warnings.catch_warnings(), through_brevitas(network):
        warnings.simplefilter("ignore")
        _Manager.export(
            network,
            args=x,
            export_path=path,
            opset_version=opset,
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
        )
