"""The flow of `build` from QONNX to specialized layers, in one go and without the executions: what pricing needs."""

from __future__ import annotations

import onnx

from ..boards.board import Board
from ..graph.model import Model


def specialized(source: onnx.ModelProto, board: Board, max_cycles: int, *, input_bits: int = 8) -> Model:
    """Return the specialized layers of a QONNX network for a board; `max_cycles` decides the form of quantizers."""
    from ..fold.quantizers import infer_requants
    from ..graph import steps
    from ..graph.lower import lower
    from ..graph.streamline import streamline

    model, _ = streamline(source, input_bits=input_bits)
    model = steps.to_hardware(infer_requants(lower(model), board, max_cycles))
    model = steps.minimize_bit_widths(steps.partition(model))
    return steps.specialize(model, board.fpga_part)
