"""The float network of a genotype, as retraining builds it: NAS operations have no ReLU of their own.

Shapes: pictures (B, C, H, W) in [0, 1], logits (B, num_classes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..genotype.genotype import LINEAR, RELU6, Cell, Genotype, Layer, Pool
from ..genotype.primitives import PRIMITIVES
from ..layers.blocks import ConvBN

_CALIBRATION_PICTURES = 8


class CellLayer(nn.Module):
    """One convolution, what is added to it, the activation, and the pool if there is one."""

    def __init__(self, cell: Cell, target: int, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        layer = cell.layers[target - 1]
        before, channels = cell.channels(target - 1), layer.channels
        self.conv = ConvBN(before, channels, layer.kernel, layer.stride, groups=layer.groups, pad=layer.padding)
        self.activation, self.pool = layer.activation, _max_pool(layer.pool)
        self.residual_from = layer.residual_from
        self.projection = _projection(cell, target) if layer.projection else None
        self.reads = None if layer.nas_op is None else layer.nas_op.input
        self.nas_op = None if layer.nas_op is None else _nas_op(cell, layer, target, sizes)

    def forward(self, states: list[Tensor]) -> Tensor:
        y = self.conv(states[-1])
        if self.residual_from is not None:
            residual = states[self.residual_from]
            y = y + (residual if self.projection is None else self.projection(residual))
        if self.nas_op is not None:
            y = y + self.nas_op(states[self.reads])
        y = activated(y, self.activation)
        return y if self.pool is None else self.pool(y)


def activated(x: Tensor, activation: str) -> Tensor:
    """Return the ReLU or ReLU6 of x, or x itself."""
    if activation == LINEAR:
        return x
    return F.relu6(x) if activation == RELU6 else F.relu(x)


def _max_pool(pool: Pool | None) -> nn.MaxPool2d | None:
    return None if pool is None else nn.MaxPool2d(pool.kernel, pool.stride, pool.kernel // 3)


def _projection(cell: Cell, target: int) -> ConvBN:
    source = cell.layers[target - 1].residual_from or 0
    return ConvBN(cell.channels(source), cell.channels(target), 1, cell.stride(source, target))


def _nas_op(cell: Cell, layer: Layer, target: int, sizes: list[tuple[int, int]]) -> nn.Module:
    source = layer.nas_op.input
    return PRIMITIVES[layer.nas_op.op].retrained(cell.shape(source, target), sizes[source])


class FloatNetwork(nn.Module):
    """The network of a genotype with float weights, randomly initialized."""

    def __init__(self, genotype: Genotype) -> None:
        super().__init__()
        stem = genotype.stem
        self.stem = ConvBN(genotype.input.channels, stem.channels, stem.kernel, stem.stride)
        self.stem_pool = _max_pool(stem.pool)
        self.stem_activation = stem.activation
        self.cells = nn.ModuleList(
            nn.ModuleList(CellLayer(cell, target, sizes) for target in range(1, len(cell.layers) + 1))
            for cell, sizes in zip(genotype.cells, genotype.sizes(), strict=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        features = genotype.cells[-1].layers[-1].channels
        self.classifier = nn.Linear(features, genotype.num_classes, bias=genotype.head_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = activated(self.stem(x), self.stem_activation)
        if self.stem_pool is not None:
            x = self.stem_pool(x)
        for cell in self.cells:
            states = [x]
            for layer in cell:
                states.append(layer(states))
            x = states[-1]
        return self.classifier(self.flatten(self.pool(x)))


def build(genotype: Genotype, *, seed: int) -> FloatNetwork:
    """Return the network with weights drawn from `seed`, ready for evaluation.

    The running statistics are those of one batch of random pictures: with none, a deep network's sums explode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FloatNetwork(genotype)
        shape = genotype.input
        pictures = torch.rand(_CALIBRATION_PICTURES, shape.channels, shape.height, shape.width)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(pictures)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()
