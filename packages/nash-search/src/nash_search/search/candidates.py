"""Which networks the finish scores: probable ones that are not too alike, and random ones of the same cost.

The genotypes next to the most probable one differ from it in its least certain layers only, one or two at a time. So
each network is the most probable one, exactly, that differs from all before it in at least a quarter of the layers.
More operations nearly always train to a lower loss; so where no budget holds the networks to what a board has, none
costs more than the search's own choice, by 5 % at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.errors import CapacityError
from ..cost import uniform
from ..cost.costs import CYCLES, SCARCEST, SUM
from ..cost.penalty import Penalty
from ..genotype import space
from ..genotype.decoding import decode_within
from ..genotype.genotype import Genotype
from ..genotype.primitives import NONE
from ..genotype.variants import Variant
from ..supernet.supernet import Supernet

_LAYERS_A_DIFFERENCE = 4


def most_probable(
    supernet: Supernet,
    first: Genotype,
    tables: Mapping[str, NDArray[np.float64]],
    limits: Mapping[str, float],
    *,
    count: int,
    distance: int | None = None,
) -> list[Genotype]:
    """Return so many genotypes within the limits, or as many as there are; each is the most probable next one.

    first: the one to begin with. tables: by resource, the cost of each primitive on each edge, (num_edges,
        num_primitives); limits: by resource.
    distance: in how many layers each differs from all before it; None is a quarter of the layers, at least one.
    """
    found, probs = [first], supernet.table().tolist()
    if distance is None:
        distance = max(1, len(uniform.kept(first)) // _LAYERS_A_DIFFERENCE)
    while len(found) < count:
        try:
            found.append(
                decode_within(
                    supernet.backbone,
                    probs,
                    supernet.variant,
                    tables,
                    limits,
                    largest=(CYCLES,),
                    apart_from=found,
                    distance=distance,
                )
            )
        except CapacityError:
            break
    return found


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """By what networks are compared.

    table: how much of it each primitive has on each edge, (num_edges, num_primitives).
    """

    name: str
    table: NDArray[np.float64]

    def of(self, found: Genotype, variant: Variant) -> float:
        """Return how much of it a network has."""
        return uniform.total(found, variant, self.table, joined=uniform.joining(self.name))


def yardstick(penalty: Penalty | None, like: Genotype, variant: Variant) -> Yardstick:
    """Return the cost of the search if there is one, else the number of weights; if it is 0, that of operations.

    For `scarcest`, which is no cost of operations, it is the sum of the shares of the board.
    """
    weights = parameters(like, variant)
    operations = np.array([[name != NONE for name in variant.primitives]] * len(weights), dtype=np.float64)
    tables = {"weights": weights, "operations": operations}
    if penalty is not None:
        metric = SUM if penalty.price.metric == SCARCEST else penalty.price.metric
        tables = {metric: penalty.costs.table(metric).numpy(), **tables}
    found = [Yardstick(name=name, table=table) for name, table in tables.items()]
    return next((each for each in found if each.of(like, variant) > 0), found[0])


def parameters(backbone: Genotype, variant: Variant) -> NDArray[np.float64]:
    """Return the number of weights of each primitive on each edge, (num_edges, num_primitives)."""
    edges = {(edge.cell, edge.layer, edge.input): row for row, edge in enumerate(backbone.edges())}
    table = np.zeros((len(edges), len(variant.primitives)))
    for found in space.candidates(backbone, variant):
        table[edges[found.cell, found.layer, found.input], variant.primitives.index(found.op)] = found.num_weights
    return table


def random_like(like: Genotype, variant: Variant, by: Yardstick, *, count: int, seed: int) -> list[Genotype]:
    """Return so many different genotypes drawn from those that cost the same within 5 %, or as many as there are."""
    found: dict[tuple[tuple[str, int] | None, ...], Genotype] = {}
    if by.of(like, variant) > 0:
        for drawn in uniform.draws(like, variant, by.table, seed, joined=uniform.joining(by.name)):
            if len(found) == count:
                break
            found.setdefault(tuple(uniform.kept(drawn)), drawn)
    return list(found.values())
