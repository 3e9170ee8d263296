"""The partitions that FINN cuts an accelerator into, one kernel each, and what keeps their graph free of cycles.

FINN's Floorplan (finn/transformation/fpgadataflow/floorplan.py) begins a partition at each layer with an AXI-lite
interface, as a matrix-vector unit whose weights the host writes has one. Any other layer goes to the partition of the
first of its inputs that comes from its own SLR, and begins one if none does. FIFOs and width converters are in the
partition and on the SLR of the layer they come from, transfers to and from memory are partitions of their own, and so
cannot close a cycle. Partitions that depend on each other are refused by CreateDataflowPartition.

An addition whose first operand comes from an older partition than its second is part of the older one, which then
depends on itself. So the operand of the latest partition stands first: then no stream leads to a partition that began
before the one it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

import onnx

from ..base.errors import UnsupportedError
from ..graph.model import Model, custom_op
from ..graph.steps import is_layer

_OPERANDS = (("lhs_shape", "rhs_shape"), ("lhs_dtype", "rhs_dtype"), ("lhs_style", "rhs_style"))


def partitions(model: Model, slrs: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return the partition of each layer of a folded model; 0 begins with the FIFO at the accelerator's input.

    `slrs`: the SLR of each layer, by its name; without it nothing is said of SLRs.
    """
    return dict(_assign(model, slrs or {}))


def order_operands(model: Model, config: dict[str, Any], slrs: Mapping[str, int] | None = None) -> None:
    """Put the operand of the latest partition first, at each addition of a folded model and in its configuration."""
    for _ in _assign(model, slrs or {}, lambda node: _swap_operands(node, config[node.name])):
        pass


def check_partitions(model: Model, slrs: Mapping[str, int] | None = None) -> None:
    """Check that FINN can build the partitions of a folded model.

    Raises:
        UnsupportedError: two of them depend on each other; a layer that reads both is named.
    """
    number_of = partitions(model, slrs)
    reads: dict[int, set[int]] = {}
    joins: dict[tuple[int, int], str] = {}
    for node in model.graph.node:
        for name in node.input:
            producer = model.find_producer(name)
            if producer is not None and number_of[producer.name] != number_of[node.name]:
                reads.setdefault(number_of[node.name], set()).add(number_of[producer.name])
                joins.setdefault((number_of[node.name], number_of[producer.name]), node.name)
    try:
        TopologicalSorter(reads).prepare()
    except CycleError as error:
        cycle = error.args[1]  # each is read by the one after it
        _, where = max((before - after, joins[after, before]) for before, after in pairwise(cycle))
        raise UnsupportedError(
            f"{where}: FINN would build it into a kernel that waits for another, which waits for it, because weights "
            "before it lie in UltraRAM; choose a --board without UltraRAM"
        ) from error


def crossed_kernels(inserted: Model, number_of: Mapping[str, int]) -> list[str]:
    """Return the kernels whose streams FINN's link for Vitis joins to the wrong inputs, by FINN's names.

    It counts a kernel's inputs in the order of the kernels that write them (vitis_linking_configuration.py), the kernel
    has them in the order of its nodes (create_generic_partitions.py of qonnx).

    inserted: the graph with all that FINN inserts; number_of: the partition of each of its layers.
    """
    kernel_of: dict[str, int] = {}
    inputs: dict[int, list[str]] = {}
    for node in inserted.graph.node:
        producer = inserted.find_producer(node.input[0])
        if node.op_type == "IODMA_hls":
            own = -1 if producer is None else -2
        elif node.doc_string:
            own = number_of[node.doc_string]
        else:
            own = max(kernel_of[producer.name], 0)
        kernel_of[node.name] = own
        inputs.setdefault(own, [])  # in the order in which FINN has the kernels
        for name in node.input:
            writer = inserted.find_producer(name)
            if writer is not None and kernel_of[writer.name] != own:
                inputs[own].append(name)
    readers = {name: kernel for kernel, names in inputs.items() for name in names}
    written: dict[int, list[str]] = {kernel: [] for kernel in inputs}
    for kernel in inputs:
        for node in inserted.graph.node:
            for name in node.output if kernel_of[node.name] == kernel else ():
                if name in readers:
                    written[readers[name]].append(name)
    return [
        f"StreamingDataflowPartition_{position}"
        for position, (kernel, names) in enumerate(inputs.items())
        if names != written[kernel]
    ]


def _assign(
    model: Model, slrs: Mapping[str, int], swap_operands: Callable[[onnx.NodeProto], None] | None = None
) -> Iterator[tuple[str, int]]:
    """Yield each layer's name and partition, its operands swapped where that is asked for and makes it a later one."""
    source = model.graph.input[0].name
    streams: dict[str, tuple[int, int | None]] = {}  # the partition and SLR that each comes from
    number = 0
    for node in model.graph.node:
        slr = slrs.get(node.name)
        if source in node.input:
            streams[source] = (number, slr)
            number += 1
        inputs = [streams[name] for name in node.input if name in streams]
        near = [partition for partition, from_slr in inputs if from_slr == slr]
        if _has_axilite(node) or not near:
            own = number
            number += 1
        elif swap_operands is not None and near[-1] > near[0] and is_layer(node, "ElementwiseAdd"):
            swap_operands(node)
            own = near[-1]
        else:
            own = near[0]
        yield node.name, own
        streams |= dict.fromkeys(node.output, (own, slr))


def _has_axilite(node: onnx.NodeProto) -> bool:
    return bool(custom_op(node).get_verilog_top_module_intf_names()["axilite"])


def _swap_operands(node: onnx.NodeProto, config: dict[str, Any]) -> None:
    instance = custom_op(node)
    node.input[0], node.input[1] = node.input[1], node.input[0]
    for left, right in _OPERANDS:
        values = instance.get_nodeattr(left), instance.get_nodeattr(right)
        instance.set_nodeattr(right, values[0])
        instance.set_nodeattr(left, values[1])
    depths = [int(depth) for depth in reversed(instance.get_nodeattr("inFIFODepths"))]
    instance.set_nodeattr("inFIFODepths", depths)
    if "inFIFODepths" in config:
        config["inFIFODepths"] = depths
