"""From probabilities to a genotype: at each layer one (edge, operation), the most probable that the variant may keep.

Under a budget the layers are no longer independent: among the genotypes within it the one with the highest product
of probabilities is found, exactly, as an integer program.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from .errors import CapacityError, UsageError
from .genotype import Genotype, NasOp
from .primitives import PRIMITIVES
from .variants import Variant

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Choice:
    """One (edge, operation) that decoding may keep at a layer; row and column are those of the probabilities."""

    cell: int
    layer: int
    row: int
    column: int
    nas_op: NasOp


def choices(backbone: Genotype, probs: Rows, variant: Variant) -> list[list[Choice]]:
    """Return what decoding may keep, layer by layer.

    probs: one row an edge of `backbone.edges()`, one column a primitive of the variant.

    Raises:
        UsageError: no operation of the variant can stand beside some layer.
    """
    found = {
        place: list(group)
        for place, group in groupby(_choices(backbone, probs, variant), key=lambda choice: (choice.cell, choice.layer))
    }
    for cell, plan in enumerate(backbone.cells):
        for layer in range(1, len(plan.layers) + 1):
            if (cell, layer) not in found:
                raise UsageError(
                    f"--primitives: got {','.join(variant.primitives)}, of which {variant.name} can keep none at "
                    f"cells[{cell}].layers[{layer - 1}]; add a convolution"
                )
    return list(found.values())


def _choices(backbone: Genotype, probs: Rows, variant: Variant) -> Iterator[Choice]:
    for row, (edge, values) in enumerate(zip(backbone.edges(), probs, strict=True)):
        for column, op in enumerate(variant.primitives):
            if variant.keeps(op, edge.stride) and PRIMITIVES[op].refusal(edge.shape) is None:
                nas_op = NasOp(op=op, input=edge.input, probability=float(values[column]))
                yield Choice(edge.cell, edge.layer, row, column, nas_op)


def best(backbone: Genotype, probs: Rows, variant: Variant) -> list[Choice]:
    """Return the most probable choice of each layer; of equals the first wins."""
    return [max(layer, key=lambda choice: choice.nas_op.probability) for layer in choices(backbone, probs, variant)]


def decode(backbone: Genotype, probs: Rows, variant: Variant) -> Genotype:
    """Return the backbone with, at each layer, the most probable operation the variant may keep.

    probs: one row an edge of `backbone.edges()`, one column a primitive of the variant; an operation that an
    edge cannot carry has probability 0. Of equals the first wins.
    """
    return _with(backbone, best(backbone, probs, variant), variant)


def _with(backbone: Genotype, chosen: Sequence[Choice], variant: Variant) -> Genotype:
    return replace(backbone.with_nas_ops([choice.nas_op for choice in chosen]), variant=variant.name)


def decode_within(
    backbone: Genotype,
    probs: Rows,
    variant: Variant,
    tables: Mapping[str, NDArray[np.float64]],
    limits: Mapping[str, float],
) -> Genotype:
    """Return the most probable genotype whose summed costs keep to every limit.

    tables: by resource, the cost of each primitive on each edge, in the shape of probs; limits: by resource.

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
    costs = np.array([[tables[name][choice.row, choice.column] for choice in flat] for name in limits])
    result = milp(
        [-math.log(max(choice.nas_op.probability, sys.float_info.min)) for choice in flat],
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(costs / np.array([[max(limit, 1e-9)] for limit in limits.values()]), -np.inf, 1),
        ],
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        least = {name: sum(min(tables[name][c.row, c.column] for c in layer) for layer in layers) for name in limits}
        asked = ", ".join(f"{name}={limit:g} (at least {least[name]:g})" for name, limit in limits.items())
        raise CapacityError(f"--budget: got {asked}; no genotype keeps to it; raise it, or lower the target fps")
    return _with(backbone, [flat[index] for index in np.flatnonzero(np.rint(result.x))], variant)
