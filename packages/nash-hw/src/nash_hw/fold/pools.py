"""A max-pool in two: the maxima of each row of a window, then those of the rows.

FINN's Pool takes a cycle for each position of its window, nine for 3x3. The maximum of a window is the maximum of the
maxima of its rows, so a 1x3 and a 3x1 pool give the same for six, of which three are a layer's. The rows come first:
with a stride fewer pixels are left for the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ..graph.model import Model, custom_op
from ..graph.steps import is_layer
from .settings import Values

Settings = dict[str, Values]  # layer name -> attribute -> value

SEPARATED = "separated"  # beside FINN's attributes in the settings of a pool's sliding window
_ROWS = {"ram_style": "distributed"}  # a few words


def is_separable(window: onnx.NodeProto, pool: onnx.NodeProto) -> bool:
    """Tell whether a pool behind its sliding window is one whose windows overlap in both directions."""
    if not is_layer(pool, "Pool") or custom_op(pool).get_nodeattr("Function") != "MaxPool":
        return False
    get = custom_op(window).get_nodeattr
    return all(kernel > stride for kernel, stride in zip(get("ConvKernelDim"), get("Stride"), strict=True))


def separated(window: onnx.NodeProto, pool: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the layers of the two pools: window and pool of the rows, window and pool of the columns."""
    get = custom_op(window).get_nodeattr
    (kernel_h, kernel_w), (stride_h, stride_w) = get("ConvKernelDim"), get("Stride")
    (height, _), (_, columns) = get("IFMDim"), get("OFMDim")
    middle = [f"{pool.output[0]}_rows", f"{pool.output[0]}_rows_windows"]
    first = {"ConvKernelDim": [1, kernel_w], "Stride": [1, stride_w], "OFMDim": [height, columns]}
    second = {"ConvKernelDim": [kernel_h, 1], "Stride": [stride_h, 1], "IFMDim": [height, columns]}
    dilation_h, dilation_w = get("Dilation")
    first["Dilation"], second["Dilation"] = [1, dilation_w], [dilation_h, 1]
    of_rows = {"KernelSize": [1, kernel_w], "OutImgDims": [height, columns]}
    return [
        _changed(window, window.name, (window.input[0], window.output[0]), first),
        _changed(pool, pool.name, (pool.input[0], middle[0]), of_rows),
        _changed(window, f"{window.name}_columns", middle, second),
        _changed(pool, f"{pool.name}_columns", (middle[1], pool.output[0]), {"KernelSize": [kernel_h, 1]}),
    ]


def separated_settings(window: Values, pool: Values) -> list[Values]:
    """Return the settings of the layers of the two pools, which all work on as many channels at once.

    The window of the columns, which holds rows, keeps them where the whole window would.
    """
    return [window | _ROWS, pool, window, pool]


def separate_pools(model: Model, settings: Settings) -> Settings:
    """Separate the pools whose settings say so; return the settings of all layers."""
    result = {
        name: {key: value for key, value in values.items() if key != SEPARATED} for name, values in settings.items()
    }
    for window in [node for node in model.graph.node if settings[node.name].get(SEPARATED)]:
        pool = model.find_consumer(window.output[0])
        layers = separated(window, pool)
        values = separated_settings(result[window.name], result[pool.name])
        result |= {layer.name: of_layer for layer, of_layer in zip(layers, values, strict=True)}
        _replace(model, window, pool, layers)
    return result


def _replace(model: Model, window: onnx.NodeProto, pool: onnx.NodeProto, layers: Sequence[onnx.NodeProto]) -> None:
    nodes = list(model.graph.node)
    position = nodes.index(pool)
    datatype = model.get_tensor_datatype(pool.output[0])
    model.graph.node.remove(window)
    model.graph.node.remove(pool)
    for offset, layer in enumerate(layers):
        model.graph.node.insert(position - 1 + offset, layer)
        instance, name = custom_op(layer), layer.output[0]
        model.set_tensor_shape(name, [int(size) for size in instance.get_normal_output_shape()])
        model.set_tensor_datatype(name, datatype)


def _changed(
    node: onnx.NodeProto, name: str, tensors: Sequence[str], values: Mapping[str, Sequence[int]]
) -> onnx.NodeProto:
    """Return a copy of a layer with another name, from tensor to tensor, and some other attributes."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.input[0], copy.output[0] = name, *tensors
    instance = custom_op(copy)
    for key, value in values.items():
        instance.set_nodeattr(key, list(map(int, value)))
    return copy
