"""Sums of accumulators as they are, with one batch normalization behind them: the joins of the kind `fused`.

    y = BN(sum_i conv_i(x_i; w_i) + 2^m s_w[c] x_state)

The weights of all convolutions have the scales s_w[c] of the layer's own one, times a power of two for each, and all x
have one scale times a power of two (see joins.py): in hardware that is an addition of integers, shifted as wires are.
How many units a state counts is a whole power of two for a layer: at first that which gives a state the variance of the
convolution's accumulators, sum_i w_i^2 of a channel if its inputs are independent.
Shapes: activations (B, C, H, W), weights (O, I, kH, kW).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..quant import quantizers

_MIN_GAMMA = 1e-3
_EPS = nn.BatchNorm2d(1).eps
_TERMS = ("main", "residual", "nas_op")


class FusedSum(nn.Module):
    """The sum of a layer's accumulators and states, and the batch normalization behind it.

    conv: the layer's own convolution, whose weights' scales all terms have. others: convolutions that are added to it,
    as are `num_states` states.
    """

    def __init__(self, conv: nn.Conv2d, others: Sequence[nn.Conv2d], *, num_states: int) -> None:
        super().__init__()
        self._conv, self._others = (conv,), tuple(others)  # in tuples, so that they are no modules of this one
        self.num_states = num_states
        self.states = quantizers.states(conv) if num_states else None
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


def of_network(network: nn.Module) -> Iterator[tuple[str, FusedSum]]:
    """Yield the sums of a network, from the pictures to the logits, with the names of their layers."""
    for name, module in network.named_modules():
        if isinstance(module, FusedSum):
            yield name.removesuffix(".join"), module


def folded(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file as the sums of a network need them: a batch normalization of a term is folded.

    In float that is the same function, but where an identity and a max-pool with a batch normalization are added: both
    then have the identity's factor. A sum whose own batch normalization is in the file is left as it is.
    """
    found = dict(tensors)
    for layer, total in of_network(network):
        terms = [f"{layer}.{term}" for term in _TERMS]
        if f"{layer}.join.bn.weight" in found or f"{layer}.main.bn.weight" not in found:
            continue
        offset, factors = torch.zeros(total.bn.num_features, dtype=torch.float64), []
        for term in terms:
            if f"{term}.bn.weight" not in found:
                continue
            factor, shift = _line(found, f"{term}.bn")
            offset += shift
            if f"{term}.conv.weight" in found:
                weight = found[f"{term}.conv.weight"]
                found[f"{term}.conv.weight"] = (weight.double() * factor.view(-1, 1, 1, 1)).to(weight)
            else:
                factors.append(factor.abs())
        ones = torch.ones_like(offset)
        if total.states is not None:
            factor = factors[0] if factors and total.num_states == 1 else ones
            found[f"{layer}.join.states.weight"] = factor.float().view(1, -1, 1, 1)
        found |= {
            f"{layer}.join.bn.{key}": value.float()
            for key, value in {
                "weight": ones,
                "bias": offset,
                "running_mean": 0 * ones,
                "running_var": ones - total.bn.eps,
            }.items()
        }
    return found


def _line(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return what a batch normalization in evaluation multiplies by and adds, (C,) float64 each."""
    gamma, beta, mean, variance = (
        tensors[f"{name}.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / (variance + _EPS).sqrt()
    return factor, beta - mean * factor


@torch.no_grad()
def take_statistics(network: nn.Module, x: Tensor) -> None:
    """Let every sum normalize with the statistics of pictures x (N, C, H, W) in [0, 1], and be the same function.

    So it is nearly that in training, too, whose statistics are those of a batch.
    """
    was_training = network.training
    hooks = [total.bn.register_forward_pre_hook(_take_statistics) for _, total in of_network(network)]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    network.train(was_training)


def _take_statistics(bn: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0].double(), (0, 2, 3), correction=0)
    factor = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    bias = bn.bias.double() + (mean - bn.running_mean.double()) * factor
    for tensor, value in (
        (bn.weight, factor * (variance + bn.eps).sqrt()),
        (bn.bias, bias),
        (bn.running_mean, mean),
        (bn.running_var, variance),
    ):
        tensor.copy_(value)
