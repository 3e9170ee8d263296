"""How the terms of a layer's sum are brought onto one grid.

`quantized` (the reference's): every term goes through one signed quantizer with a learned scale.
`aligned`: a term that is a state already (an identity residual, a plain skip, a max-pool, which has no batch
normalization then) enters as it is. States that meet in a sum have one scale s; the convolutions' terms are quantized
to the grid s / 2^shift, of which the states are whole multiples. A sum of convolutions alone is as in `quantized`, and
so is one with the state of a linear layer, which is signed.
`fused`: no term is quantized. All that a sum reads has one scale s times a power of two, and all its weights have the
scales of the layer's convolution, s_w of each channel, times a power of two: the accumulators are whole multiples of
s s_w over a power of two, and a state counts 2^m of them. One batch normalization is behind the sum (see sums.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..quant.presets import QuantizationSpec
from . import bits as table
from .genotype import Genotype

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
    """How a network forms its sums, by their names in the table of bits.

    joins: those with a quantizer. fused: those without, and which of their terms enter as they are. leaders: the states
    and activations that follow the scale of another one, by name: it is that one's over 2^shifts.
    """

    joins: Mapping[str, Join] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leaders: Mapping[str, str] = field(default_factory=dict)
    shifts: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def followed(self) -> frozenset[str]:
        """Return the states and activations whose scale a sum or another one has."""
        return frozenset(self.leaders.values()) | {join.leader for join in self.joins.values() if join.leader}


def plan(genotype: Genotype, spec: QuantizationSpec, bits: Mapping[str, int]) -> Plan:
    """Return how a network forms its sums; `bits` has those of every tensor (see `bits.resolve`)."""
    match spec.join:
        case "quantized":
            return Plan(joins={name: Join(bits=number) for name, number in bits.items() if name.endswith(".join")})
        case "aligned":
            return _aligned_plan(genotype, spec, bits)
        case "fused":
            return _fused_plan(genotype, bits)


def _aligned_plan(genotype: Genotype, spec: QuantizationSpec, bits: Mapping[str, int]) -> Plan:
    linear = {
        f"{prefixes[number]}state"
        for cell, prefixes in zip(genotype.cells, table.state_prefixes(genotype), strict=True)
        for number, layer in enumerate(cell.layers, 1)
        if layer.is_linear
    }
    direct = {
        total.name: {} if linear & set(total.direct.values()) else total.direct for total in _sums(genotype, bits)
    }
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


def _fused_plan(genotype: Genotype, bits: Mapping[str, int]) -> Plan:
    """Return the plan of sums without quantizers.

    Of the integers of two tensors with one scale but for a power of two, the largest ones stand for nearly the same.
    """
    sums = list(_sums(genotype, bits))
    prefixes = dict.fromkeys(prefix for of_cell in table.state_prefixes(genotype) for prefix in of_cell)
    tensors = [name for prefix in prefixes for kind in ("state", "act") if (name := f"{prefix}{kind}") in bits]
    leaders = _leaders(tensors, [{_quantizer_name(name, bits) for name in total.reads} for total in sums])
    return Plan(
        fused={total.name: tuple(total.direct) for total in sums},
        leaders=leaders,
        shifts={name: bits[name] - bits[leader] for name, leader in leaders.items()},
    )


def _aligned(join_bits: int, state_bits: int, shift: int) -> Join:
    """Return a sum in which states of `state_bits` enter as they are; a term of too few bits shifts less."""
    shift = min(shift, max(0, join_bits - state_bits - _LEAST_HEADROOM_BITS))
    return Join(bits=min(join_bits, shift + state_bits + _HEADROOM_BITS), shift=shift)


def _quantizer_name(name: str, bits: Mapping[str, int]) -> str:
    """Return the name of the state for an activation of the same bits: one quantizer makes both."""
    state = f"{name.removesuffix('act')}state"
    return state if name.endswith("act") and bits.get(state) == bits[name] else name


@dataclass(frozen=True, kw_only=True)
class _Sum:
    """A sum's name, all tensors it reads, and states, pooled or not, by the terms that are nothing else."""

    name: str
    reads: tuple[str, ...]
    direct: Mapping[str, str]


def _sums(genotype: Genotype, bits: Mapping[str, int]) -> Iterator[_Sum]:
    for cell, prefixes in zip(genotype.cells, table.state_prefixes(genotype), strict=True):
        for number, layer in enumerate(cell.layers, 1):
            if layer.has_sum:
                own = prefixes[number]
                sources = {"residual": layer.residual_from, "nas_op": layer.nas_op and layer.nas_op.input}
                terms = {term: f"{prefixes[source]}state" for term, source in sources.items() if source is not None}
                yield _Sum(
                    name=f"{own}join",
                    reads=(f"{prefixes[number - 1]}act", *terms.values()),
                    direct={term: state for term, state in terms.items() if f"{own}{term}" not in bits},
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
