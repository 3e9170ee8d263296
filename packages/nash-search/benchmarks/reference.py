"""The reference search algorithm for ResNet18 (variant v1), step for step: what `iteration.py` compares with.

The sampled operation of every edge runs in the forward pass; in the backward pass of either step all operations of
the edge run again, each for the gradient of its gate. Operations share nothing, outputs of operations are kept, tanh is
taken once for the backbone and once for the operations, gradients of alphas are summed number by number, `none`
multiplies by zero, memory is NCHW, and the weight step throws its gate gradients away. Each step trains either alphas
or weights; the others take no gradient. Structure and formulas: arXiv 2403.01845 and its implementation; binary
convolutions: Bi-Real Net (arXiv 1808.00278).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MULTIPLES, _STRIDES, _NUM_LAYERS = (1, 2, 4, 8), (1, 2, 2, 2), 4


class SignOfState(torch.autograd.Function):
    """sign(x) with the gradient 2 - 2|x| inside [-1, 1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_x = torch.zeros_like(grad)
        grad_x = torch.where((x >= 0) & (x < 1), grad * (2 - 2 * x), grad_x)
        return torch.where((x > -1) & (x < 0), grad * (2 + 2 * x), grad_x)


class SignOfWeight(torch.autograd.Function):
    """sign(W), straight-through."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return torch.sign(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()


class BinaryConv(nn.Conv2d):
    """A convolution of signs with signs times the mean magnitude of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = SignOfWeight.apply(self.weight) * self.weight.abs().mean().detach()
        return F.conv2d(SignOfState.apply(x), weight, None, self.stride, self.padding)


class Zero(nn.Module):
    """`none`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, :, :: self.stride, :: self.stride] * 0.0
        return y if self.stride == 1 else torch.cat((y, y), 1)


class Pool(nn.Module):
    """3x3 max-pool, doubled in channels where it is strided, then BN."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(x, 3, self.stride, 1)
        return self.bn(y if self.stride == 1 else torch.cat((y, y), 1))


class Reduction(nn.Module):
    """The strided skip: two binary 1x1 convolutions, the second shifted by a pixel."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.halves = nn.ModuleList(BinaryConv(in_channels, channels // 2, 1, 2, bias=False) for _ in range(2))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.relu(torch.cat((self.halves[0](x), self.halves[1](x[:, :, 1:, 1:])), 1)))


def _conv(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = BinaryConv(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(channels))


class Gates(torch.autograd.Function):
    """One operation drawn by softmax(alpha); dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i)."""

    @staticmethod
    def forward(ctx: Any, alphas: Tensor) -> Tensor:
        probabilities = alphas.softmax(-1)
        ctx.save_for_backward(probabilities)
        return torch.zeros_like(alphas).scatter_(0, torch.multinomial(probabilities, 1), 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        of_alphas = torch.zeros_like(p)
        for i in range(len(p)):
            total = torch.zeros(())
            for j in range(len(p)):
                delta = torch.ones(()) if i == j else torch.zeros(())
                total = total + grad[j] * p[j] * (delta - p[i])
            of_alphas[i] = total
        return of_alphas


class Recompute(torch.autograd.Function):
    """The sampled output; in the backward pass every operation runs for the gradient of its gate."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, x: Tensor, y: Tensor, ops: nn.ModuleList) -> Tensor:
        ctx.kept = gates, x, y, ops  # as there: not handed to save_for_backward, so kept until the graph is gone
        return y.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gates, x, _, ops = ctx.kept
        return torch.stack([(grad * op(x)).sum() for op in ops]).view_as(gates), None, grad.clone(), None


class MixedOperation(nn.Module):
    """The six operations of an edge."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        skip = nn.Identity() if stride == 1 else Reduction(in_channels, channels)
        convs = [_conv(in_channels, channels, kernel, stride) for kernel in (1, 3, 5)]
        self.ops = nn.ModuleList([Zero(stride), Pool(channels, stride), skip, *convs])

    def forward(self, x: Tensor, alphas: Tensor) -> Tensor:
        gates = Gates.apply(alphas)
        return Recompute.apply(gates, x, self.ops[int(gates.argmax())](x), self.ops)


class Cell(nn.Module):
    """Two basic blocks, the first with a projection, and a mixed operation from every earlier state to each layer."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()

        def unit(inputs: int, kernel: int, step: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, channels, kernel, step, kernel // 2, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(channels))

        self.backbone = nn.ModuleList(
            unit(channels if layer else in_channels, 3, 1 if layer else stride) for layer in range(_NUM_LAYERS)
        )
        self.projection = unit(in_channels, 1, stride)
        self.mixed = nn.ModuleList(
            MixedOperation(channels if source else in_channels, channels, 1 if source else stride)
            for layer in range(_NUM_LAYERS)
            for source in range(layer + 1)
        )

    def forward(self, x: Tensor, alphas: Tensor) -> Tensor:
        states, edge, main, residual = [x], 0, x, x
        for layer, unit in enumerate(self.backbone):
            y = unit(main)
            if layer == 1:
                y = y + self.projection(residual)
            elif layer == 3:
                y = y + residual
            for state in list(states):
                y = y + self.mixed[edge](state, alphas[edge])
                edge += 1
            states.append(torch.tanh(y))
            main = torch.tanh(y)
            residual = main if layer == 1 else residual
        return main


class Supernet(nn.Module):
    """ResNet18; for small pictures it has a 3x3 stem of stride 1 here, the implementation has 7x7 and stride 2."""

    def __init__(self, width: int, stem: int, num_classes: int = 10) -> None:
        super().__init__()
        channels = [width * multiple for multiple in _MULTIPLES]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, stem, 1 if stem == 3 else 2, stem // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.cells = nn.ModuleList(
            Cell(inputs, outputs, stride)
            for inputs, outputs, stride in zip([width, *channels], channels, _STRIDES, strict=False)
        )
        self.classifier = nn.Linear(channels[-1], num_classes, bias=False)
        num_edges = _NUM_LAYERS * (_NUM_LAYERS + 1) // 2
        self.alphas = nn.Parameter(1e-3 * torch.randn(len(channels), num_edges, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for cell, alphas in zip(self.cells, self.alphas, strict=True):
            x = cell(x, alphas)
        return self.classifier(x.mean((2, 3)))


class Search:
    """One iteration: a step of the alphas and a step of the weights, here on the same batch."""

    def __init__(self, width: int, stem: int) -> None:
        self._supernet = Supernet(width, stem)
        self._weights = [value for name, value in self._supernet.named_parameters() if name != "alphas"]
        self._weight_optimizer = torch.optim.SGD(self._weights, 0.025, momentum=0.9, weight_decay=3e-4)
        self._alpha_optimizer = torch.optim.Adam([self._supernet.alphas], 3e-4, betas=(0.0, 0.999), weight_decay=1e-3)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        for optimizer in (self._alpha_optimizer, self._weight_optimizer):
            self._supernet.alphas.requires_grad_(optimizer is self._alpha_optimizer)
            for weight in self._weights:
                weight.requires_grad_(optimizer is self._weight_optimizer)
            self._supernet.zero_grad()
            F.cross_entropy(self._supernet(x), y).backward()
            if optimizer is self._weight_optimizer:
                nn.utils.clip_grad_norm_([weight for weight in self._weights if weight.grad is not None], 5.0)
            optimizer.step()
