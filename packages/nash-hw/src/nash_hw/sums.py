"""Sums of integers whose scales differ by whole factors, exactly.

The smallest scale is the unit: ``real = unit * sum(factor * x)``, factor being how many units a term's scale has.
Scales are one for all channels, as those of quantized terms, or one for each, as those of accumulators; a term's factor
is the same for all channels. Nothing is rounded, so scales that are no whole multiples of the unit have no such sum.

Arrays: scales (1,) or (C,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from .integers import Integers
from .model import GraphBuilder, range_datatype


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A sum that is not written yet; its terms have no bias."""

    terms: tuple[Integers, ...]

    @cached_property
    def unit(self) -> np.ndarray:
        """The smallest scale, of each channel where they differ."""
        unit = self.terms[0].scale
        for term in self.terms[1:]:
            unit = np.minimum(unit, term.scale)
        return unit

    @cached_property
    def factors(self) -> list[int] | None:
        """How many units each term counts in, None if that is not the same whole number for all channels."""
        found = [_ratios(term.scale, self.unit) for term in self.terms]
        if any(len(ratios) > 1 or next(iter(ratios)).denominator > 1 for ratios in found):
            return None
        return [int(next(iter(ratios))) for ratios in found]

    def integers(self, name: str) -> Integers:
        """Return the integers of the sum."""
        low = sum(factor * term.low for factor, term in zip(self.factors, self.terms, strict=True))
        high = sum(factor * term.high for factor, term in zip(self.factors, self.terms, strict=True))
        return replace(
            self.terms[0],
            name=name,
            datatype=range_datatype(low.min(), high.max()),
            scale=self.unit,
            bias=np.zeros(1),
            low=low,
            high=high,
        )

    def write(self, graph: GraphBuilder, result: Integers) -> None:
        """Add the nodes to the graph; terms of one scale are added up before that is multiplied, once for all."""
        of_factor: dict[int, list[Integers]] = {}
        for factor, term in zip(self.factors, self.terms, strict=True):
            of_factor.setdefault(factor, []).append(term)
        addends = of_factor.pop(1)
        for factor in sorted(of_factor):
            total = _added(graph, of_factor[factor], f"{result.name}_part")
            addends.append(_multiplied(graph, total, factor))
        _added(graph, addends, result.name)


def _ratios(scale: np.ndarray, unit: np.ndarray) -> set[Fraction]:
    pairs = np.broadcast(scale, unit)
    return {Fraction(float(one)) / Fraction(float(other)) for one, other in pairs}


def _added(graph: GraphBuilder, terms: Sequence[Integers], name: str) -> Integers:
    """Add up terms of one scale; the last sum gets the name."""
    total = terms[0]
    for number, term in enumerate(terms[1:], 2):
        found = Sum(terms=(total, term)).integers(name if number == len(terms) else f"{name}_part")
        written = graph.node("Add", [total.name, term.name], (found.name, found.shape, found.datatype))
        total = replace(found, name=written)
    return total


def _multiplied(graph: GraphBuilder, term: Integers, factor: int) -> Integers:
    """Write a term in units."""
    constant = graph.constant(f"{term.name}_factor", np.full(1, factor), range_datatype(factor, factor))
    low, high = factor * term.low, factor * term.high
    datatype = range_datatype(low.min(), high.max())
    name = graph.node("Mul", [term.name, constant], (f"{term.name}_scaled", term.shape, datatype))
    return replace(term, name=name, datatype=datatype, scale=term.scale / factor, low=low, high=high)
