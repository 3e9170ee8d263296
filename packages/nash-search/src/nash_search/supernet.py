"""The supernet: a backbone with a mixed operation on every edge that a NAS operation may take.

Shapes: pictures (B, C, H, W) in [0, 1]; alphas, probs and gates have a row an edge, in the order of
`Genotype.edges()`; a column of alphas and probs is a primitive of the variant.

A mixed operation is sum_k g_k o_k(x). Its gates g are one-hot in the forward pass: only the operation of
`active_index` runs (path binarization, ProxylessNAS, arXiv 1812.00332). In the architecture step the backward
pass adds the gates' gradients dL/dg_k = <dL/dy, o_k(x)>, and the softmax they come from takes them on to the
alphas (eq. 4 there): dL/dalpha_i = sum_k dL/dg_k p_k (delta_ik - p_i).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .decoding import best, decode
from .genotype import Cell, Edge, Genotype, refusal
from .primitives import PRIMITIVES, BatchNorm, BinaryConv2d, Conv2d, State
from .variants import NONE, VARIANTS, Variant

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
        self.stem = Conv2d(
            backbone.input.channels, stem.channels, stem.kernel, stem.stride, stem.kernel // 2, bias=False
        )
        self.stem_bn = BatchNorm(stem.channels)
        self.layers = nn.ModuleList(
            SearchLayer(backbone.cells[cell], list(group), variant)
            for (cell, _), group in groupby(edges, key=lambda edge: (edge.cell, edge.layer))
        )
        self.classifier = nn.Linear(backbone.cells[-1].layers[-1].channels, backbone.num_classes, bias=False)
        self.alpha = nn.Parameter(alpha_std * torch.randn(len(edges), len(variant.primitives)))
        self.register_buffer("admissible", _admissible(edges, variant))
        self.to(memory_format=torch.channels_last)

    def alphas(self) -> Iterator[nn.Parameter]:
        """Yield the architecture parameters (logits)."""
        yield self.alpha

    def weights(self) -> Iterator[nn.Parameter]:
        """Yield every other parameter."""
        return (parameter for parameter in self.parameters() if parameter is not self.alpha)

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
        norms = [module for module in self.modules() if isinstance(module, BatchNorm)]
        _set_training_of_weights(self, norms, enabled=False)
        try:
            yield
        finally:
            _set_training_of_weights(self, norms, enabled=True)

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


def _set_training_of_weights(supernet: Supernet, norms: list[BatchNorm], *, enabled: bool) -> None:
    for weight in supernet.weights():
        weight.requires_grad_(enabled)
    for norm in norms:
        norm.updates_statistics = enabled


def _admissible(edges: list[Edge], variant: Variant) -> Tensor:
    return torch.tensor([[_admits(edge, name) for name in variant.primitives] for edge in edges])


def _admits(edge: Edge, primitive: str) -> bool:
    shapes = {"in_channels": edge.in_channels, "out_channels": edge.out_channels, "stride": edge.stride}
    return refusal(primitive, **shapes) is None


class MixedOperation(nn.Module):
    """The primitives of one edge, of which one runs; nothing stands in for those that the edge cannot carry."""

    def __init__(self, edge: Edge, variant: Variant) -> None:
        super().__init__()
        self.input = edge.input
        self.ops = nn.ModuleList(
            PRIMITIVES[name if _admits(edge, name) else NONE](edge.in_channels, edge.out_channels, edge.stride)
            for name in variant.primitives
        )

    def forward(self, states: Sequence[State], index: int, kept: list[Tensor | None] | None = None) -> Tensor | None:
        """Return the output of the primitive of that index, its features in `kept`; None stands for nothing."""
        return self.ops[index](states[self.input], kept)


class SearchLayer(nn.Module):
    """One layer of the backbone, its residual, and a mixed operation an earlier state."""

    def __init__(self, cell: Cell, edges: list[Edge], variant: Variant) -> None:
        super().__init__()
        target = edges[0].layer
        layer = cell.layers[target - 1]
        self.residual_from = layer.residual_from
        self.is_binary = variant.binary_backbone
        self.activation = torch.tanh_ if variant.activation == "tanh" else None
        before = cell.channels(target - 1)
        if self.is_binary:
            self.conv: Conv2d = BinaryConv2d(before, layer.channels, layer.kernel, layer.stride, groups=layer.groups)
        else:
            self.conv = Conv2d(
                before, layer.channels, layer.kernel, layer.stride, layer.kernel // 2, groups=layer.groups, bias=False
            )
        self.bn = BatchNorm(layer.channels)
        self.projection = _projection(cell, target) if layer.projection else None
        self.mixed = nn.ModuleList(MixedOperation(edge, variant) for edge in edges)

    def forward(self, states: Sequence[State], path: Path, first_edge: int) -> State:
        """Return the state behind this layer; its edges are the rows of the path from `first_edge` on."""
        rows = slice(first_edge, first_edge + len(self.mixed))
        active = path.active_index[rows]
        kept: list[Tensor | None] = []
        outputs = [mixed(states, index, kept) for mixed, index in zip(self.mixed, active, strict=True)]
        base = self._backbone(states)
        if path.gates is None:
            y = _add(base, outputs)
        else:
            task = _GateTask(self.mixed, states, kept, active, path.wanted[rows])
            y = _GatedSum.apply(path.gates[rows], task, base, *outputs)
        return State(y if self.activation is None else self.activation(y))

    def _backbone(self, states: Sequence[State]) -> Tensor:
        if self.is_binary:
            base = self.bn(self.conv(states[-1].sign()), self.conv.scale())
        else:
            base = self.bn(self.conv(states[-1].x))
        if self.residual_from is None:
            return base
        residual = states[self.residual_from].x
        return base + (residual if self.projection is None else self.projection(residual))


def _projection(cell: Cell, target: int) -> nn.Module:
    source = cell.layers[target - 1].residual_from or 0
    channels = cell.channels(target)
    return nn.Sequential(
        Conv2d(cell.channels(source), channels, 1, cell.stride(source, target), bias=False), BatchNorm(channels)
    )


@dataclass(frozen=True)
class _GateTask:
    """What a layer's backward pass needs to compute the gradients of its gates."""

    mixed: nn.ModuleList
    states: Sequence[State]
    kept: Sequence[Tensor | None]
    active: Sequence[int]
    wanted: Sequence[Sequence[int]]

    def output(self, edge: int, index: int) -> Tensor | None:
        """Return a primitive's output: the active one has only to be finished, any other one is run here, once.

        The features of the active one are in the graph anyway; its output would take as much memory again.
        """
        mixed, features = self.mixed[edge], self.kept[edge]
        if index != self.active[edge]:
            return mixed(self.states, index)
        return None if features is None else mixed.ops[index].finish(features)


class _GatedSum(torch.autograd.Function):
    """base + sum of the active outputs, as if every gate were 0 or 1, with a gradient for each wanted gate."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, task: _GateTask, base: Tensor, *outputs: Tensor | None) -> Tensor:
        ctx.task = task
        ctx.save_for_backward(gates)
        return _add(torch.clone(base), outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gates,) = ctx.saved_tensors
        gate_grads = torch.zeros_like(gates)
        flat_grad = _flat(grad)
        is_open = (gates > 0).tolist()  # the softmax takes no gradient on from a gate that is 0: discarded, or unfit
        for edge, indices in enumerate(ctx.task.wanted):
            for column, index in enumerate(indices):
                if not is_open[edge][column]:
                    continue
                output = ctx.task.output(edge, index)
                if output is not None:
                    gate_grads[edge, column] = torch.dot(flat_grad, _flat(output))
        kept, ctx.task = ctx.task.kept, None
        return gate_grads, None, grad, *(None if features is None else grad for features in kept)


def _add(base: Tensor, outputs: Iterable[Tensor | None]) -> Tensor:
    """Return base, which must be of no further use, with the outputs added in place."""
    for output in outputs:
        if output is not None:
            base.add_(output)
    return base


def _flat(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1)
