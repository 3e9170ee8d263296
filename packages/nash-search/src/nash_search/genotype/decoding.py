"""From probabilities to a genotype: at each layer nothing, or one (edge, operation): the most probable that may stand.

Where a layer has a choice of its own, its `none` is as probable as on any of its edges. Where each edge has one, a
layer without an operation is one that has none on any edge: its `none` counts as probable as on the edge where it is
least.

Under a budget the layers are no longer independent: among the genotypes within it the one with the highest product
of probabilities is found, exactly, as an integer program. So is the most probable one that differs enough from others.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..base.errors import CapacityError, UsageError
from .genotype import Edge, Genotype, NasOp
from .primitives import NONE, PRIMITIVES
from .variants import Variant

_ROUNDING = 1e-9  # of limits

Rows = Sequence[Sequence[float]]
_Row = tuple[int, Edge, Sequence[float]]  # of an edge: its number, itself, its probabilities


@dataclass(frozen=True)
class Choice:
    """What decoding may keep at a layer: an (edge, operation), or nothing.

    row, column: those of the probabilities. nas_op: None for nothing.
    """

    cell: int
    layer: int
    row: int
    column: int
    probability: float
    nas_op: NasOp | None


def choices(backbone: Genotype, probs: Rows, variant: Variant) -> list[list[Choice]]:
    """Return what decoding may keep, layer by layer; nothing stands first, if `none` is among the primitives.

    probs: one row an edge of `backbone.edges()`, one column a primitive of the variant.

    Raises:
        UsageError: neither nothing nor an operation of the variant can stand beside some layer.
    """
    edges, layers = enumerate(zip(backbone.edges(), probs, strict=True)), []
    for (cell, layer), group in groupby(edges, key=lambda item: (item[1][0].cell, item[1][0].layer)):
        rows = [(row, edge, values) for row, (edge, values) in group]
        layers.append([*_nothing(rows, variant), *_operations(rows, variant)])
        if not layers[-1]:
            raise UsageError(
                f"--primitives: got {','.join(variant.primitives)}, of which {variant.name} can keep none at "
                f"cells[{cell}].layers[{layer - 1}]; add a convolution, or none"
            )
    return layers


def _nothing(rows: Sequence[_Row], variant: Variant) -> Iterator[Choice]:
    if NONE in variant.primitives:
        column = variant.primitives.index(NONE)
        row, edge, values = min(rows, key=lambda item: item[2][column])
        yield Choice(edge.cell, edge.layer, row, column, float(values[column]), None)


def _operations(rows: Sequence[_Row], variant: Variant) -> Iterator[Choice]:
    for row, edge, values in rows:
        for column, op in enumerate(variant.primitives):
            if variant.keeps(op, edge.stride) and PRIMITIVES[op].refusal(edge.shape) is None:
                probability = float(values[column])
                nas_op = NasOp(op=op, input=edge.input, probability=probability)
                yield Choice(edge.cell, edge.layer, row, column, probability, nas_op)


def best(backbone: Genotype, probs: Rows, variant: Variant) -> list[Choice]:
    """Return the most probable choice of each layer; of equals the first wins."""
    return [max(layer, key=lambda choice: choice.probability) for layer in choices(backbone, probs, variant)]


def decode(backbone: Genotype, probs: Rows, variant: Variant) -> Genotype:
    """Return the backbone with, at each layer, the most probable that the variant may keep: an operation, or nothing.

    probs: one row an edge of `backbone.edges()`, one column a primitive of the variant; an operation that an
    edge cannot carry has probability 0. Of equals the first wins.
    """
    return with_choices(backbone, best(backbone, probs, variant), variant)


def with_choices(backbone: Genotype, chosen: Sequence[Choice], variant: Variant) -> Genotype:
    """Return the backbone with what was chosen for its layers, in order."""
    return replace(backbone.with_nas_ops([choice.nas_op for choice in chosen]), variant=variant.name)


def decode_within(
    backbone: Genotype,
    probs: Rows,
    variant: Variant,
    tables: Mapping[str, NDArray[np.float64]],
    limits: Mapping[str, float],
    *,
    largest: Collection[str] = (),
    apart_from: Sequence[Genotype] = (),
    distance: int = 1,
) -> Genotype:
    """Return the most probable genotype whose summed costs keep to every limit.

    tables: by resource, the cost of each primitive on each edge, in the shape of probs; limits: by resource. largest:
    resources of which not the sum keeps to the limit, but the largest cost.
    apart_from: genotypes that it differs from in at least `distance` layers; then nothing of probability 0 is kept.

    Raises:
        CapacityError: there is none.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers = choices(backbone, probs, variant)
    flat = [choice for layer in layers for choice in layer]
    one_each = np.zeros((len(layers), len(flat)))
    first = 0
    for number, layer in enumerate(layers):
        one_each[number, first : first + len(layer)] = 1
        first += len(layer)
    costs = {name: np.array([tables[name][choice.row, choice.column] for choice in flat]) for name in limits}
    admitted = np.ones(len(flat), dtype=bool)
    for name, limit in limits.items():
        admitted &= costs[name] <= limit * (1 + _ROUNDING)  # by itself
    constraints = [LinearConstraint(one_each, 1, 1)]
    constraints += [
        LinearConstraint(costs[name] / max(limit, 1e-9), -np.inf, 1)
        for name, limit in limits.items()
        if name not in largest
    ]
    if apart_from:
        admitted &= [choice.probability > 0 for choice in flat]
        common = np.array([_common(layers, other) for other in apart_from])
        constraints.append(LinearConstraint(common, -np.inf, len(layers) - distance))
    result = milp(
        [-math.log(max(choice.probability, sys.float_info.min)) for choice in flat],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, admitted.astype(float)),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    if result.x is None and apart_from:
        raise CapacityError(f"no other genotype differs from {len(apart_from)} of them in {distance} layers")
    if result.x is None:
        raise CapacityError(_too_tight(layers, tables, limits, largest))
    return with_choices(backbone, [flat[index] for index in np.flatnonzero(np.rint(result.x))], variant)


def _common(layers: Sequence[Sequence[Choice]], other: Genotype) -> list[bool]:
    """Return, of every choice of every layer, whether the other genotype has it."""
    ops = (layer.nas_op for cell in other.cells for layer in cell.layers)
    return [_same(choice.nas_op, nas_op) for layer, nas_op in zip(layers, ops, strict=True) for choice in layer]


def _same(one: NasOp | None, other: NasOp | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.op, one.input) == (other.op, other.input)


def _too_tight(
    layers: Sequence[Sequence[Choice]],
    tables: Mapping[str, NDArray[np.float64]],
    limits: Mapping[str, float],
    largest: Collection[str],
) -> str:
    """Return in words which limits no genotype keeps to, with the least that each can be."""
    asked = []
    for name, limit in limits.items():
        least = [min(tables[name][choice.row, choice.column] for choice in layer) for layer in layers]
        asked.append(f"{name}={limit:g} (at least {max(least) if name in largest else sum(least):g})")
    return f"--budget: got {', '.join(asked)}; no genotype keeps to it; raise it, or lower the target fps"
