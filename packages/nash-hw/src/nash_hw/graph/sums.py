"""Sums of integers whose scales differ by whole factors, exactly.

``real = unit * sum(factor * x)``, factor being how many units a term's scale has. The unit is the smallest scale, or
the part of it that all scales are whole multiples of: of 1 and 3/2 it is 1/2. Scales are one for all channels, as those
of quantized terms, or one for each, as those of accumulators; a term's factor is the same for all channels. Nothing is
rounded, so scales of which no small factors make one have no such sum. Biases add up beside it.

Arrays: scales (1,) or (C,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import lcm

import numpy as np

from .integers import Integers
from .model import GraphBuilder, range_datatype

_MAX_FACTOR = 256  # as many as an 8-bit term has values


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A sum that is not written yet."""

    terms: tuple[Integers, ...]

    @cached_property
    def smallest(self) -> np.ndarray:
        """The smallest scale, of each channel where they differ."""
        smallest = self.terms[0].scale
        for term in self.terms[1:]:
            smallest = np.minimum(smallest, term.scale)
        return smallest

    @cached_property
    def _parts(self) -> int:
        """How many units the smallest scale has."""
        found = [_ratios(term.scale, self.smallest) for term in self.terms]
        return lcm(*(ratio.denominator for ratios in found for ratio in ratios))

    @cached_property
    def unit(self) -> np.ndarray:
        """What all scales are whole multiples of, of each channel where they differ."""
        return self.smallest if self.factors is None else self.smallest / self._parts

    @cached_property
    def factors(self) -> list[int] | None:
        """How many units each term counts in, None if that is not the same small whole number for all channels."""
        found = [_ratios(term.scale, self.smallest) for term in self.terms]
        if any(len(ratios) > 1 for ratios in found) or self._parts > _MAX_FACTOR:
            return None
        factors = [int(next(iter(ratios)) * self._parts) for ratios in found]
        return factors if self._parts == 1 or max(factors) <= _MAX_FACTOR else None

    def integers(self, name: str) -> Integers:
        """Return the integers of the sum."""
        low = sum(factor * term.low for factor, term in zip(self.factors, self.terms, strict=True))
        high = sum(factor * term.high for factor, term in zip(self.factors, self.terms, strict=True))
        return replace(
            self.terms[0],
            name=name,
            datatype=range_datatype(low.min(), high.max()),
            scale=self.unit,
            bias=sum(term.bias for term in self.terms),
            low=low,
            high=high,
        )

    def write(self, graph: GraphBuilder, result: Integers) -> None:
        """Add the nodes to the graph; terms of one scale are added up before that is multiplied, once for all."""
        of_factor: dict[int, list[Integers]] = {}
        for factor, term in zip(self.factors, self.terms, strict=True):
            of_factor.setdefault(factor, []).append(term)
        addends = of_factor.pop(1, [])
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
