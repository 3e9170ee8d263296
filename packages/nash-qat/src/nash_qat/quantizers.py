"""Quantizers: the only file that knows Brevitas.

Weights (O, I, kH, kW) have one scale an output channel and no zero point: narrow signed integers from 2 bits on (at 2
bits the scale follows the mean magnitude, above the largest), +-mean|W| at 1 bit. Activations (B, C, H, W) have one
learned scale a tensor, kept positive by its logarithm: unsigned behind a ReLU, signed on both sides of an addition.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brevitas.nn as qnn
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

INPUT_SCALE = 1 / 255
_MIN_SCALE = 1e-8
# Values before a quantizer are often whole multiples of another scale. A scale with a plain ratio to it would put its
# rounding thresholds exactly on such values, where executions differ by float noise: keep the ratio odd.
_OFF_GRID = 1.0007
_TWO_BIT_FACTOR = 1.4  # times mean|W|: the rounding threshold 0.7 mean|W| of ternary weights (arXiv 1605.04711, eq. 6)


class _MeanMagnitude(nn.Module):
    """Mean of |w| over a channel's non-zero weights, so that structural zeros do not count.

    >>> _MeanMagnitude()(torch.tensor([[1.0, -3.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor([2., 0.])
    """

    def __init__(self, stats_reduce_dim: int | None = 1, factor: float = 1.0) -> None:
        super().__init__()
        self._dim = stats_reduce_dim
        self._factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        magnitude = weight.abs()
        if self._dim is None:
            return self._factor * magnitude.sum() / magnitude.count_nonzero().clamp(min=1)
        return self._factor * magnitude.sum(self._dim) / magnitude.count_nonzero(self._dim).clamp(min=1)


class _TernaryMagnitude(_MeanMagnitude):
    def __init__(self, stats_reduce_dim: int | None = 1) -> None:
        super().__init__(stats_reduce_dim, _TWO_BIT_FACTOR)


class _PerChannel(ExtendedInjector):
    scaling_per_output_type = ScalingPerOutputType.CHANNEL


class _PerTensor(ExtendedInjector):
    scaling_per_output_type = ScalingPerOutputType.TENSOR


class _WeightScale(ExtendedInjector):
    scaling_impl_type = ScalingImplType.STATS
    scaling_stats_op = "max"
    scaling_min_val = _MIN_SCALE
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
    scaling_min_val = _MIN_SCALE


class _UnsignedAct(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_init = 4.0


class _SignedAct(IntQuant, _LearnedScale, ActQuantSolver):
    scaling_init = 10.0


class _Pixels(UintQuant, _PerTensor, ActQuantSolver):
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    scaling_init = 255 * INPUT_SCALE
    bit_width = 8


class _Conv2d(qnn.QuantConv2d):
    """A convolution whose strided 1x1 form reads every second pixel first, while gradients are recorded.

    With a channels-last input of few channels, the weight gradient of the strided form writes past its buffer and may
    end the process (oneDNN in torch 2.13; uxlfoundation/oneDNN issue 6035). The export has the strided form.
    """

    def inner_forward_impl(self, x: Tensor, quant_weight: Tensor, quant_bias: Tensor | None) -> Tensor:
        if self.kernel_size != (1, 1) or self.stride == (1, 1) or not torch.is_grad_enabled():
            return super().inner_forward_impl(x, quant_weight, quant_bias)
        down, right = self.stride
        return nn.functional.conv2d(x[:, :, ::down, ::right], quant_weight, quant_bias, groups=self.groups)


def conv(
    in_channels: int, out_channels: int, kernel: int, *, bits: int, stride: int = 1, padding: int, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias whose weights have one scale an output channel."""
    return _Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=padding,
        groups=groups,
        bias=False,
        **_weight_quant(bits, {1: _BinaryPerChannel, 2: _TernaryPerChannel}.get(bits, _IntPerChannel)),
    )


def linear(in_features: int, out_features: int, *, bits: int) -> nn.Linear:
    """Return a classifier without bias whose weights have one scale."""
    return qnn.QuantLinear(
        in_features,
        out_features,
        bias=False,
        **_weight_quant(bits, {1: _BinaryPerTensor, 2: _TernaryPerTensor}.get(bits, _IntPerTensor)),
    )


def _weight_quant(bits: int, quantizer: type[Any]) -> dict[str, Any]:
    fixed = bits <= 2  # these classes carry their own bit width
    return {"weight_quant": quantizer} if fixed else {"weight_quant": quantizer, "weight_bit_width": bits}


def pixels() -> nn.Module:
    """Return the network's input quantizer: uint8 with the scale 1/255."""
    return qnn.QuantIdentity(act_quant=_Pixels)


def relu(*, bits: int) -> nn.Module:
    """Return a ReLU with an unsigned quantizer behind it."""
    return qnn.QuantReLU(act_quant=_UnsignedAct, bit_width=bits)


def signed(*, bits: int) -> nn.Module:
    """Return a signed quantizer."""
    return qnn.QuantIdentity(act_quant=_SignedAct, bit_width=bits)


def is_learned(module: nn.Module) -> bool:
    """Say whether a module is an activation quantizer with a learned scale."""
    if not isinstance(module, qnn.QuantReLU | qnn.QuantIdentity):
        return False
    return any(name.endswith("scaling_impl.value") for name, _ in module.named_parameters())


def levels(quantizer: nn.Module) -> tuple[int, int]:
    """Return the lowest and the highest integer of an activation quantizer."""
    proxy = quantizer.act_quant
    bits = int(proxy.bit_width().item())
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if proxy.is_signed else (0, (1 << bits) - 1)


def act_scale(quantizer: nn.Module) -> Tensor:
    """Return the scale of an activation quantizer."""
    return quantizer.act_quant.scale().detach()


@torch.no_grad()
def set_act_scale(quantizer: nn.Module, scale: float) -> None:
    """Set the learned scale of an activation quantizer."""
    low, high = levels(quantizer)
    threshold = scale * (high if low == 0 else -low)
    scaling = quantizer.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
    scaling.value.fill_(torch.log2(torch.tensor(max(threshold, _MIN_SCALE), dtype=torch.float64)).item())


@torch.no_grad()
def best_scale(values: Tensor, low: int, high: int) -> float:
    """Return the scale of the integers low..high that quantizes `values` with the least square error.

    >>> round(best_scale(torch.arange(16.0), 0, 15), 2)
    1.0
    """
    values = values.detach().flatten().double()
    if len(values) > 1 << 16:
        values = values[:: len(values) // (1 << 16)]
    largest = float(values.clamp(min=0).max()) if low == 0 else float(values.abs().max())
    if largest == 0:
        return 1.0 / high
    scales = [largest * step / 64 / high for step in range(8, 65)]
    errors = [float(((values / s).round().clamp(low, high) * s - values).square().sum()) for s in scales]
    return _OFF_GRID * scales[min(range(len(scales)), key=errors.__getitem__)]


def set_enabled(network: nn.Module, enabled: bool) -> None:
    """Switch all quantizers of a network on, or off to run it in float."""
    for module in network.modules():
        if hasattr(module, "disable_quant"):
            module.disable_quant = not enabled


class _ActHandler(BrevitasActQuantProxyHandler):
    """Export a 1-bit activation as the unsigned quantizer it is; the stock handler makes it bipolar."""

    def prepare_for_export(self, module: Any) -> None:
        super().prepare_for_export(module)
        self.quant_op = BrevitasQuantOp


class _Manager(QONNXManager):
    handlers = [_ActHandler, *(h for h in QONNXManager.handlers if h is not BrevitasActQuantProxyHandler)]  # noqa: RUF012


def export_qonnx(network: nn.Module, x: Tensor, path: str, *, opset: int) -> None:
    """Write a network as QONNX, in one file."""
    with warnings.catch_warnings():
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
