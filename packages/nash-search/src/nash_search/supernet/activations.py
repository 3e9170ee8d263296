"""What makes a state of a layer's sum: nothing, tanh, or the ReLU and the quantizers of the network that is built.

Shapes: sums and states (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..genotype.genotype import LINEAR
from ..genotype.variants import Variant
from ..layers.operations import State
from ..layers.quantizers import quantized_relu, quantized_signed
from .quantization import Quantization

Activation = Callable[[Tensor], State]


def of_layer(variant: Variant, quantization: Quantization | None, activation: str, *, is_last: bool) -> Activation:
    """Return what makes the state behind a layer; nothing but the classifier reads that of the last one.

    activation: that of the backbone; behind a linear layer a state is the sum itself, signed and quantized if the
    network is.
    """
    if quantization is not None:
        made = of_quantized(quantization, is_last=is_last)
        return replace(made, is_signed=activation == LINEAR)
    if activation == LINEAR:
        return State
    return _tanh if variant.activation == "tanh" else State


def of_quantized(quantization: Quantization, *, is_last: bool = False) -> Rectified:
    """Return what makes a state of a quantized supernet."""
    return Rectified(quantization.act_bits, quantization.act_bits if is_last else quantization.state_bits)


@dataclass(frozen=True)
class Rectified:
    """ReLU and quantizer; where both precisions are read, the coarser state is made from the finer, as in nash-qat.

    is_signed: there is no ReLU, and one of the bits is the sign.
    """

    act_bits: int
    state_bits: int
    is_signed: bool = False

    def __call__(self, y: Tensor) -> State:
        quantized = quantized_signed if self.is_signed else quantized_relu
        fine = quantized(y, max(self.act_bits, self.state_bits))
        if self.act_bits == self.state_bits:
            return State(fine)
        coarse = quantized(fine, min(self.act_bits, self.state_bits))
        return State(coarse, act=fine) if self.act_bits > self.state_bits else State(fine, act=coarse)


def _tanh(y: Tensor) -> State:
    return State(Tanh.apply(y))


class Tanh(torch.autograd.Function):
    """tanh in place, as 2 sigmoid(2x) - 1, which torch computes in a quarter of the time.

    >>> x = torch.tensor([-1.0, 0.0, 20.0], requires_grad=True)
    >>> y = Tanh.apply(x.clone())
    >>> y
    tensor([-0.7616,  0.0000,  1.0000], grad_fn=<TanhBackward>)
    >>> y.sum().backward()
    >>> x.grad
    tensor([0.4200, 1.0000, 0.0000])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        y = x.mul_(2).sigmoid_().mul_(2).sub_(1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad, y)
