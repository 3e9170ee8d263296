"""Several seeds of one configuration as one: the mean and spread of each figure.

A configuration is what rows share that differ in their seed alone: backbone, variant, width, bits, kind of additions,
recipe, the cost weight and budgets of their search, whether and how their operations were drawn, the pictures they were
measured on, and the board, origin, clock and target of their accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..records.facts import Kind
from ..records.figures import BY_KEY
from ..records.record import Record

Terms = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean of a figure over seeds, its standard deviation (n - 1; None for one seed), and the number of seeds."""

    mean: float
    std: float | None
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Records that differ in their seed alone, in the order they were found."""

    label: str
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """Return one of the records, for what all of them share."""
        return self.records[0]

    @property
    def is_baseline(self) -> bool:
        return self.first.identity.is_baseline

    @property
    def kind(self) -> Kind:
        return self.first.identity.kind

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(record.identity.seed for record in self.records)

    @cached_property
    def hits(self) -> tuple[NDArray[np.bool_], ...] | None:
        """Return which pictures (N,) each record got right, None if the outcomes of one were not kept."""
        found = [record.outcomes and record.outcomes.hits("top1") for record in self.records]
        return None if any(each is None for each in found) else tuple(found)

    def spread(self, key: str) -> Spread | None:
        """Return mean and spread of a figure, None if one of the records lacks it."""
        return spread_of([BY_KEY[key].value(record) for record in self.records])

    def is_lower_bound(self, key: str) -> bool:
        """Return whether the figure of one of the records leaves out layers."""
        return any(BY_KEY[key].is_lower_bound(record) for record in self.records)

    def is_selected(self, key: str) -> bool:
        """Return whether the figure of one of the records is an accuracy that its network was chosen by."""
        return any(BY_KEY[key].is_selected(record) for record in self.records)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Return mean and standard deviation of values, None if one is not known.

    >>> spread_of([90.0, 94.0])
    Spread(mean=92.0, std=2.8284271247461903, num_seeds=2)
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    mean = math.fsum(known) / len(known)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)) if len(known) > 1 else None
    return Spread(mean=mean, std=std, num_seeds=len(known))


def std_of_difference(first: float | None, second: float | None) -> float | None:
    """Return the standard deviation of the difference of two independent runs, None if one's is not known."""
    return None if first is None or second is None else math.hypot(first, second)


def family_terms(record: Record) -> Terms | None:
    """Return what a network and the baselines of every width must share, None if the record says too little."""
    identity, accuracy, hardware = record.identity, record.accuracy, record.hardware
    bits = identity.preset or identity.bits
    if None in (identity.backbone, identity.width, bits):
        return None
    built = None if hardware is None else (*hardware.key, hardware.clock_mhz, hardware.target)
    made = (bits, identity.join, identity.recipe)
    return identity.backbone, made, None if accuracy is None else accuracy.key, built


def network_terms(record: Record) -> Terms:
    """Return what a searched network and those that were drawn at its cost share, beside their family's terms."""
    identity = record.identity
    return identity.variant, identity.is_baseline, identity.width, identity.searched_with


def configurations(records: Sequence[Record]) -> list[Configuration]:
    """Put together what differs in its seed alone; records without a seed, or two of one seed, stand alone."""
    found: dict[Terms, list[Record]] = {}
    for record in records:
        terms = family_terms(record)
        if terms is not None and record.accuracy is not None:
            identity = record.identity
            own = (identity.is_given, identity.drawn, *network_terms(record))
            found.setdefault((terms, own), []).append(record)
    made = []
    for members in found.values():
        seeds = [record.identity.seed for record in members]
        is_one = None not in seeds and len(set(seeds)) == len(seeds) and are_of_same_samples(members)
        groups = [members] if is_one else [[record] for record in members]
        made += [Configuration(label=_label(group[0]), records=tuple(group)) for group in groups]
    return made


def are_of_same_samples(records: Sequence[Record]) -> bool:
    """Tell whether nothing says that records were measured on different pictures."""
    known = [record.outcomes for record in records if record.outcomes is not None]
    return all(known[0].is_of_same_samples(other) for other in known[1:])


def _label(record: Record) -> str:
    identity = record.identity
    parts = (identity.backbone, identity.variant, identity.preset or identity.bits)
    name = f"{'-'.join(filter(None, parts))}, width {identity.width}"
    drawn = None if identity.drawn is None else f"random {identity.drawn}"
    given = "as given" if identity.is_given and not identity.is_baseline else None
    return ", ".join(filter(None, (name, identity.searched_with, drawn, given)))
