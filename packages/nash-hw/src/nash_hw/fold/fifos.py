"""What FIFOs take beyond the shallowest ones: their depths follow from the folding of all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..boards.board import RESOURCES, Board
from ..estimate.actors import pace_of
from ..estimate.estimate import sum_known
from ..estimate.schedule import Schedule
from ..estimate.streams import LEAST_DEPTH, fifo_figures, streams
from ..graph.model import Model, skeleton
from .finn_config import Settings, fold
from .options import Group, Option, price_of


@dataclass(frozen=True, kw_only=True)
class Fifos:
    """The FIFOs of a folded model."""

    resources: Mapping[str, float]  # beyond those of the shallowest FIFO in every stream between layers
    waiting_bits: Mapping[str, int]  # of each tensor whose FIFO is deeper than that: the most that waits in it
    depths: tuple[int, ...] = ()  # of all, in the order of the layers and their inputs
    pace: tuple[int, str] = (0, "")  # the cycles of a frame that they keep, and the layer that needs them


def fifos_of(model: Model, settings: Settings, fpga_part: str) -> Fifos:
    """Return the FIFOs a specialized model needs with a folding; the model stays as it is."""
    folded, _ = fold(Model(skeleton(model.model)), settings)
    pace = pace_of(folded)
    found = list(streams(folded, Schedule(folded).depths(pace[0]), fpga_part))
    fifos = [stream for stream in found if stream.kind == "fifo"]
    parts = [_beyond(fifo.out_width, fifo.depth, fpga_part) for fifo in fifos]
    parts += [stream.figures.resources for stream in found if stream.kind == "port_fifo"]
    return Fifos(
        pace=pace,
        resources={name: sum(part[name] or 0.0 for part in parts) for name in RESOURCES},
        waiting_bits={fifo.tensor: fifo.depth * fifo.out_width for fifo in fifos if fifo.depth > LEAST_DEPTH},
        depths=tuple(fifo.depth for fifo in fifos),
    )


def _beyond(width: int, depth: int, fpga_part: str) -> dict[str, float]:
    """Return what a FIFO takes more than the shallowest one; less of what block RAM replaces."""
    figures, least = (fifo_figures(width, words, fpga_part).resources for words in (depth, LEAST_DEPTH))
    return {name: (figures[name] or 0.0) - (least[name] or 0.0) for name in RESOURCES}


def with_fifos(group: Group, waiting_bits: Mapping[str, int], board: Board) -> Group:
    """Return a group whose options bear what FIFOs for so many bits take at the widths it reads them with."""
    if not any(name in waiting_bits for name in group.inputs):
        return group
    return replace(group, options=tuple(_with_fifos(group, option, waiting_bits, board) for option in group.options))


def _with_fifos(group: Group, option: Option, waiting_bits: Mapping[str, int], board: Board) -> Option:
    parts: list[Mapping[str, float | None]] = [option.resources]
    for name, width in zip(group.inputs, option.stream_bits, strict=False):
        if name in waiting_bits:
            depth = max(-(-waiting_bits[name] // width), LEAST_DEPTH)
            parts.append(_beyond(width, depth, board.fpga_part))
    price = option.price + sum(price_of(part, board) for part in parts[1:])
    return replace(option, resources={name: sum_known(part[name] for part in parts) for name in RESOURCES}, price=price)
