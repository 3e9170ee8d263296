"""Quantizers: the only file that knows Brevitas injection.

Weights (O, I, kH, kW) have one scale an output channel and no zero point. Where it follows the weights, they are narrow
signed integers from 2 bits on (at 2 bits the scale follows the mean magnitude, above the largest) and +-mean|W| at 1
bit; where it is learned, they are all signed integers of the bits, or plus or minus the scale. Activations (B, C, H, W)
have one learned scale a tensor, or that of another tensor: unsigned behind a ReLU, signed on both sides of an addition.
Learned scales are kept positive by their logarithms.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import fused, layers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.core.quant import BinaryQuant
    from brevitas.core.zero_point import ZeroZeroPoint
    from brevitas.export.onnx.qonnx.function import BrevitasQuantOp
    from brevitas.export.onnx.qonnx.handler import BrevitasActQuantProxyHandler
    from brevitas.export.onnx.qonnx.manager import QONNXManager
    from brevitas.inject import ExtendedInjector
    from brevitas.inject.enum import QuantType, RestrictValueType, ScalingImplType, ScalingPerOutputType
    from brevitas.quant.base import IntQuant, NarrowIntQuant, UintQuant
    from brevitas.quant.solver.act import ActQuantSolver
    from brevitas.quant.solver.weight import WeightQuantSolver

INPUT_SCALE = layers.INPUT_SCALE
# Values before a quantizer are often whole multiples of another scale. A scale with a plain ratio to it would put its
# rounding thresholds exactly on such values, where executions differ by float noise: keep the ratio odd.
_OFF_GRID = 1.0007
_EXPONENTS = range(-10, 13)  # of the units of a sum
_FINE_ENOUGH = 0.01  # square error over squares, 20 dB: that of four bits
_WEIGHT_STEPS = 64  # of a sixteenth of an octave: the scale may be a sixteenth of the largest weight's
_BINS = 1 << 16
_CHUNK = 1 << 22  # values a histogram: float32 counts exactly up to 1 << 24
_SAMPLES = 1 << 16  # of a tensor, to find its scale


class _MeanMagnitude(nn.Module):
    def __init__(self, stats_reduce_dim: int | None = 1, factor: float = 1.0) -> None:
        super().__init__()
        self._dim = stats_reduce_dim
        self._factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        magnitude = weight.abs()
        if self._dim is None:
            return fused.mean_magnitude(magnitude.flatten(), 0, self._factor)
        return fused.mean_magnitude(magnitude, self._dim, self._factor)


class _TernaryMagnitude(_MeanMagnitude):
    def __init__(self, stats_reduce_dim: int | None = 1) -> None:
        super().__init__(stats_reduce_dim, fused.TWO_BIT_FACTOR)


class _PerChannel(ExtendedInjector):
    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class _PerTensor(ExtendedInjector):
    scaling_per_output_type = ScalingPerOutputType.TENSOR


class _WeightScale(ExtendedInjector):
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = "max"
    scaling_min_val = fused.MIN_SCALE
    restrict_scaling_type = RestrictValueType.FP


class _Binary(ExtendedInjector):
    quant_type = QuantType.BINARY
    tensor_quant = BinaryQuant
    bit_width = 1
    narrow_range = True
    signed = True
    zero_point_impl = ZeroZeroPoint
    scaling_stats_impl = _MeanMagnitude


class _Ternary(NarrowIntQuant):
    bit_width = 2
    scaling_stats_impl = _TernaryMagnitude


class _BinaryPerChannel(_Binary, _PerChannel, _WeightScale, WeightQuantSolver):
    pass


class _BinaryPerTensor(_Binary, _PerTensor, _WeightScale, WeightQuantSolver):
    pass


class _TernaryPerChannel(_Ternary, _PerChannel, _WeightScale, WeightQuantSolver):
    pass


class _TernaryPerTensor(_Ternary, _PerTensor, _WeightScale, WeightQuantSolver):
    pass


class _IntPerChannel(NarrowIntQuant, _PerChannel, _WeightScale, WeightQuantSolver):
    pass


class _IntPerTensor(NarrowIntQuant, _PerTensor, _WeightScale, WeightQuantSolver):
    pass


class _LearnedScale(_PerTensor):
    scaling_impl_type = ScalingImplType.PARAMETER
    restrict_scaling_type = RestrictValueType.LOG_FP
    scaling_min_val = fused.MIN_SCALE


class _UnsignedAct(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_init = 4.0


class _SignedAct(IntQuant, _LearnedScale, ActQuantSolver):
    scaling_init = 10.0


class _LeadersScale(nn.Module):
    """Give what a follower has taken up of its leader."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(())

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        return self.scale


class _ShortScale(nn.Module):
    """A learned scale of 12 significant bits."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, threshold: Tensor) -> Tensor:
        return fused.scale(self.value, threshold, is_short=True)


class _UnsignedLeader(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_impl = _ShortScale


class _UnsignedFollower(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_impl = _LeadersScale


class _SignedFollower(IntQuant, _LearnedScale, ActQuantSolver):
    scaling_impl = _LeadersScale


class _Pixels(UintQuant, _PerTensor, ActQuantSolver):
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    scaling_init = 255 * INPUT_SCALE
    bit_width = 8


class _LearnedWeightScale(ExtendedInjector):
    scaling_impl_type = ScalingImplType.PARAMETER
    restrict_scaling_type = RestrictValueType.LOG_FP
    scaling_min_val = fused.MIN_SCALE
    scaling_init = 1.0


class _LearnedBinaryPerChannel(_Binary, _PerChannel, _LearnedWeightScale, WeightQuantSolver):
    pass


class _LearnedBinaryPerTensor(_Binary, _PerTensor, _LearnedWeightScale, WeightQuantSolver):
    pass


class _LearnedIntPerChannel(IntQuant, _PerChannel, _LearnedWeightScale, WeightQuantSolver):
    pass


class _LearnedIntPerTensor(IntQuant, _PerTensor, _LearnedWeightScale, WeightQuantSolver):
    pass


class _FollowingWeights(_PerChannel):
    scaling_impl_type = ScalingImplType.PARAMETER  # what lies beyond the levels has no gradient
    restrict_scaling_type = RestrictValueType.FP
    scaling_init = 1.0
    scaling_impl = _LeadersScale


class _FollowingBinary(_Binary, _FollowingWeights, WeightQuantSolver):
    pass


class _FollowingInt(IntQuant, _FollowingWeights, WeightQuantSolver):
    pass


class _FollowingNarrowInt(NarrowIntQuant, _FollowingWeights, WeightQuantSolver):
    pass


# by bits; None stands for the rest, whose classes take a bit width
_Quantizers = dict[int | None, type[Any]]
_PER_CHANNEL: _Quantizers = {1: _BinaryPerChannel, 2: _TernaryPerChannel, None: _IntPerChannel}
_PER_TENSOR: _Quantizers = {1: _BinaryPerTensor, 2: _TernaryPerTensor, None: _IntPerTensor}
_LEARNED_PER_CHANNEL: _Quantizers = {1: _LearnedBinaryPerChannel, None: _LearnedIntPerChannel}
_LEARNED_PER_TENSOR: _Quantizers = {1: _LearnedBinaryPerTensor, None: _LearnedIntPerTensor}
_FOLLOWING: _Quantizers = {1: _FollowingBinary, None: _FollowingNarrowInt}
_FOLLOWING_LEARNED: _Quantizers = {1: _FollowingBinary, None: _FollowingInt}


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
    own = _LEARNED_PER_CHANNEL if has_learned_scale else _PER_CHANNEL
    following = _FOLLOWING_LEARNED if has_learned_scale else _FOLLOWING
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
        **_weight_quant(bits, _LEARNED_PER_TENSOR if has_learned_scale else _PER_TENSOR),
    )


def _weight_quant(bits: int, quantizers: _Quantizers) -> dict[str, Any]:
    if bits in quantizers:
        return {"weight_quant": quantizers[bits]}
    return {"weight_quant": quantizers[None], "weight_bit_width": bits}


def pixels() -> nn.Module:
    """Return the network's input quantizer: uint8 with the scale 1/255."""
    return layers.Pixels(act_quant=_Pixels)


def relu(*, bits: int, leader: nn.Module | None = None, shift: int = 0, leads: bool = False) -> nn.Module:
    """Return a ReLU with an unsigned quantizer behind it.

    It has the scale of `leader` over 2^shift if there is one; `leads` says that others will have its own.
    """
    if leader is not None:
        return layers.ReLU(act_quant=_UnsignedFollower, bits=bits, leader=leader, shift=shift)
    return layers.ReLU(act_quant=_UnsignedLeader if leads else _UnsignedAct, bits=bits, is_short=leads)


def signed(*, bits: int, leader: nn.Module | None = None, shift: int = 0) -> nn.Module:
    """Return a signed quantizer; called with several tensors it returns the sum of all, each quantized.

    Its scale is learned, or that of `leader` over 2^shift.
    """
    act_quant = _SignedAct if leader is None else _SignedFollower
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
    scales = best_weight_scales(layer.weight_rows(), low, high)
    thresholds = (scales * max(high, -low)).clamp_min(fused.MIN_SCALE)
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


@torch.no_grad()
def best_weight_scales(rows: Tensor, low: int, high: int) -> Tensor:
    """Return the scale of every row (O, N) that quantizes it to low..high with the least square error, (O,) float64.

    Plus or minus one (low = -1, high = 1 without zero, one bit) is best at the mean magnitude.

    >>> best_weight_scales(torch.tensor([[-2.0, 1.0, 0.0, -4.0], [0.5, -0.5, 0.25, 0.75]]), -4, 3)
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    rows = rows.double()
    if low == -high == -1:
        return rows.abs().mean(1)
    largest = rows.abs().amax(1, keepdim=True).clamp_min(fused.MIN_SCALE)
    best, least = largest / high, torch.full_like(largest, torch.inf)
    for step in range(_WEIGHT_STEPS):
        scale = largest / high * 2 ** (-step / 16)
        error = ((rows / scale).round_().clamp_(low, high).mul_(scale) - rows).square_().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    rounded = (rows / best).round_().clamp_(low, high)  # the best scale of these integers is a ratio of two products
    squares = rounded.square().sum(1)
    return torch.where(squares > 0, (rounded * rows).sum(1) / squares.clamp_min(1), best[:, 0])


@torch.no_grad()
def best_scale(terms: Sequence[Tensor], low: int, high: int) -> float:
    """Return the scale of the integers low..high that quantizes all values of `terms` with the least square error.

    The error is that of a histogram fine enough for eight bits: every value counts, wherever it lies.

    >>> round(best_scale([torch.arange(8.0), torch.arange(8.0, 16.0)], 0, 15), 2)
    1.0
    """
    largest = max(float(term.amax() if low == 0 else term.abs().amax()) for term in terms)
    if largest <= 0:
        return 1.0 / high
    values, counts = _histogram(terms, 0.0 if low == 0 else -largest, largest)

    def error(scale: float) -> float:
        return float(((values / scale).round_().clamp_(low, high).mul_(scale) - values).square_() @ counts)

    coarse = min((largest / high * 2 ** (-step / 8) for step in range(48)), key=error)
    return _OFF_GRID * min((coarse * 2 ** (step / 64) for step in range(-7, 8)), key=error)


def _histogram(terms: Sequence[Tensor], lowest: float, largest: float) -> tuple[Tensor, Tensor]:
    """Return the middles of the bins that are not empty, and how many values fall into each, both in float64."""
    counts = torch.zeros(_BINS, dtype=torch.float64)
    for term in terms:
        is_rows = term.ndim == 4 and term.is_contiguous(memory_format=torch.channels_last)
        flat = (term.detach().permute(0, 2, 3, 1) if is_rows else term.detach()).reshape(-1)
        for chunk in flat.split(_CHUNK):
            counts += torch.histc(chunk.float(), _BINS, lowest, largest).cpu()
    width = (largest - lowest) / _BINS
    (filled,) = counts.nonzero(as_tuple=True)
    return lowest + (filled + 0.5).double() * width, counts[filled]


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
