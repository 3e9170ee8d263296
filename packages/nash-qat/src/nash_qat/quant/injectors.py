"""Brevitas' quantizers, put together by injection: of weights, of activations, with scales of all kinds.

A class takes the keywords of its layer (`bit_width` and the like) at injection; tables have one for each bit width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from . import fused, layers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from brevitas.core.quant import BinaryQuant
    from brevitas.core.zero_point import ZeroZeroPoint
    from brevitas.inject import ExtendedInjector
    from brevitas.inject.enum import QuantType, RestrictValueType, ScalingImplType, ScalingPerOutputType
    from brevitas.quant.base import IntQuant, NarrowIntQuant, UintQuant
    from brevitas.quant.solver.act import ActQuantSolver
    from brevitas.quant.solver.weight import WeightQuantSolver


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


class UnsignedAct(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_init = 4.0


class SignedAct(IntQuant, _LearnedScale, ActQuantSolver):
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


class UnsignedLeader(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_impl = _ShortScale


class UnsignedFollower(UintQuant, _LearnedScale, ActQuantSolver):
    scaling_impl = _LeadersScale


class SignedFollower(IntQuant, _LearnedScale, ActQuantSolver):
    scaling_impl = _LeadersScale


class Pixels(UintQuant, _PerTensor, ActQuantSolver):
    scaling_impl_type = ScalingImplType.CONST
    restrict_scaling_type = RestrictValueType.FP
    scaling_init = 255 * layers.INPUT_SCALE
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
Quantizers = dict[int | None, type[Any]]
PER_CHANNEL: Quantizers = {1: _BinaryPerChannel, 2: _TernaryPerChannel, None: _IntPerChannel}
PER_TENSOR: Quantizers = {1: _BinaryPerTensor, 2: _TernaryPerTensor, None: _IntPerTensor}
LEARNED_PER_CHANNEL: Quantizers = {1: _LearnedBinaryPerChannel, None: _LearnedIntPerChannel}
LEARNED_PER_TENSOR: Quantizers = {1: _LearnedBinaryPerTensor, None: _LearnedIntPerTensor}
FOLLOWING: Quantizers = {1: _FollowingBinary, None: _FollowingNarrowInt}
FOLLOWING_LEARNED: Quantizers = {1: _FollowingBinary, None: _FollowingInt}
