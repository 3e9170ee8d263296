"""A random genotype of a given cost, to hold a found one against.

Drawn uniformly from all genotypes of the space whose cost differs from that of another one by at most a share of it.
Costs are rounded to bins so fine that all rounding together is a small part of that share; counted are, layer by layer
from the last, the genotypes of the layers from there on by their bin, and drawn is from the first layer on, each
option as often as it has genotypes behind it that end within the limits. What rounding alone let in is drawn anew.
Of cycles not the sum counts, but the largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import manifest
from ..base.errors import CapacityError, UsageError
from ..genotype import genotype
from ..genotype.decoding import choices
from ..genotype.genotype import Genotype
from ..genotype.variants import VARIANTS, Variant, narrow
from ..view.draw import nas_ops
from . import costs as cost
from .costs import CYCLES, SCARCEST, Costs

TOLERANCE = 0.05
_BINS_A_LAYER = 20  # within the tolerance
_MOST_DRAWS = 1000


def variant_of(found: Genotype) -> Variant:
    """Return the variant that a genotype was found with, with the primitives of its search.

    Raises:
        UsageError: it has none.
    """
    if found.variant is None:
        raise UsageError(f"--like: got {found.name}, which is of no variant, expected a genotype that a search found")
    primitives = (found.search or {}).get("primitives")
    return VARIANTS[found.variant] if primitives is None else narrow(VARIANTS[found.variant], primitives)


def write(like_path: Path, costs_path: Path, out: Path, *, metric: str, seed: int) -> tuple[dict[str, Any], Genotype]:
    """Draw a genotype, write it, and return what was drawn, as JSON and as a genotype.

    Raises:
        CapacityError, UsageError: see `draw` and `variant_of`.
        ManifestError: a file is not valid, or the costs are of another space.
        OutputError: the file cannot be written.
    """
    if metric == SCARCEST:
        raise UsageError(f"--cost-resource: got {metric}, which is no cost of operations; take another one")
    like = genotype.load(like_path)
    variant = variant_of(like)
    costs = cost.load(costs_path, like, variant)
    drawn = draw(like, variant, costs, metric, seed)
    both = {name: costs.total(metric, one, variant) for name, one in (("cost", drawn), ("cost_of_like", like))}
    search = {"random": {"seed": seed, "like": like.name, "resource": metric, **both, "like_search": _asked(like)}}
    drawn = replace(drawn, name=f"{like.name}-random{seed}", search=search | {"primitives": list(variant.primitives)})
    inputs = [manifest.input_record(like_path, manifest.load(like_path, "genotype")), costs.record]
    genotype.save(drawn, out, inputs=inputs)
    result = {"genotype": str(out), "name": drawn.name, "resource": metric, **both, "costs": costs.of(drawn, variant)}
    return result | {"nas_ops": nas_ops(drawn)}, drawn


def _asked(like: Genotype) -> dict[str, Any]:
    """Return what the search of a genotype was asked about costs, by which its random ones are known to be of it."""
    search = like.search or {}
    kept = {"costs": ("weight", "resource", "budget", "total_budget"), "pareto": ("budget",)}
    preset = {"preset": search["preset"]} if search.get("preset") else {}
    return preset | {
        name: {key: search[name][key] for key in keys if key in search[name]}
        for name, keys in kept.items()
        if isinstance(search.get(name), dict)
    }


def draw(like: Genotype, variant: Variant, costs: Costs, metric: str, seed: int) -> Genotype:
    """Return a genotype of the same backbone and space that costs the same within 5 %, and is another one.

    metric: what is compared, one of `cost.METRICS`, or `sum`, the summed shares of the board.

    Raises:
        CapacityError: there is none, or it is too rare to be drawn.
        UsageError: what it is like costs nothing.
    """
    target = costs.total(metric, like, variant)
    if not target > 0:
        raise UsageError(f"--like: got {like.name}, whose operations cost no {metric}, expected one that costs some")
    drawn = next(draws(like, variant, costs.table(metric).numpy(), seed, joined=joining(metric)), None)
    if drawn is None:
        raise CapacityError(
            f"--like: got {like.name} at {metric}={target:g}; no other genotype found within {TOLERANCE:.0%} of that; "
            f"take another --cost-resource"
        )
    return drawn


def joining(metric: str) -> np.ufunc:
    """Return how the costs of the layers make that of a genotype: the largest of cycles, and else their sum."""
    return np.maximum if metric == CYCLES else np.add


def draws(
    like: Genotype, variant: Variant, table: NDArray[np.float64], seed: int, *, joined: np.ufunc = np.add
) -> Iterator[Genotype]:
    """Draw from the other genotypes of the same space whose joined costs are the same within 5 %, again and again.

    table: the cost of each primitive on each edge, (num_edges, num_primitives). What they are like must cost something.

    It ends after a thousand tries, at once if there is none.
    """
    layers = choices(like, np.zeros(table.shape).tolist(), variant)
    prices = [np.array([table[choice.row, choice.column] for choice in layer]) for layer in layers]
    target = total(like, variant, table, joined=joined)
    bins, window = _bins(prices, target)
    counts, rng = _counts(bins, window, joined), np.random.default_rng(seed)
    for _ in range(_MOST_DRAWS if counts[0].any() else 0):
        picked = _drawn(rng, bins, counts, joined)
        cost = joined.reduce([price[index] for price, index in zip(prices, picked, strict=True)])
        ops = [layer[index].nas_op for layer, index in zip(layers, picked, strict=True)]
        found = like.with_nas_ops([op and replace(op, probability=None) for op in ops])
        if abs(cost - target) <= TOLERANCE * target and kept(found) != kept(like):
            yield found


def total(found: Genotype, variant: Variant, table: NDArray[np.float64], *, joined: np.ufunc = np.add) -> float:
    """Return what the operations of a genotype of the space cost together."""
    layers = zip(choices(found, np.zeros(table.shape).tolist(), variant), kept(found), strict=True)
    prices = [
        table[choice.row, choice.column]
        for layer, op in layers
        for choice in layer
        if op is not None and choice.nas_op is not None and (choice.nas_op.op, choice.nas_op.input) == op
    ]
    return float(joined.reduce([0.0, *prices]))


def _bins(prices: Sequence[NDArray[np.float64]], target: float) -> tuple[list[NDArray[np.int64]], slice]:
    """Return the options' costs in bins, and the bins within the tolerance, rounding included."""
    unit = TOLERANCE * target / (_BINS_A_LAYER * len(prices))
    slack = len(prices) / 2 + 1
    low, high = ((1 + sign * TOLERANCE) * target / unit + sign * slack for sign in (-1, 1))
    limit = int(high) + 1  # what costs more than all together may is as good as this
    return [np.minimum(np.rint(price / unit), limit).astype(np.int64) for price in prices], slice(int(low), limit)


def _counts(bins: Sequence[NDArray[np.int64]], window: slice, joined: np.ufunc) -> list[NDArray[np.float64]]:
    """Return, a layer, by the bins spent before it, how many ways there are to end within the window."""
    counts = [np.zeros(window.stop)]
    counts[0][window] = 1
    before = np.arange(window.stop)
    for layer in reversed(bins):
        counts.insert(0, sum(_ways(counts[0], joined(before, spent)) for spent in layer.tolist()))
    return counts


def _drawn(
    rng: np.random.Generator,
    bins: Sequence[NDArray[np.int64]],
    counts: Sequence[NDArray[np.float64]],
    joined: np.ufunc,
) -> list[int]:
    spent, picked = 0, []
    for layer, behind in zip(bins, counts[1:], strict=True):
        after = joined(spent, layer)
        ways = _ways(behind, after)
        picked.append(int(rng.choice(len(layer), p=ways / ways.sum())))
        spent = int(after[picked[-1]])
    return picked


def _ways(counts: NDArray[np.float64], spent: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the counts of these bins; beyond the last there are none."""
    return np.where(spent < len(counts), counts[np.minimum(spent, len(counts) - 1)], 0.0)


def kept(found: Genotype) -> list[tuple[str, int] | None]:
    """Return the operation beside each layer and the state it reads, None for nothing."""
    ops = (layer.nas_op for cell in found.cells for layer in cell.layers)
    return [None if nas_op is None else (nas_op.op, nas_op.input) for nas_op in ops]
