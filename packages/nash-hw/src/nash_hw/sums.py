"""Sums of integers whose scales differ by whole factors, exactly.

The smallest scale is the unit: ``real = unit * sum(factor * x)``, factor being how many units a term's scale has.
Nothing is rounded, so scales that are no whole multiples of the unit have no such sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .integers import Integers
from .model import GraphBuilder, range_datatype


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A sum that is not written yet; its terms are quantized: one scale and no bias each."""

    terms: tuple[Integers, ...]

    @property
    def unit(self) -> float:
        return min(_scale(term) for term in self.terms)

    @property
    def is_whole(self) -> bool:
        """Whether every scale is a whole multiple of the unit, to the last bit."""
        return all(_factor(term, self.unit).denominator == 1 for term in self.terms)

    def integers(self, name: str) -> Integers:
        """Return the integers of the sum."""
        factors = [int(_factor(term, self.unit)) for term in self.terms]
        low = sum(factor * term.low for factor, term in zip(factors, self.terms, strict=True))
        high = sum(factor * term.high for factor, term in zip(factors, self.terms, strict=True))
        return Integers(
            name=name,
            shape=self.terms[0].shape,
            datatype=range_datatype(low.min(), high.max()),
            scale=np.full(1, self.unit),
            bias=np.zeros(1),
            low=low,
            high=high,
        )

    def write(self, graph: GraphBuilder, result: Integers) -> None:
        """Add the nodes to the graph; terms of one scale are added up before that is multiplied, once for all."""
        addends = [term for term in self.terms if _scale(term) == self.unit]
        for scale in sorted({_scale(term) for term in self.terms} - {self.unit}):
            same = [term for term in self.terms if _scale(term) == scale]
            addends.append(_multiplied(graph, _added(graph, same, f"{result.name}_part"), self.unit))
        _added(graph, addends, result.name)


def _scale(term: Integers) -> float:
    return float(term.scale[0])


def _factor(term: Integers, unit: float) -> Fraction:
    return Fraction(_scale(term)) / Fraction(unit)


def _added(graph: GraphBuilder, terms: Sequence[Integers], name: str) -> Integers:
    """Add up terms of one scale; the last sum gets the name."""
    total = terms[0]
    for number, term in enumerate(terms[1:], 2):
        found = Sum(terms=(total, term)).integers(name if number == len(terms) else f"{name}_part")
        written = graph.node("Add", [total.name, term.name], (found.name, found.shape, found.datatype))
        total = Sum(terms=(total, term)).integers(written)
    return total


def _multiplied(graph: GraphBuilder, term: Integers, unit: float) -> Integers:
    """Write a term in units."""
    factor = int(_factor(term, unit))
    constant = graph.constant(f"{term.name}_factor", np.full(1, factor), range_datatype(factor, factor))
    low, high = factor * term.low, factor * term.high
    datatype = range_datatype(low.min(), high.max())
    name = graph.node("Mul", [term.name, constant], (f"{term.name}_scaled", term.shape, datatype))
    return Integers(
        name=name, shape=term.shape, datatype=datatype, scale=np.full(1, unit), bias=term.bias, low=low, high=high
    )
