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
from qonnx.core.datatype import BaseDataType, DataType

from ..boards.board import Board
from ..estimate.estimate import layer_figures
from ..estimate.facts import NO_FACTS, Facts
from ..graph.model import FINN_DOMAIN, Model, attributes, custom_op, range_datatype
from ..graph.requant import REQUANT_MEMORY
from .links import link_resources
from .options import price_of


def infer_requants(model: Model, board: Board, max_cycles: int) -> Model:
    """Turn each channels-last MultiThreshold into a Requant where that equals it and is the cheaper at a frame time.

    A Requant takes its input for signed; where that is unsigned, a layer between them stores it so.
    """
    for node in list(model.graph.node):
        given = attributes(node)
        if node.op_type != "MultiThreshold" or "requant_scale" not in given:
            continue
        *vectors, channels = model.get_tensor_shape(node.input[0])
        thresholds = model.get_initializer(node.input[1])
        source, target = (model.get_tensor_datatype(name) for name in (node.input[0], node.output[0]))
        wider = DataType[given["requant_input"].decode()]
        weights = range_datatype(thresholds.min(), thresholds.max(), signed=source.signed())
        pe = _needed_pe(channels, prod(vectors), max_cycles)
        common = {"NumChannels": channels, "numInputVectors": vectors, "PE": pe, "outputDataType": target.name}
        steps = {"numSteps": thresholds.shape[1], "weightDataType": weights.name, "ActVal": int(given["out_bias"])}
        facts = Facts(shared_thresholds=len(thresholds) == 1)
        as_steps = _price("Thresholding_rtl", common | steps | {"inputDataType": source.name}, board, facts)
        common |= {"inputDataType": wider.name}
        price = _price("Requant_rtl", common | {"mem_mode": REQUANT_MEMORY}, board)
        if not source.signed():
            price += _price_of_widening(([*vectors, channels], source, wider), pe, board)
        if price < as_steps:
            if source.signed():
                model.set_tensor_datatype(node.input[0], wider)
            else:
                _widen(model, node, wider)
            _replace(model, node, common | {"PE": 1})
    return model


def _widen(model: Model, node: onnx.NodeProto, wider: BaseDataType) -> None:
    """Let a node read its input in another datatype: a product with 1, of which no hardware but wires is left."""
    source, one, name = node.input[0], f"{node.output[0]}_one", f"{node.output[0]}_signed"
    model.set_initializer(one, np.ones(1, np.float32))
    model.set_tensor_datatype(one, DataType["UINT1"])
    model.set_tensor_shape(name, model.get_tensor_shape(source))
    model.set_tensor_datatype(name, wider)
    position = list(model.graph.node).index(node)
    node.input[0] = name
    model.graph.node.insert(position, helper.make_node("Mul", [source, one], [name], name=name))


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
    backend = op_type.rpartition("_")[2]
    node = helper.make_node(op_type, ["x"], ["y"], domain=f"{FINN_DOMAIN}.{backend}", backend="fpgadataflow", **values)
    return price_of(layer_figures(node, custom_op(node), board.fpga_part, facts).resources, board)


def _price_of_widening(stored: tuple[list[int], BaseDataType, BaseDataType], pe: int, board: Board) -> float:
    """Return the price of the layer that stores integers of a shape in another datatype, with its FIFO."""
    shape, source, wider = stored
    values = {"lhs_shape": shape, "rhs_shape": [1], "out_shape": shape, "lhs_style": "input", "rhs_style": "const"}
    types = {"lhs_dtype": source.name, "rhs_dtype": "UINT1", "out_dtype": wider.name, "PE": pe}
    between = link_resources(pe * wider.bitwidth(), pe * wider.bitwidth(), board.fpga_part)
    return _price("ElementwiseMul_hls", values | types, board) + price_of(between, board)


def _needed_pe(channels: int, num_vectors: int, max_cycles: int) -> int:
    """Return how many channels must be done at once, all of them if even that is too slow."""
    divisors = (pe for pe in range(1, channels + 1) if channels % pe == 0)
    return next((pe for pe in divisors if num_vectors * channels // pe <= max_cycles), channels)
