"""Which hardware layer each quantizer becomes: thresholds in memory, or a Requant with its multiplier, by price.

Only a quantizer that streamlining found an exact Requant for has the choice (`integers.requant_attributes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper
from qonnx.core.datatype import DataType

from .boards import Board
from .estimate import layer_figures
from .facts import NO_FACTS, Facts
from .model import FINN_DOMAIN, Model, attributes, custom_op, range_datatype
from .options import price_of
from .requant import REQUANT_MEMORY


def infer_requants(model: Model, board: Board, max_cycles: int) -> Model:
    """Turn each channels-last MultiThreshold into a Requant where that equals it and is the cheaper at a frame time."""
    for node in list(model.graph.node):
        given = attributes(node)
        if node.op_type != "MultiThreshold" or "requant_scale" not in given:
            continue
        *vectors, channels = model.get_tensor_shape(node.input[0])
        thresholds = model.get_initializer(node.input[1])
        source, target = (model.get_tensor_datatype(name) for name in (node.input[0], node.output[0]))
        weights = range_datatype(thresholds.min(), thresholds.max(), signed=source.signed())
        pe = _needed_pe(channels, prod(vectors), max_cycles)
        common = {"NumChannels": channels, "numInputVectors": vectors, "PE": pe}
        common |= {"inputDataType": source.name, "outputDataType": target.name}
        steps = {"numSteps": thresholds.shape[1], "weightDataType": weights.name, "ActVal": int(given["out_bias"])}
        facts = Facts(shared_thresholds=len(thresholds) == 1)
        as_steps = _price("Thresholding_rtl", common | steps, board, facts)
        common |= {"inputDataType": given["requant_input"].decode()}
        if _price("Requant_rtl", common | {"mem_mode": REQUANT_MEMORY}, board) < as_steps:
            model.set_tensor_datatype(node.input[0], DataType[common["inputDataType"]])
            _replace(model, node, common | {"PE": 1})
    return model


def _replace(model: Model, node: onnx.NodeProto, values: Mapping[str, Any]) -> None:
    """Make a node a Requant, its thresholds a scale and a bias."""
    given, (source, old) = attributes(node), node.input
    names = [f"{node.output[0]}_{part}" for part in ("scale", "bias")]
    for name, value in zip(names, (given["requant_scale"], given["requant_bias"]), strict=True):
        model.set_initializer(name, np.asarray(value, np.float32))
        model.set_tensor_datatype(name, DataType["FLOAT32"])
    new = helper.make_node(
        "Requant",
        [source, *names],
        list(node.output),
        name=node.name,
        domain=FINN_DOMAIN,
        backend="fpgadataflow",
        **values,
    )
    node.CopyFrom(new)
    model.del_initializer(old)


def _price(op_type: str, values: Mapping[str, Any], board: Board, facts: Facts = NO_FACTS) -> float:
    """Return the price of a layer, as the folding counts it."""
    node = helper.make_node(op_type, ["x"], ["y"], domain=f"{FINN_DOMAIN}.rtl", backend="fpgadataflow", **values)
    return price_of(layer_figures(node, custom_op(node), board.fpga_part, facts).resources, board)


def _needed_pe(channels: int, num_vectors: int, max_cycles: int) -> int:
    """Return how many channels must be done at once, all of them if even that is too slow."""
    divisors = (pe for pe in range(1, channels + 1) if channels % pe == 0)
    return next((pe for pe in divisors if num_vectors * channels // pe <= max_cycles), channels)
