"""From QONNX to an integer graph: every tensor between the input and the logits becomes a small integer.

One pass over the graph carries, beside each integer tensor x, what it stands for: ``real = scale * x + bias``, per
channel and in float64. What each operation does to them stands in `operations`, the thresholds in `integers`.
"""

from __future__ import annotations

import numpy as np
import onnx

from ..base.errors import UnsupportedError
from .integer_graph import IntegerGraph
from .integers import Dequantization
from .model import Model
from .operations import HANDLERS
from .qonnx_graph import QUANTIZER_OPS, evaluate, node_title, read_bias, read_weights, reading

_HINT = f"use {', '.join(sorted(HANDLERS))} with quantized weights"
_HINTS = {
    "ArgMax": "end the network with its logits, the host takes the largest",
    "Resize": "upsample outside of the network, or let a strided network keep its size",
    "Softmax": "end the network with its logits, the order of which it keeps",
    "TopK": "end the network with its logits, the host takes the largest",
    "Upsample": "upsample outside of the network, or let a strided network keep its size",
}


def streamline(
    source: onnx.ModelProto, *, input_bits: int = 8, input_scale: float | None = None
) -> tuple[Model, Dequantization]:
    """Return the integer graph of a QONNX model (without the final scale) and the scale of its outputs.

    input_bits: of the unsigned integers that the graph takes; 8 are the bytes of a picture. input_scale: what one of
    them stands for; without it the input has to have a quantizer, whose scale it is.

    Raises:
        UnsupportedError: an operation, or a combination, that has no exact integer form; it names the node.
        ManifestError: the graph is not one network from one picture to one vector.
    """
    graph = IntegerGraph(source.graph, input_bits, input_scale)
    for node in source.graph.node:
        with reading(node):
            _visit(graph, node)
    output = source.graph.output[0].name
    result = graph.integers.get(output)
    if result is None or result.relu:
        raise UnsupportedError(
            f"output '{output}': does not end in a quantized linear layer; let the network end with its classifier"
        )
    scale, bias = (np.broadcast_to(values, result.channels).copy() for values in (result.scale, result.bias))
    return graph.finish(result), Dequantization(scale=scale, bias=bias)


def _visit(graph: IntegerGraph, node: onnx.NodeProto) -> None:
    if node.output[0] in graph.constants or _fold(graph, node):
        return
    weights = read_weights(node, graph.constants, graph.weights)
    if weights is not None:
        graph.weights[node.output[0]] = weights
        return
    handler = HANDLERS.get(node.op_type)
    if handler is None:
        raise UnsupportedError(
            f"{node_title(node)}: the accelerator has no such operation; {_HINTS.get(node.op_type, _HINT)}"
        )
    graph.integers[node.output[0]] = handler(graph, node)


def _fold(graph: IntegerGraph, node: onnx.NodeProto) -> bool:
    """Compute what follows from shapes alone, as exporters write a flattening, and biases in more bits than weights."""
    if node.op_type == "Shape":
        shape = np.asarray(graph.input_of(node).shape, np.int64)
        graph.constants[node.output[0]] = shape
        return True
    value = read_bias(node, graph.constants)
    if value is not None:
        graph.constants[node.output[0]] = value
        return True
    if node.op_type not in QUANTIZER_OPS and node.input and all(name in graph.constants for name in node.input):
        graph.constants.update(evaluate(node, graph.constants))
        return True
    return False
