"""The supernet: a backbone with every operation that the variant samples beside its layers.

Shapes: pictures (B, C, H, W) in [0, 1]; alphas, probs and gates have a row a choice, which is one of a layer or one of
an edge (`relaxation.py`); a column of alphas and probs is an option of it.

Quantized, it is the network that nash-qat trains, save for the quantizers of its additions and for scales, which follow
weights and batch here: weights and states have a preset's bits, and a ReLU stands before each state and nowhere else.

A choice is a mixed operation, sum_k g_k o_k(x). Its gates g are one-hot in the forward pass: only the operation of
`active_index` runs (path binarization, ProxylessNAS, arXiv 1812.00332). In the architecture step the backward
pass adds the gates' gradients dL/dg_k = <dL/dy, o_k(x)> (see `sums.py`), and the softmax they come from takes them
on to the alphas (eq. 4 there): dL/dalpha_i = sum_k dL/dg_k p_k (delta_ik - p_i).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import UsageError
from ..genotype.decoding import best, decode
from ..genotype.genotype import Cell, Edge, Genotype
from ..genotype.primitives import NONE, PRIMITIVES
from ..genotype.variants import VARIANTS, Variant
from ..layers.binary import BinaryConv2d
from ..layers.convolution import Conv2d
from ..layers.operations import State
from ..layers.quantizers import quantized_relu, quantized_weight
from ..layers.sums import BatchNorm, Gating, Term, normalized_sum
from . import activations
from .network import activated
from .quantization import Quantization
from .relaxation import Layout, Menu, Relaxation

__all__ = ["VARIANTS", "MixedOperation", "Path", "Supernet", "Variant"]


@dataclass(frozen=True)
class Path:
    """A sampled path through the supernet.

    active_index: the option that runs, one a choice; None where nothing does.
    wanted: the options whose gates get a gradient, a row a choice; needed with gates only.
    gates: (num_choices, num_wanted), differentiable in the alphas; None in a weight step.
    rows: the choices whose alphas may move; None for all.
    is_open: whether a gate is above 0, as `gates`; it is known without asking the device.
    """

    active_index: Sequence[int | None]
    wanted: Sequence[Sequence[int]] = ()
    gates: Tensor | None = None
    rows: Sequence[int] | None = None
    is_open: Sequence[Sequence[bool]] = ()


class Supernet(nn.Module):
    """Every network that a variant can find around a backbone, with shared weights.

    quantization: without one, weights and states are as the variant has them.
    """

    def __init__(
        self,
        backbone: Genotype,
        variant: Variant,
        relaxation: Relaxation = "layer",
        *,
        alpha_std: float = 1e-3,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone.without_nas_ops()
        self.variant = variant
        self.relaxation = relaxation
        self.quantization = quantization
        self.layout = Layout(backbone, variant, relaxation)
        stem = backbone.stem
        bits = None if quantization is None else quantization.stem_weight_bits
        self.stem = Conv2d(backbone.input.channels, stem.channels, stem.kernel, stem.stride, bits=bits)
        self.stem_bn = BatchNorm(stem.channels)
        self.layers = nn.ModuleList(
            SearchLayer(backbone.cells[cell], list(group), variant, self.layout, quantization)
            for (cell, _), group in groupby(
                enumerate(backbone.edges()), key=lambda numbered: (numbered[1].cell, numbered[1].layer)
            )
        )
        self.layers[-1].activate = activations.of_layer(
            variant, quantization, backbone.cells[-1].layers[-1].activation, is_last=True
        )
        self.classifier = nn.Linear(backbone.cells[-1].layers[-1].channels, backbone.num_classes, bias=False)
        self.alpha = nn.Parameter(alpha_std * torch.randn(self.layout.shape))
        self.register_buffer("admissible", self.layout.admissible.clone())
        self.to(memory_format=torch.channels_last)
        # listed once: to walk through all modules at every step takes as long as a tenth of a small network
        self._edges = list(backbone.edges())
        self._layer_of = [number for number, layer in enumerate(self.layers) for _ in layer.menus]
        lengths = [len(cell.layers) for cell in backbone.cells]
        self._first_layers = set(accumulate(lengths[:-1], initial=0))
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
        """Return the alphas, (num_choices, num_options), minus infinity where an option is out.

        That is where it does not fit the shapes, was discarded, or only fills up the row.
        """
        return self.alpha.masked_fill(~self.admissible, float("-inf"))

    def probs(self) -> Tensor:
        """Return the probability of each option of each choice: (num_choices, num_options)."""
        return self.logits().softmax(-1)

    def table(self) -> Tensor:
        """Return the probability of each primitive on each edge: (num_edges, num_primitives).

        A layer's choice has one `none`, which stands on each of its edges.
        """
        return self.layout.table(self.probs())

    def sample(self, generator: torch.Generator) -> Path:
        """Sample one option a choice, for a weight step."""
        active = torch.multinomial(self.probs().detach(), 1, generator=generator)
        return Path(active[:, 0].tolist())

    def path_of(self, found: Genotype) -> Path:
        """Return the path of a network that decoding may find: at each layer its operation alone, or nothing."""
        return Path([self._chosen(menu, found) for menu in self.layout.menus])

    def _chosen(self, menu: Menu, found: Genotype) -> int | None:
        edges, nothing = self._edges, None
        for index, (row, column) in enumerate(menu):
            op, kept = self.variant.primitives[column], found.cells[edges[row].cell].layers[edges[row].layer - 1].nas_op
            if op == NONE:
                nothing = index
            elif kept is not None and (kept.op, kept.input) == (op, edges[row].input):
                return index
        return nothing

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """Return the logits of the classes, (B, num_classes), along a path."""
        if path.gates is not None:
            is_open = (path.gates > 0).tolist()
            path = replace(path, gates=path.gates.to(self.classifier.weight.device), is_open=is_open)
        return self._finish([self._begin(x)], 0, path)

    def place(self, device: torch.device) -> None:
        """Move the weights to a device; alphas, and what samples them, stay where they are."""
        for module in (self.stem, self.stem_bn, self.layers, self.classifier):
            module.to(device)
        self._weights = [weight for name, weight in self.named_parameters() if name != "alpha"]

    def swapped(self, x: Tensor, path: Path, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield the logits of the classes along a path, then with one of its options swapped for another.

        rows: the choices to swap at, one after the other; each time all others are the path's. `path.wanted` tells,
            for such a row, the active option and the other one. What lies before the choice is not run again.
        """
        seen: list[list[State]] = []
        yield self._finish([self._begin(x)], 0, path, seen)
        for row in rows:
            active = list(path.active_index)
            active[row] = path.wanted[row][1]
            number = self._layer_of[row]
            yield self._finish(seen[number], number, replace(path, active_index=active))

    def _begin(self, x: Tensor) -> State:
        x = self.stem_bn(self.stem(x))
        if self.backbone.stem.max_pool:
            kernel = self.backbone.stem.pool_kernel
            x = F.max_pool2d(x, kernel, 2, kernel // 3)  # before the ReLU, which gives the same
        if self.quantization is not None:
            return activations.of_quantized(self.quantization)(x)
        return State(activated(x, self.backbone.stem.activation), before=x)

    def _finish(self, states: list[State], first: int, path: Path, seen: list[list[State]] | None = None) -> Tensor:
        """Run the layers from number `first` on, whose cell has these states before it; `seen` gets those of each."""
        for number in range(first, len(self.layers)):
            if number in self._first_layers:
                states = states[-1:]
            if seen is not None:
                seen.append(states)
            states = [*states, self.layers[number](states, path, self._layer_of.index(number))]
        return self._classified(states[-1].act.mean((2, 3)))

    def _classified(self, features: Tensor) -> Tensor:
        if self.quantization is None:
            return self.classifier(features)
        weight = quantized_weight(self.classifier.weight, self.quantization.head_weight_bits, per_channel=False)
        return F.linear(quantized_relu(features, self.quantization.feature_bits), weight)

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
        """Discard the options less probable than that, for good.

        The most probable one of a choice stays, and so does what decoding would keep.
        """
        probs = self.probs()
        stays = probs >= below
        stays.scatter_(1, probs.argmax(1, keepdim=True), value=True)
        for choice in best(self.backbone, self.table().tolist(), self.variant):
            stays[self.layout.place(choice.row, choice.column)] = True
        self.admissible &= stays

    def genotype(self) -> Genotype:
        """Return the most probable genotype that the variant's decoding rule admits."""
        return decode(self.backbone, self.table().tolist(), self.variant)


class MixedOperation(nn.Module):
    """The primitives of one edge, of which one runs; nothing stands in for those that no choice lists there."""

    def __init__(self, edge: Edge, variant: Variant, listed: Set[int], bits: int | None = None) -> None:
        super().__init__()
        self.input = edge.input
        self.ops = nn.ModuleList(
            PRIMITIVES[name if column in listed else NONE].searched(edge.shape, bits)
            for column, name in enumerate(variant.primitives)
        )

    def forward(self, states: Sequence[State], index: int) -> Term | None:
        """Return the term of the primitive of that index; None stands for nothing."""
        return self.ops[index](states[self.input])


class SearchLayer(nn.Module):
    """One layer of the backbone, its residual, and a mixed operation an earlier state.

    menus: of each choice of the layer, the options: which mixed operation, and which of its primitives.
    """

    def __init__(
        self,
        cell: Cell,
        edges: list[tuple[int, Edge]],
        variant: Variant,
        layout: Layout,
        quantization: Quantization | None = None,
    ) -> None:
        super().__init__()
        first, target = edges[0][0], edges[0][1].layer
        layer = cell.layers[target - 1]
        self.residual_from = layer.residual_from
        self.is_binary = variant.binary_backbone and quantization is None
        self.activate = activations.of_layer(variant, quantization, layer.activation, is_last=False)
        self.pool = layer.pool
        of_main, of_projection, of_nas = _weight_bits(quantization)
        if self.is_binary and layer.padding is not None:
            raise UsageError(
                f"--variant {variant.name}: got a layer of padding {layer.padding}, expected half its kernel"
            )
        kind = BinaryConv2d if self.is_binary else partial(Conv2d, bits=of_main, padding=layer.padding)
        before = cell.channels(target - 1)
        self.conv = kind(before, layer.channels, layer.kernel, layer.stride, groups=layer.groups)
        self.bn = BatchNorm(layer.channels)
        self.projection = _projection(cell, target, of_projection) if layer.projection else None
        self.mixed = nn.ModuleList(MixedOperation(edge, variant, layout.listed(row), of_nas) for row, edge in edges)
        self.menus = [
            [(row - first, column) for row, column in menu]
            for menu in layout.menus
            if first <= menu[0].edge < first + len(edges)
        ]

    def forward(self, states: Sequence[State], path: Path, first_row: int) -> State:
        """Return the state behind this layer; its choices are the rows of the path from `first_row` on."""
        rows = slice(first_row, first_row + len(self.menus))
        active = [(index, self._run(states, row, index)) for row, index in enumerate(path.active_index[rows])]
        gating = None
        if path.gates is not None:
            of_row = path.gates[rows], path.wanted[rows], active, partial(self._run, states)
            gating = Gating(*of_row, path.is_open[rows])
        y = normalized_sum([*self._backbone(states), *(term for _, term in active if term is not None)], gating)
        state = self.activate(y)
        return state if self.pool is None else state.max_pooled(self.pool.kernel, self.pool.stride)

    def _run(self, states: Sequence[State], row: int, index: int | None) -> Term | None:
        if index is None:
            return None
        mixed, primitive = self.menus[row][index]
        return self.mixed[mixed](states, primitive)

    def _backbone(self, states: Sequence[State]) -> list[Term]:
        if self.is_binary:
            terms = [Term(self.conv(states[-1].signs()), self.bn, self.conv.eps())]
        else:
            terms = [Term(self.conv(states[-1].act), self.bn)]
        if self.residual_from is not None:
            residual = states[self.residual_from].x
            if self.projection is None:
                terms.append(Term(residual))
            else:
                conv, norm = self.projection
                terms.append(Term(conv(residual), norm))
        return terms


def _projection(cell: Cell, target: int, bits: int | None) -> nn.Module:
    shape = cell.shape(cell.layers[target - 1].residual_from or 0, target)
    conv = Conv2d(shape.in_channels, shape.out_channels, 1, shape.stride, bits=bits)
    return nn.Sequential(conv, BatchNorm(shape.out_channels))


def _weight_bits(quantization: Quantization | None) -> tuple[int | None, int | None, int | None]:
    """Return those of a layer's convolution, of its projection and of its NAS operations."""
    if quantization is None:
        return None, None, None
    return quantization.weight_bits, quantization.projection_weight_bits, quantization.nas_weight_bits
