"""What the FIFOs at joins take: their depths follow from the folding of all layers, so they are known after it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from .boards import RESOURCES
from .finn_config import Settings, fold
from .latency import spans
from .model import Model
from .streams import streams


def fifo_resources(model: Model, settings: Settings, fpga_part: str) -> Mapping[str, float]:
    """Return the resources of the FIFOs a specialized model needs with a folding; the model stays as it is."""
    folded, _ = fold(_skeleton(model), settings)
    fifos = [stream.figures.resources for stream in streams(folded, spans(folded), fpga_part) if stream.kind == "fifo"]
    return {name: sum(fifo[name] or 0.0 for fifo in fifos) for name in RESOURCES}


def _skeleton(model: Model) -> Model:
    """Return a copy without the values of weights and thresholds."""
    proto = onnx.ModelProto(ir_version=model.model.ir_version, opset_import=model.model.opset_import)
    for name in ("node", "input", "output", "value_info", "quantization_annotation"):
        getattr(proto.graph, name).extend(getattr(model.graph, name))
    return Model(proto)
