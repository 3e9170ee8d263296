"""How the terms of a layer's sum are brought onto one grid.

`quantized` (the reference's): every term goes through one signed quantizer with a learned scale.
`aligned`: a term that is a state already (an identity residual, a plain skip, a max-pool, which has no batch
normalization then) enters as it is. States that meet in a sum have one scale s; the convolutions' terms are quantized
to the grid s / 2^shift, of which the states are whole multiples. A sum of convolutions alone is as in `quantized`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from . import bits as table
from .genotype import Genotype
from .presets import QuantizationSpec

_HEADROOM_BITS = 2  # a sign, and twice the largest state
_LEAST_HEADROOM_BITS = 1  # where the shift takes more: a sign


@dataclass(frozen=True, kw_only=True)
class Join:
    """One sum: the bits of its quantizer; which terms ('residual', 'nas_op') enter as they are.

    leader: the state, by the name of its tensor, whose scale over 2^shift the quantizer has; None if it has its own.
    """

    bits: int
    direct: tuple[str, ...] = ()
    leader: str | None = None
    shift: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sums of a network by their names in the table of bits, and the states that follow the scale of another."""

    joins: Mapping[str, Join]
    leaders: Mapping[str, str]

    @cached_property
    def followed(self) -> frozenset[str]:
        """Return the states whose scale a sum or another state has."""
        return frozenset(self.leaders.values()) | {join.leader for join in self.joins.values() if join.leader}


def plan(genotype: Genotype, spec: QuantizationSpec, bits: Mapping[str, int]) -> Plan:
    """Return how a network forms its sums; `bits` has those of every tensor (see `bits.resolve`)."""
    if spec.join == "quantized":
        joins = {name: Join(bits=number) for name, number in bits.items() if name.endswith(".join")}
        return Plan(joins=joins, leaders={})
    direct = dict(_direct_terms(genotype, bits))
    states = [name for name, tensor in table.tensors(genotype).items() if tensor.kind == "state"]
    leaders = _leaders(states, [set(terms.values()) for terms in direct.values() if terms])
    joins = {}
    for name, terms in direct.items():
        if not terms:
            joins[name] = Join(bits=bits[name])
            continue
        join = _aligned(bits[name], max(bits[state] for state in terms.values()), spec.join_shift)
        first = next(iter(terms.values()))
        joins[name] = replace(join, direct=tuple(terms), leader=leaders.get(first, first))
    return Plan(joins=joins, leaders=leaders)


def _aligned(join_bits: int, state_bits: int, shift: int) -> Join:
    """Return a sum in which states of `state_bits` enter as they are; a term of too few bits shifts less."""
    shift = min(shift, max(0, join_bits - state_bits - _LEAST_HEADROOM_BITS))
    return Join(bits=min(join_bits, shift + state_bits + _HEADROOM_BITS), shift=shift)


def _direct_terms(genotype: Genotype, bits: Mapping[str, int]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every sum's name, and its terms that have no weights, states, pooled or not, with the state's name."""
    for cell, prefixes in zip(genotype.cells, table.state_prefixes(genotype), strict=True):
        for layer, own in zip(cell.layers, prefixes[1:], strict=True):
            if f"{own}join" in bits:
                sources = {"residual": layer.residual_from, "nas_op": layer.nas_op and layer.nas_op.input}
                yield (
                    f"{own}join",
                    {
                        term: f"{prefixes[source]}state"
                        for term, source in sources.items()
                        if source is not None and f"{own}{term}" not in bits
                    },
                )


def _leaders(states: list[str], sums: list[set[str]]) -> dict[str, str]:
    """Return, for states that meet in a sum with an earlier one, directly or over others, the earliest of them."""
    groups = [{state} for state in states]
    for meeting in sums:
        touched = [group for group in groups if group & meeting]
        groups = [group for group in groups if not group & meeting] + [set().union(*touched)]
    leaders = {}
    for group in groups:
        first, *others = sorted(group, key=states.index)
        leaders |= dict.fromkeys(others, first)
    return leaders
