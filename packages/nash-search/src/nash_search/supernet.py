"""The supernet: a backbone with a mixed operation on every edge that a NAS operation may take.

Shapes: pictures (B, C, H, W) in [0, 1]; alphas, probs and gates have a row an edge, in the order of
`Genotype.edges()`; a column of alphas and probs is a primitive of the variant.

A mixed operation is sum_k g_k o_k(x). Its gates g are one-hot in the forward pass: only the operation of
`active_index` runs (path binarization, ProxylessNAS, arXiv 1812.00332). In the architecture step the backward
pass adds the gates' gradients dL/dg_k = <dL/dy, o_k(x)> (see `sums.py`), and the softmax they come from takes them
on to the alphas (eq. 4 there): dL/dalpha_i = sum_k dL/dg_k p_k (delta_ik - p_i).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .binary import BinaryConv2d
from .convolution import Conv2d
from .decoding import best, decode
from .genotype import Cell, Edge, Genotype
from .operations import State
from .primitives import NONE, PRIMITIVES
from .sums import BatchNorm, Gating, Term, normalized_sum
from .variants import VARIANTS, Variant

__all__ = ["VARIANTS", "MixedOperation", "Path", "Supernet", "Variant"]


@dataclass(frozen=True)
class Path:
    """A sampled path through the supernet.

    active_index: the primitive that runs, one an edge.
    wanted: the primitives whose gates get a gradient, a row an edge; needed with gates only.
    gates: (num_edges, num_wanted), differentiable in the alphas; None in a weight step.
    """

    active_index: Sequence[int]
    wanted: Sequence[Sequence[int]] = ()
    gates: Tensor | None = None


class Supernet(nn.Module):
    """Every network that a variant can find around a backbone, with shared weights."""

    def __init__(self, backbone: Genotype, variant: Variant, *, alpha_std: float = 1e-3) -> None:
        super().__init__()
        self.backbone = backbone.without_nas_ops()
        self.variant = variant
        edges = list(backbone.edges())
        stem = backbone.stem
        self.stem = Conv2d(backbone.input.channels, stem.channels, stem.kernel, stem.stride)
        self.stem_bn = BatchNorm(stem.channels)
        self.layers = nn.ModuleList(
            SearchLayer(backbone.cells[cell], list(group), variant)
            for (cell, _), group in groupby(edges, key=lambda edge: (edge.cell, edge.layer))
        )
        self.classifier = nn.Linear(backbone.cells[-1].layers[-1].channels, backbone.num_classes, bias=False)
        self.alpha = nn.Parameter(alpha_std * torch.randn(len(edges), len(variant.primitives)))
        self.register_buffer("admissible", _admissible(edges, variant))
        self.to(memory_format=torch.channels_last)
        # listed once: to walk through all modules at every step takes as long as a tenth of a small network
        self._weights = [weight for name, weight in self.named_parameters() if name != "alpha"]

    def alphas(self) -> Iterator[nn.Parameter]:
        """Yield the architecture parameters (logits)."""
        yield self.alpha

    def weights(self) -> Iterator[nn.Parameter]:
        """Yield every other parameter."""
        return iter(self._weights)

    def multiply_in(self, dtype: torch.dtype | None) -> None:
        """Let convolutions (binary ones in their backward pass) multiply in this type; None is that of the weights."""
        for module in self.modules():
            if isinstance(module, Conv2d):
                module.low = dtype

    def logits(self) -> Tensor:
        """Return the alphas, (num_edges, num_primitives), minus infinity where a primitive is out.

        That is where it does not fit the shapes, or was discarded.
        """
        return self.alpha.masked_fill(~self.admissible, float("-inf"))

    def probs(self) -> Tensor:
        """Return the probability of each primitive on each edge: (num_edges, num_primitives)."""
        return self.logits().softmax(-1)

    def sample(self, generator: torch.Generator) -> Path:
        """Sample one primitive an edge, for a weight step."""
        active = torch.multinomial(self.probs().detach(), 1, generator=generator)
        return Path(active[:, 0].tolist())

    def most_probable(self) -> Path:
        """Return the path of the most probable primitive on each edge."""
        return Path(self.logits().detach().argmax(-1).tolist())

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """Return the logits of the classes, (B, num_classes), along a path."""
        x = self.stem_bn(self.stem(x))
        if self.backbone.stem.max_pool:
            x = F.max_pool2d(x, 3, 2, 1)  # before the ReLU, which gives the same
        state = State(F.relu(x), before=x)
        layers, first_edge = iter(self.layers), 0
        for cell in self.backbone.cells:
            states = [state]
            for _ in cell.layers:
                layer = next(layers)
                states.append(layer(states, path, first_edge))
                first_edge += len(layer.mixed)
            state = states[-1]
        return self.classifier(state.x.mean((2, 3)))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within the block no weight gets a gradient and no running statistic changes; batches are normalized."""
        self._train_weights(enabled=False)
        try:
            yield
        finally:
            self._train_weights(enabled=True)

    def _train_weights(self, *, enabled: bool) -> None:
        for weight in self._weights:
            weight.requires_grad_(enabled)

    @torch.no_grad()
    def discard(self, below: float) -> None:
        """Discard the primitives less probable than that, for good.

        The most probable one of an edge stays, and so does what decoding would keep.
        """
        probs = self.probs()
        stays = probs >= below
        stays.scatter_(1, probs.argmax(1, keepdim=True), value=True)
        for choice in best(self.backbone, probs.tolist(), self.variant):
            stays[choice.row, choice.column] = True
        self.admissible &= stays

    def genotype(self) -> Genotype:
        """Return the most probable genotype that the variant's decoding rule admits."""
        return decode(self.backbone, self.probs().tolist(), self.variant)


def _admissible(edges: list[Edge], variant: Variant) -> Tensor:
    return torch.tensor([[_admits(edge, name) for name in variant.primitives] for edge in edges])


def _admits(edge: Edge, primitive: str) -> bool:
    return PRIMITIVES[primitive].refusal(edge.shape) is None


class MixedOperation(nn.Module):
    """The primitives of one edge, of which one runs; nothing stands in for those that the edge cannot carry."""

    def __init__(self, edge: Edge, variant: Variant) -> None:
        super().__init__()
        self.input = edge.input
        self.ops = nn.ModuleList(
            PRIMITIVES[name if _admits(edge, name) else NONE].searched(edge.shape) for name in variant.primitives
        )

    def forward(self, states: Sequence[State], index: int) -> Term | None:
        """Return the term of the primitive of that index; None stands for nothing."""
        return self.ops[index](states[self.input])


class SearchLayer(nn.Module):
    """One layer of the backbone, its residual, and a mixed operation an earlier state."""

    def __init__(self, cell: Cell, edges: list[Edge], variant: Variant) -> None:
        super().__init__()
        target = edges[0].layer
        layer = cell.layers[target - 1]
        self.residual_from = layer.residual_from
        self.is_binary = variant.binary_backbone
        self.has_tanh = variant.activation == "tanh"
        kind = BinaryConv2d if self.is_binary else Conv2d
        before = cell.channels(target - 1)
        self.conv = kind(before, layer.channels, layer.kernel, layer.stride, groups=layer.groups)
        self.bn = BatchNorm(layer.channels)
        self.projection = _projection(cell, target) if layer.projection else None
        self.mixed = nn.ModuleList(MixedOperation(edge, variant) for edge in edges)

    def forward(self, states: Sequence[State], path: Path, first_edge: int) -> State:
        """Return the state behind this layer; its edges are the rows of the path from `first_edge` on."""
        rows = slice(first_edge, first_edge + len(self.mixed))
        active = [
            (index, mixed(states, index)) for mixed, index in zip(self.mixed, path.active_index[rows], strict=True)
        ]
        gating = None
        if path.gates is not None:
            gating = Gating(path.gates[rows], path.wanted[rows], active, partial(self._run, states))
        y = normalized_sum([*self._backbone(states), *(term for _, term in active if term is not None)], gating)
        return State(Tanh.apply(y) if self.has_tanh else y)

    def _run(self, states: Sequence[State], edge: int, index: int) -> Term | None:
        return self.mixed[edge](states, index)

    def _backbone(self, states: Sequence[State]) -> list[Term]:
        if self.is_binary:
            terms = [Term(self.conv(states[-1].signs()), self.bn, self.conv.eps())]
        else:
            terms = [Term(self.conv(states[-1].x), self.bn)]
        if self.residual_from is not None:
            residual = states[self.residual_from].x
            if self.projection is None:
                terms.append(Term(residual))
            else:
                conv, norm = self.projection
                terms.append(Term(conv(residual), norm))
        return terms


def _projection(cell: Cell, target: int) -> nn.Module:
    shape = cell.shape(cell.layers[target - 1].residual_from or 0, target)
    return nn.Sequential(Conv2d(shape.in_channels, shape.out_channels, 1, shape.stride), BatchNorm(shape.out_channels))


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
