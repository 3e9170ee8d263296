"""Brevitas layers with three ways to run: fused fake quantization (`fused`), Brevitas' own, and plain float.

Training and its evaluations run fused; the export runs Brevitas and writes its quantizers. All share the parameters.
Shapes: activations (B, C, H, W), or (B, C) in the classifier.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import fused

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brevitas.nn as qnn

Mode = Literal["fused", "brevitas", "float"]
INPUT_SCALE = 1 / 255


class _Switched(nn.Module):
    mode: Mode = "fused"


class _Weighted(_Switched):
    """Weights of `weight_bits` bits with one scale an output channel, or one for all.

    A learned scale takes all integers of the bits, one that follows the weights leaves out the lowest. With a `leader`
    the scale is that of the leader's weights times `units`, a power of two.
    """

    weight: nn.Parameter
    units: Tensor
    _is_per_channel: bool

    def __init__(
        self,
        *args: Any,
        weight_bits: int,
        has_learned_scale: bool,
        leader: _Weighted | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, bias=False, **settings)
        self.weight_bits = weight_bits
        self.has_learned_scale = has_learned_scale and leader is None
        self._leader = () if leader is None else (leader,)  # in a tuple, so that it is no module of this one
        if leader is not None:
            self.register_buffer("units", torch.ones(()))
        half = 1 << weight_bits - 1
        self.levels = (-1, 1) if weight_bits == 1 else (-half if has_learned_scale else 1 - half, half - 1)

    @property
    def log2_threshold(self) -> nn.Parameter:
        """Return the logarithms of what the largest level stands for, (O, 1, 1, 1) or (); only of a learned scale."""
        return self.weight_quant.tensor_quant.scaling_impl.value

    @property
    def leader(self) -> _Weighted | None:
        """Return the layer whose weights' scale these follow, None if they have their own."""
        return self._leader[0] if self._leader else None

    @property
    def weight_scale(self) -> Tensor:
        """Return the scale of the weights, (O, 1, 1, 1) or ()."""
        if self.leader is not None:
            return self.leader.weight_scale * self.units
        if self.has_learned_scale:
            return fused.learned_scale(self.log2_threshold, *self.levels)
        return fused.statistics_scale(self.weight, self.weight_bits, per_channel=self._is_per_channel)

    def follow(self) -> None:
        """Take up the leader's scale, for Brevitas to read."""
        if self.leader is not None:
            self.weight_quant.tensor_quant.scaling_impl.scale = self.weight_scale

    def weight_rows(self) -> Tensor:
        """Return the weights as rows (O, N) that have one scale each, or one row."""
        return self.weight.detach().flatten(1) if self._is_per_channel else self.weight.detach().reshape(1, -1)

    def _active_weight(self) -> Tensor:
        if self.mode == "float":
            return self.weight
        if self.leader is not None:
            return fused.following_weight(self.weight, self.weight_scale, *self.levels, has_zero=self.weight_bits > 1)
        if self.has_learned_scale:
            return fused.learned_weight(self.weight, self.log2_threshold, *self.levels)
        return fused.quantized_weight(self.weight, self.weight_bits, per_channel=self._is_per_channel)


class Conv2d(_Weighted, qnn.QuantConv2d):
    """A convolution whose strided 1x1 form reads every second pixel first, while gradients are recorded.

    With a channels-last input of few channels, the weight gradient of the strided form writes past its buffer and may
    end the process (oneDNN in torch 2.13; uxlfoundation/oneDNN issue 6035). The export has the strided form.
    """

    _is_per_channel = True

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "brevitas":
            self.follow()
            return super().forward(x)
        return self.inner_forward_impl(x, self._active_weight(), None)

    def inner_forward_impl(self, x: Tensor, quant_weight: Tensor, quant_bias: Tensor | None) -> Tensor:
        if self.kernel_size != (1, 1) or self.stride == (1, 1) or not torch.is_grad_enabled():
            return super().inner_forward_impl(x, quant_weight, quant_bias)
        down, right = self.stride
        return nn.functional.conv2d(x[:, :, ::down, ::right], quant_weight, quant_bias, groups=self.groups)


class Linear(_Weighted, qnn.QuantLinear):
    """A classifier without bias whose weights share one scale."""

    _is_per_channel = False

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "brevitas":
            return super().forward(x)
        return nn.functional.linear(x, self._active_weight())


class _Activation(_Switched):
    """An activation quantizer with a learned scale, or one that follows another's: it is that one's over 2^shift.

    The scale of one that others follow is short, 12 significant bits: their sums are exact then in float32, too, and
    a sum in the middle between two levels goes to the even one in every execution.
    """

    levels: tuple[int, int]

    def __init__(
        self,
        *,
        levels: tuple[int, int],
        leader: _Activation | None,
        shift: int = 0,
        is_short: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.levels, self.shift, self._is_short = levels, shift, is_short
        self._leader = () if leader is None else (leader,)  # in a tuple, so that it is no module of this one

    @property
    def leader(self) -> _Activation | None:
        """Return the quantizer whose scale this one follows, None if it has its own."""
        return self._leader[0] if self._leader else None

    @property
    def log2_threshold(self) -> nn.Parameter:
        """Return the logarithm of what the largest level stands for; of a follower, its leader's."""
        if self.leader is not None:
            return self.leader.log2_threshold
        return self._tensor_quant.scaling_impl.value

    @property
    def divisor(self) -> float:
        """Return what the threshold is divided by to give the scale."""
        return fused.divisor(*self.levels) if self.leader is None else self.leader.divisor * 2.0**self.shift

    @property
    def is_short(self) -> bool:
        """Return whether the scale is rounded to 12 significant bits."""
        return self._is_short if self.leader is None else self.leader.is_short

    @property
    def scale(self) -> Tensor:
        """Return the scale, a scalar."""
        return fused.scale(self.log2_threshold.detach(), self.divisor, is_short=self.is_short)

    def follow(self) -> None:
        """Take up the leader's scale, for Brevitas to read."""
        if self.leader is not None:
            self._tensor_quant.scaling_impl.scale = fused.scale(
                self.log2_threshold, self.divisor, is_short=self.is_short
            )

    @property
    def _tensor_quant(self) -> Any:
        return self.act_quant.fused_activation_quant_proxy.tensor_quant


class ReLU(_Activation, qnn.QuantReLU):
    """A ReLU with an unsigned quantizer behind it; `levels` are its lowest and its highest integer.

    ceiling: the most that it lets through, 6 of a ReLU6. The quantizer clips at its largest level anyway, which
    `constrain` keeps at or below.
    """

    ceiling: float | None = None

    def __init__(
        self,
        *,
        act_quant: type[Any],
        bits: int,
        leader: _Activation | None = None,
        shift: int = 0,
        is_short: bool = False,
    ) -> None:
        levels = (0, (1 << bits) - 1)
        super().__init__(
            levels=levels, leader=leader, shift=shift, is_short=is_short, act_quant=act_quant, bit_width=bits
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "brevitas":
            self.follow()
            return super().forward(x)
        if self.mode == "float":
            return nn.functional.relu(x) if self.ceiling is None else x.clamp(0, self.ceiling)
        return fused.activation(x, self.log2_threshold, self.divisor, *self.levels, is_short=self.is_short)

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the largest level at or below the ceiling."""
        if self.ceiling is not None:
            self.log2_threshold.clamp_(max=math.log2(self.ceiling))


class Signed(_Activation, qnn.QuantIdentity):
    """A signed quantizer; `levels` are its lowest and its highest integer."""

    def __init__(self, *, act_quant: type[Any], bits: int, leader: _Activation | None = None, shift: int = 0) -> None:
        levels = (-(1 << bits - 1), (1 << bits - 1) - 1)
        super().__init__(levels=levels, leader=leader, shift=shift, act_quant=act_quant, bit_width=bits)

    def forward(self, *terms: Tensor) -> Tensor:
        """Return the sum of tensors, each quantized."""
        if self.mode == "fused":
            return fused.joined(terms, self.log2_threshold, self.divisor, *self.levels, is_short=self.is_short)
        if self.mode == "brevitas":
            self.follow()
            terms = tuple(super(Signed, self).forward(term) for term in terms)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class States(_Switched):
    """What brings states (B, C, H, W) into a sum of accumulators: `units`, a power of two, of the scale of each
    channel's weights in the layer's convolution; in float what that should come near to, `weight` (1, C, 1, 1).
    """

    weight: Tensor
    units: Tensor

    def __init__(self, conv: Conv2d) -> None:
        super().__init__()
        self._conv = (conv,)  # in a tuple, so that it is no module of this one
        self.register_buffer("weight", torch.ones(1, conv.out_channels, 1, 1))
        self.register_buffer("units", torch.ones(()))
        self._constant = self.weight

    @property
    def leader(self) -> Conv2d:
        """Return the layer's convolution."""
        return self._conv[0]

    @property
    def factor(self) -> Tensor:
        """Return what a state is multiplied by, (1, C, 1, 1)."""
        return self.leader.weight_scale.view(1, -1, 1, 1) * self.units

    def follow(self) -> None:
        """Take up the factor as a constant, for the export to write."""
        self._constant = self.factor

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "float":
            return x * self.weight
        return x * (self._constant if torch.jit.is_tracing() else self.factor)


class Pixels(_Switched, qnn.QuantIdentity):
    """The network's input: uint8 with the scale 1/255."""

    levels = (0, 255)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "brevitas":
            return super().forward(x)
        return x if self.mode == "float" else fused.pixels(x, INPUT_SCALE)
