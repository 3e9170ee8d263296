"""Sums of accumulators as they are, with one batch normalization behind them: the joins of the kind `fused`.

    y = BN(sum_i conv_i(x_i; w_i) + 2^m s_w[c] x_state)

The weights of all convolutions have the scales s_w[c] of the layer's own one, times a power of two for each, and all x
have one scale times a power of two (see joins.py): in hardware that is an addition of integers, shifted as wires are.
How many units a state counts is a whole power of two for a layer: at first that which gives a state the variance of the
convolution's accumulators, sum_i w_i^2 of a channel if its inputs are independent.
Shapes: activations (B, C, H, W), weights (O, I, kH, kW).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import quantizers

_MIN_GAMMA = 1e-3


class FusedSum(nn.Module):
    """The sum of a layer's accumulators and states, and the batch normalization behind it.

    conv: the layer's own convolution, whose weights' scales all terms have. others: convolutions that are added to it.
    """

    def __init__(self, conv: nn.Conv2d, others: Sequence[nn.Conv2d], *, has_states: bool) -> None:
        super().__init__()
        self._conv, self._others = (conv,), tuple(others)  # in tuples, so that they are no modules of this one
        self.states = quantizers.states(conv) if has_states else None
        self.bn = nn.BatchNorm2d(conv.out_channels)

    def forward(self, accumulators: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
        total = accumulators[0]
        for term in accumulators[1:]:
            total = total + term
        for state in states:
            total = total + self.states(state)
        return self.bn(total)

    @torch.no_grad()
    def initialize(self) -> None:
        """Give the weights scales, and states the variance of the convolution's accumulators."""
        (conv,) = self._conv
        if quantizers.has_learned_weight_scale(conv):
            quantizers.fit_weight_scale(conv)
        if self.states is not None:
            self.states.weight.copy_(conv.weight_rows().norm(dim=1).view(1, -1, 1, 1))
        self.fit()

    def fit(self) -> None:
        """Choose the powers of two anew for the weights as they are; states keep their share of the sum."""
        for conv in self._others:
            quantizers.fit_units(conv)
        if self.states is not None:
            quantizers.set_units(self.states, self.states.weight)

    @torch.no_grad()
    def keep(self, before: FusedSum) -> None:
        """Choose the powers of two so that all but the layer's own convolution is nearly as in another sum."""
        for conv, other in zip(self._others, before._others, strict=True):
            quantizers.set_units(conv, other.weight_scale)
        if self.states is not None:
            quantizers.set_units(self.states, before.states.factor)

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep gamma positive where states are added: the hardware then has nothing to multiply by -1."""
        if self.states is not None:
            self.bn.weight.clamp_(min=_MIN_GAMMA)
            if self.states.mode == "fused":
                self.states.weight.copy_(self.states.factor)
