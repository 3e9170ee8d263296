"""The streams between layers, and what FINN puts into each.

A StreamingFIFO, and where the producer writes wider or narrower words than the consumer reads, a
StreamingDataWidthConverter with one more FIFO before it (finn/transformation/fpgadataflow: insert_dwc.py, and
insert_fifo.py with create_shallow_fifos, as step_set_fifo_depths calls it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ..boards.board import RESOURCES
from ..estimate.streams import LEAST_DEPTH, converter_figures, fifo_figures

if TYPE_CHECKING:
    from .options import Group


@cache
def link_resources(from_bits: int, to_bits: int, fpga_part: str) -> Mapping[str, float]:
    """Return what a stream takes with the shallowest FIFOs, and a converter if its ends differ in width."""
    parts = [fifo_figures(to_bits, LEAST_DEPTH, fpga_part)]
    if from_bits != to_bits:
        parts += [converter_figures(from_bits, to_bits), fifo_figures(from_bits, LEAST_DEPTH, fpga_part)]
    return {name: sum(part.resources[name] or 0.0 for part in parts) for name in RESOURCES}


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
