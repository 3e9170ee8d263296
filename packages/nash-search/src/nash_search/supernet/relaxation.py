"""What one softmax of the supernet chooses among: all that a layer may keep, or the primitives of one edge.

- `layer`: one choice a layer, among every (state, operation) that the variant may keep there and `none`. It is the
  choice that decoding makes, so what the search trains, scores and keeps is one and the same network.
- `edge`: one choice an edge, among the primitives of the variant (the paper's form). A sampled network has an operation
  on every edge, of which decoding keeps one a layer.

Shapes: alphas, logits and probabilities have a row a menu and a column an option, rows filled up with options that are
never admissible; a table has a row an edge of `Genotype.edges()` and a column a primitive of the variant.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..genotype.decoding import choices
from ..genotype.genotype import Edge, Genotype
from ..genotype.primitives import NONE, PRIMITIVES
from ..genotype.variants import Variant

Relaxation = Literal["layer", "edge"]


class Option(NamedTuple):
    """A primitive on an edge; a layer's `none` stands on the first of its edges."""

    edge: int
    primitive: int


Menu = list[Option]


def menus(backbone: Genotype, variant: Variant, relaxation: Relaxation) -> list[Menu]:
    """Return what each softmax chooses among, in the order of the edges.

    Raises:
        UsageError: the variant can keep nothing at some layer, not even `none`.
        ValueError: an unknown relaxation.
    """
    if relaxation not in get_args(Relaxation):
        raise ValueError(f"relaxation: got {relaxation!r}, expected one of {', '.join(get_args(Relaxation))}")
    num_edges, num_primitives = sum(1 for _ in backbone.edges()), len(variant.primitives)
    if relaxation == "edge":
        return [[Option(row, column) for column in range(num_primitives)] for row in range(num_edges)]
    layers = choices(backbone, [[1.0] * num_primitives] * num_edges, variant)
    return [[Option(choice.row, choice.column) for choice in layer] for layer in layers]


class Layout:
    """Where the options of some menus stand: in rows of logits, and in the table of edges and primitives."""

    def __init__(self, backbone: Genotype, variant: Variant, relaxation: Relaxation) -> None:
        self.menus = menus(backbone, variant, relaxation)
        edges = list(backbone.edges())
        self.shape = len(self.menus), max(2, *map(len, self.menus))  # two: a pair can be drawn from every row
        self.admissible = torch.zeros(self.shape, dtype=torch.bool)
        nowhere = self.admissible.numel()
        self._places = torch.full((len(edges), len(variant.primitives)), nowhere)
        for row, menu in enumerate(self.menus):
            for column, option in enumerate(menu):
                edge, op = edges[option.edge], variant.primitives[option.primitive]
                self.admissible[row, column] = PRIMITIVES[op].refusal(edge.shape) is None
                self._places[option] = row * self.shape[1] + column
        if relaxation == "layer" and NONE in variant.primitives:  # that of the layer, on each of its edges
            none = variant.primitives.index(NONE)
            first = [next(k for k, other in enumerate(edges) if _leads_alike(edge, other)) for edge in edges]
            self._places[:, none] = self._places[first, none]

    def listed(self, edge: int) -> set[int]:
        """Return the primitives of an edge that a choice may take."""
        flat = [*self.admissible.flatten().tolist(), False]
        return {column for column, place in enumerate(self._places[edge].tolist()) if flat[place]}

    def table(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """Return what rows of options hold as a table, (num_edges, num_primitives); `fill` where no menu lists it."""
        return torch.cat([rows.reshape(-1), rows.new_full((1,), fill)])[self._places]

    def place(self, edge: int, primitive: int) -> tuple[int, int]:
        """Return row and column of an option."""
        return divmod(int(self._places[edge, primitive]), self.shape[1])


def _leads_alike(edge: Edge, other: Edge) -> bool:
    return (edge.cell, edge.layer) == (other.cell, other.layer)
