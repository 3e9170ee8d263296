"""What the FIFOs at joins take: their depths follow from the folding of all layers, so they are known after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx

from .boards import RESOURCES, Board
from .estimate import sum_known
from .finn_config import Settings, fold
from .latency import spans
from .model import Model
from .options import Group, Option, price_of
from .streams import fifo_figures, streams


@dataclass(frozen=True, kw_only=True)
class Fifos:
    """The FIFOs of a folded model."""

    resources: Mapping[str, float]
    waiting_bits: Mapping[str, int]  # of each tensor that has one: the most that waits in it


def fifos_of(model: Model, settings: Settings, fpga_part: str) -> Fifos:
    """Return the FIFOs a specialized model needs with a folding; the model stays as it is."""
    folded, _ = fold(_skeleton(model), settings)
    fifos = [stream for stream in streams(folded, spans(folded), fpga_part) if stream.kind == "fifo"]
    return Fifos(
        resources={name: sum(fifo.figures.resources[name] or 0.0 for fifo in fifos) for name in RESOURCES},
        waiting_bits={fifo.tensor: fifo.depth * fifo.out_width for fifo in fifos},
    )


def with_fifos(group: Group, waiting_bits: Mapping[str, int], board: Board) -> Group:
    """Return a group whose options bear what FIFOs for so many bits take at the widths it reads them with."""
    if not any(name in waiting_bits for name in group.inputs):
        return group
    return replace(group, options=tuple(_with_fifos(group, option, waiting_bits, board) for option in group.options))


def _with_fifos(group: Group, option: Option, waiting_bits: Mapping[str, int], board: Board) -> Option:
    parts: list[Mapping[str, float | None]] = [option.resources]
    for name, width in zip(group.inputs, option.stream_bits, strict=False):
        if name in waiting_bits:
            parts.append(fifo_figures(width, -(-waiting_bits[name] // width), board.fpga_part).resources)
    price = option.price + sum(price_of(part, board) for part in parts[1:])
    return replace(option, resources={name: sum_known(part[name] for part in parts) for name in RESOURCES}, price=price)


def _skeleton(model: Model) -> Model:
    """Return a copy without the values of weights and thresholds."""
    proto = onnx.ModelProto(ir_version=model.model.ir_version, opset_import=model.model.opset_import)
    for name in ("node", "input", "output", "value_info", "quantization_annotation"):
        getattr(proto.graph, name).extend(getattr(model.graph, name))
    return Model(proto)
