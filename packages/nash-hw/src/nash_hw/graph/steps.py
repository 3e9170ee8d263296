"""From channels-last operations to one FINN dataflow partition of specialized layers, bit widths minimized.

Each step is ``model -> model``, or with what it needs of the target; each keeps the executed function the same.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

import onnx
from onnx import TensorProto, helper

from ..base.errors import UnsupportedError
from .model import FINN_DOMAIN, Model, custom_op, range_datatype
from .requant import MAX_INPUT_BITS, REQUANT_MEMORY, fixed_point, needed_bits


def to_hardware(model: Model) -> Model:
    """Turn every channels-last operation into FINN's hardware layer for it."""
    from finn.transformation.fpgadataflow.convert_to_hw.concat import InferConcatLayer
    from finn.transformation.fpgadataflow.convert_to_hw.conv_inp_gen import InferConvInpGen
    from finn.transformation.fpgadataflow.convert_to_hw.duplicate_streams import InferDuplicateStreamsLayer
    from finn.transformation.fpgadataflow.convert_to_hw.pool import InferPool
    from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
        InferQuantizedMatrixVectorActivation,
    )
    from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
    from finn.transformation.fpgadataflow.convert_to_hw.vector_vector_activation import InferVectorVectorActivation

    # Sums and scalings first, while their types are those of streamlining: the other passes infer types anew.
    # Thresholds next: an MVAU that finds one behind it takes it in, and is then HLS only. Pools before sliding
    # windows, which they are made of; streams are duplicated last, when every reader is known.
    model = infer_elementwise(model)
    model = model.transform(InferThresholdingLayer())
    model = model.transform(InferVectorVectorActivation())
    model = model.transform(InferQuantizedMatrixVectorActivation())
    model = model.transform(InferPool())
    model = model.transform(InferConvInpGen())
    model = model.transform(InferConcatLayer())
    model = remove_flatten(model)
    model = model.transform(InferDuplicateStreamsLayer())
    return sort_nodes(model)


def infer_elementwise(model: Model) -> Model:
    """Turn every sum of two feature maps, and every product with a number, into FINN's layer for it.

    FINN's own pass infers all types after each one. The number is part of the layer's code.
    """
    for node in model.graph.node:
        if node.op_type not in ("Add", "Mul"):
            continue
        left, right = node.input
        shapes = [model.get_tensor_shape(name) for name in (left, right, node.output[0])]
        types = [model.get_tensor_datatype(name).name for name in (left, right, node.output[0])]
        style = "input" if model.get_initializer(right) is None else "const"
        node.op_type, node.domain = f"Elementwise{node.op_type}", FINN_DOMAIN
        node.attribute.extend(
            helper.make_attribute(name, value)
            for name, value in {
                "backend": "fpgadataflow",
                "lhs_shape": shapes[0],
                "rhs_shape": shapes[1],
                "out_shape": shapes[2],
                "lhs_dtype": types[0],
                "rhs_dtype": types[1],
                "out_dtype": types[2],
                "lhs_style": "input",
                "rhs_style": style,
            }.items()
        )
        if style == "const":  # in RTL it would be a DSP block
            node.attribute.append(helper.make_attribute("preferred_impl_style", "hls"))
    return model


def remove_flatten(model: Model) -> Model:
    """Remove each Flatten of one pixel, which in a stream is nothing, by joining its two tensors."""
    for node in [node for node in model.graph.node if node.op_type == "Flatten"]:
        source, target = node.input[0], node.output[0]
        for other in model.graph.node:
            for position, name in enumerate(other.input):
                if name == target:
                    other.input[position] = source
        model.graph.node.remove(node)
    return model


def sort_nodes(model: Model) -> Model:
    """Bring the nodes into an order in which each follows those it reads."""
    nodes = list(model.graph.node)
    producer = {name: position for position, node in enumerate(nodes) for name in node.output}
    reads = {
        position: [producer[name] for name in node.input if name in producer] for position, node in enumerate(nodes)
    }
    order = TopologicalSorter(reads).static_order()
    copies = [onnx.NodeProto.FromString(nodes[position].SerializeToString()) for position in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


def partition(model: Model) -> Model:
    """Cut the one dataflow partition out: all but the transposition at the input.

    Raises:
        UnsupportedError: an operation between input and output is no hardware layer; all are named.
    """
    outside = [node for node in model.graph.node if not node.domain.startswith(FINN_DOMAIN)]
    source = model.graph.input[0].name
    allowed = [node for node in outside if node.op_type == "Transpose" and node.input[0] == source]
    unmapped = [node for node in outside if node not in allowed]
    if unmapped or len(allowed) != 1:
        names = ", ".join(f"{node.op_type} '{node.name}'" for node in unmapped) or "no transposition at the input"
        raise UnsupportedError(f"not one dataflow partition: FINN has no hardware layer for {names}")
    entry = allowed[0].output[0]
    shape, datatype = model.get_tensor_shape(entry), model.get_tensor_datatype(entry)
    model.graph.node.remove(allowed[0])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(entry, TensorProto.FLOAT, shape))
    _forget(model, source)
    model.set_tensor_datatype(entry, datatype)
    for position, info in enumerate(model.graph.value_info):
        if info.name == entry:
            del model.graph.value_info[position]
            break
    return model


def _forget(model: Model, name: str) -> None:
    for position, annotation in enumerate(model.graph.quantization_annotation):
        if annotation.tensor_name == name:
            del model.graph.quantization_annotation[position]
            return


def minimize_bit_widths(model: Model) -> Model:
    """Narrow every weight, threshold and accumulator to what its values need, from the input on in one pass.

    FINN's passes infer the types of the whole graph after each layer, and store weights of +-1 in two bits
    (MinimizeWeightBitWidth makes INT2 of BIPOLAR); here they keep their one.
    """
    for node in model.graph.node:
        instance = custom_op(node)
        instance.infer_node_datatype(model)
        if is_layer(node, "Thresholding"):
            _minimize_thresholds(model, instance)
        elif hasattr(instance, "minimize_weight_bit_width") and not _has_bipolar_weights(instance):
            instance.minimize_weight_bit_width(model)
        # sums and products have had the range of their values since streamlining, which FINN's rule does not know
        if hasattr(instance, "minimize_accumulator_width") and not node.op_type.startswith("Elementwise"):
            instance.minimize_accumulator_width(model)
            _leave_room_for_bias(model, instance)
        instance.infer_node_datatype(model)
    return model


def _leave_room_for_bias(model: Model, instance: Any) -> None:
    """Widen an accumulator again where the Requant behind it needs the bits for its bias (`FixedPoint.fits`)."""
    reader = model.find_consumer(instance.onnx_node.output[0])
    if reader is None or not is_layer(reader, "Requant"):
        return
    scale, bias = (model.get_initializer(name) for name in reader.input[1:])
    needed = needed_bits(scale, bias, custom_op(reader).get_output_datatype())
    if needed > instance.get_output_datatype().bitwidth():
        instance.set_nodeattr("accDataType", f"INT{needed}")
        instance.set_nodeattr("outputDataType", f"INT{needed}")


def _minimize_thresholds(model: Model, instance: Any) -> None:
    """Bring thresholds that are never or always passed to the edge of the input's range, and take the narrowest type.

    FINN does so in RoundAndClipThresholds and Thresholding.minimize_weight_bit_width, which asks a Python function for
    each of the (channels x steps) thresholds whether it fits.
    """
    name, datatype = instance.onnx_node.input[1], instance.get_input_datatype(0)
    thresholds = model.get_initializer(name).clip(datatype.min(), datatype.max() + 1)
    model.set_initializer(name, thresholds)
    narrowest = range_datatype(thresholds.min(), thresholds.max(), signed=datatype.signed())
    instance.set_nodeattr("weightDataType", narrowest.name)
    model.set_tensor_datatype(name, narrowest)


def _has_bipolar_weights(instance: Any) -> bool:
    return "weightDataType" in instance.get_nodeattr_types() and instance.get_nodeattr("weightDataType") == "BIPOLAR"


def specialize(model: Model, fpga_part: str) -> Model:
    """Choose FINN's RTL or HLS form of each layer for an FPGA, and name the layers."""
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from qonnx.transformation.general import GiveUniqueNodeNames

    try:
        model = model.transform(SpecializeLayers(fpga_part))
    except Exception as error:  # FINN raises a bare Exception for a layer it has no variant of
        raise UnsupportedError(f"FINN cannot specialize a layer for {fpga_part}: {error}") from error
    for node in model.get_nodes_by_op_type("Requant_rtl"):
        _decouple_parameters(model, node)
    return model.transform(GiveUniqueNodeNames())


def _decouple_parameters(model: Model, node: onnx.NodeProto) -> None:
    """Let a Requant read its scale and bias from a memory: written into its code, they would lose digits."""
    instance = custom_op(node)
    source, target = instance.get_input_datatype(), instance.get_output_datatype()
    scale, bias = (model.get_initializer(name) for name in node.input[1:])
    assert source.signed()
    assert source.bitwidth() <= MAX_INPUT_BITS
    assert fixed_point(scale, bias).fits(source.bitwidth(), target.bitwidth()).all()
    instance.set_nodeattr("mem_mode", REQUANT_MEMORY)


def name_tensors(model: Model) -> Model:
    """Give the tensors that FINN names at random the name of their layer, so that a build can be repeated."""
    names = {
        name: f"{node.name}_out{position}"
        for node in model.graph.node
        for position, name in enumerate(node.output)
        if "/" not in name and name != model.graph.output[0].name
    }
    for node in model.graph.node:
        for names_of in (node.input, node.output):
            for position, name in enumerate(names_of):
                names_of[position] = names.get(name, name)
    for info in model.graph.value_info:
        info.name = names.get(info.name, info.name)
    for annotation in model.graph.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
    return model


def is_layer(node: onnx.NodeProto, *kinds: str) -> bool:
    """Tell whether a node is a hardware layer of one of the kinds ("MVAU"), specialized or not."""
    return node.op_type.removesuffix("_rtl").removesuffix("_hls") in kinds
