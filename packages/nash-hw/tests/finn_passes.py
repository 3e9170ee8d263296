"""FINN's own passes from a folded graph to the kernels it builds."""

from __future__ import annotations

from pathlib import Path

import onnx

from nash_hw.boards.board import Board
from nash_hw.boards.shells import shell_flow
from nash_hw.graph.model import Model, custom_op


def kernels(
    model: Model, board: Board, folder: Path, floorplan: Path | None = None
) -> tuple[dict[str, frozenset[str]], Model]:
    """Return which layers of a folded model share a partition with each layer, and the graph of partitions.

    Raises:
        AssertionError: partitions depend on each other, or have layers of two SLRs.
    """
    prepared = with_transfers(model, board)
    number_of, graph = partitioned(prepared, folder, floorplan)
    return shared(number_of), graph


def shared(number_of: dict[str, int]) -> dict[str, frozenset[str]]:
    """Return for each layer those of its partition."""
    members: dict[int, set[str]] = {}
    for name, number in number_of.items():
        members.setdefault(number, set()).add(name)
    return {name: frozenset(members[number]) for name, number in number_of.items()}


def is_crossed(graph: Model, kernel: onnx.NodeProto) -> bool:
    """Tell whether FINN's link for Vitis would join a kernel's inputs to the wrong streams.

    It counts the inputs of a kernel in the order of those who write them (vitis_linking_configuration.py), and FINN's
    project for Zynq takes the kernel's own.
    """
    written = [name for node in graph.graph.node for name in node.output if name in kernel.input]
    return written != [name for name in kernel.input if name in written]


def with_transfers(model: Model, board: Board) -> Model:
    """Return a copy with all that FINN inserts: converters, FIFOs, transfers to and from memory.

    builder/build_dataflow_steps.py (step_set_fifo_depths, step_prepare_synthesis); for Zynq boards
    make_zynq_proj.py (ZynqBuild).
    Names of tensors and data layouts are left out, which no partition depends on.
    """
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.insert_iodma import InsertIODMA
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from finn.transformation.qonnx.give_unique_node_names_recursive import GiveUniqueNodeNamesRecursive
    from finn.util.basic import pynq_native_port_width

    is_zynq = shell_flow(board) == "vivado_zynq"
    width = pynq_native_port_width[board.name] if is_zynq else 512
    specialize = SpecializeLayers(board.fpga_part)
    names = GiveUniqueNodeNamesRecursive()
    passes = [InsertDWC(), InsertFIFO(create_shallow_fifos=True), specialize, names]
    passes += [InsertIODMA(width), names, InsertDWC(), specialize, names]
    model = Model(onnx.ModelProto.FromString(model.model.SerializeToString()))
    for node in model.graph.node:
        node.doc_string = node.name  # FINN sorts nodes and gives them new names
    for each in passes:
        model = model.transform(each)
    return model


def partitioned(model: Model, folder: Path, floorplan: Path | None) -> tuple[dict[str, int], Model]:
    """Return the partition of each layer, and the graph of partitions, of a graph with all that FINN inserts."""
    from finn.transformation.fpgadataflow.create_dataflow_partition import CreateDataflowPartition
    from finn.transformation.fpgadataflow.floorplan import Floorplan
    from finn.util.settings import get_settings

    folder.mkdir(parents=True, exist_ok=True)
    get_settings().finn_build_dir = folder  # FINN keeps the folder of the first test
    model = model.transform(Floorplan(None if floorplan is None else str(floorplan)))
    layers = [node for node in model.graph.node if node.doc_string]
    number_of = {node.doc_string: custom_op(node).get_nodeattr("partition_id") for node in layers}
    return number_of, model.transform(CreateDataflowPartition(str(folder)))
