"""The streams between layers, and the width converters FINN puts where the two ends of one differ.

FINN inserts a StreamingDataWidthConverter on every stream that its producer writes wider or narrower than its consumer
reads it (finn/transformation/fpgadataflow/insert_dwc.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .streams import converter_figures

if TYPE_CHECKING:
    from .options import Group


def converter_resources(from_bits: int, to_bits: int) -> Mapping[str, float | None]:
    """Return what it takes to convert a stream from one width to another; nothing if they are the same."""
    return converter_figures(from_bits, to_bits).resources


@dataclass(frozen=True, kw_only=True)
class Link:
    """A stream from one group of layers to another; its width at each end is an entry of the option's stream_bits."""

    producer: int
    producer_entry: int
    consumer: int
    consumer_entry: int


def links_between(groups: Sequence[Group]) -> list[Link]:
    """Return the streams between groups; those from and to the outside have but one end."""
    writers = {
        name: (number, len(group.inputs) + entry)
        for number, group in enumerate(groups)
        for entry, name in enumerate(group.outputs)
    }
    return [
        Link(producer=writers[name][0], producer_entry=writers[name][1], consumer=number, consumer_entry=entry)
        for number, group in enumerate(groups)
        for entry, name in enumerate(group.inputs)
        if name in writers
    ]
