"""From QONNX to an integer graph: every tensor between the input and the logits becomes a small integer.

One pass over the graph carries, beside each integer tensor x, what it stands for: ``real = scale * x + bias``, per
channel and in float64. What each operation does to them stands in `operations`, the thresholds in `integers`.
"""

from __future__ import annotations

import numpy as np
import onnx

from .errors import UnsupportedError
from .integer_graph import IntegerGraph, node_title
from .integers import Dequantization
from .model import Model
from .operations import HANDLERS
from .qonnx_graph import read_weights


def streamline(source: onnx.ModelProto, *, input_bits: int = 8) -> tuple[Model, Dequantization]:
    """Return the integer graph of a QONNX model (without the final scale) and the scale of its outputs.

    input_bits: of the unsigned integers that the graph takes; 8 are the bytes of a picture.

    Raises:
        UnsupportedError: an operation, or a combination, that has no exact integer form; it names the node.
        ManifestError: the graph is not one network from one picture to one vector.
    """
    graph = IntegerGraph(source.graph, input_bits)
    for node in source.graph.node:
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
    if node.output[0] in graph.constants:
        return
    weights = read_weights(node, graph.constants, graph.weights)
    if weights is not None:
        graph.weights[node.output[0]] = weights
        return
    handler = HANDLERS.get(node.op_type)
    if handler is None:
        raise UnsupportedError(
            f"{node_title(node)}: the accelerator has no such operation; "
            f"use {', '.join(sorted(HANDLERS))} with quantized weights"
        )
    graph.integers[node.output[0]] = handler(graph, node)
