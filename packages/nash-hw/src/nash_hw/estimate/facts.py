"""What the constants of a layer say of its size, beyond its attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx

from ..graph.model import Model
from ..graph.steps import is_layer


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The defaults are those of a layer that has no such constants."""

    narrow_weights: bool = False  # a matrix-vector unit's spare the lowest value of their datatype (-8 of 4 bits)
    shared_thresholds: bool = False  # all channels have the same
    factor: int = 1  # of a multiplication by one number


NO_FACTS = Facts()


def facts_of(model: Model, node: onnx.NodeProto, instance: Any) -> Facts:
    """Return what is known of a layer's constants."""
    if is_layer(node, "MVAU"):
        lowest = model.get_initializer(node.input[1]).min()
        return Facts(narrow_weights=bool(lowest > instance.get_input_datatype(1).min()))
    if is_layer(node, "Thresholding"):
        return Facts(shared_thresholds=model.get_tensor_shape(node.input[1])[0] == 1)
    if is_layer(node, "ElementwiseMul"):
        return Facts(factor=int(model.get_initializer(node.input[1]).item()))
    return NO_FACTS
