"""Simulated FIFO depths as FINN takes them.

FINN reads them from a file (`fifo_config_file` of its build configuration, `auto_fifo_depths: false`), by the names
that FIFOs get when FINN has put one into every stream and numbered them; so that is what is done here, on a copy.
`folding.json` has them as well, as `inFIFODepths` of the layers, and `hardware.json` what they take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import IntegrityError
from ..boards.board import RESOURCES
from ..estimate import confidence
from ..estimate.estimate import utilization
from ..estimate.streams import LEAST_DEPTH, fifo_figures
from ..graph.model import Model, custom_op
from .design import MIN_DEPTH

Fifos = Sequence[Mapping[str, Any]]  # `simulated.fifos` of hardware.json


def finn_fifo_config(model: Model, fifos: Fifos, fpga_part: str) -> dict[str, Any]:
    """Return FINN's FIFO configuration for a specialized, folded model without FIFOs; the model stays as it is.

    Raises:
        IntegrityError: a FIFO is of no stream of the model.
    """
    import onnx
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from qonnx.transformation.general import GiveReadableTensorNames, GiveUniqueNodeNames

    depths = {(fifo["consumer"], fifo["input"]): fifo["depth"] for fifo in fifos}
    layers = {node.name for node in model.graph.node}
    copy = Model(onnx.ModelProto.FromString(model.model.SerializeToString()))
    for step in (InsertDWC(), InsertFIFO(create_shallow_fifos=True), SpecializeLayers(fpga_part)):
        copy = copy.transform(step)
    copy = copy.transform(GiveUniqueNodeNames()).transform(GiveReadableTensorNames())
    found: dict[str, dict[str, Any]] = {"fifo_depths": {}, "impl_style": {}, "ram_style": {}}
    for node in copy.get_nodes_by_op_type("StreamingFIFO_rtl"):
        reader = copy.find_consumer(node.output[0])
        key = None if reader is None else (reader.name, list(reader.input).index(node.output[0]))
        found["fifo_depths"][node.name] = depths.pop(key, MIN_DEPTH)
        for name in ("impl_style", "ram_style"):
            found[name][node.name] = custom_op(node).get_nodeattr(name)
    if depths or not layers <= {node.name for node in copy.graph.node}:
        missing = next(iter(depths), "a layer")
        raise IntegrityError(f"hardware.json: simulated.fifos: {missing} is not in dataflow.onnx; simulate it anew")
    return found


def with_depths(folding: Mapping[str, Any], fifos: Fifos) -> dict[str, Any]:
    """Return a folding in FINN's format that has the depths as well."""
    result = {name: dict(values) for name, values in folding.items()}
    for fifo in fifos:
        given = result[fifo["consumer"]].setdefault("inFIFODepths", [])
        given += [MIN_DEPTH] * (fifo["input"] + 1 - len(given))
        given[fifo["input"]] = fifo["depth"]
    return result


def with_resources(content: Mapping[str, Any], fifos: Fifos) -> dict[str, Any]:
    """Return a hardware manifest in which `streams` and the sums in `estimated` are of FIFOs of these depths."""
    depths: dict[tuple[str, str], list[int]] = {}
    for fifo in fifos:
        depths.setdefault((fifo["producer"], fifo["consumer"]), []).append(max(fifo["depth"], LEAST_DEPTH))
    totals = dict(content["estimated"]["resources"])
    streams = []
    for stream in content["streams"]:
        if stream["kind"] == "fifo":
            depth = depths[stream["producer"], stream["consumer"]].pop(0)  # several are in the order of the streams
            figures = fifo_figures(stream["out_width_bits"], depth, content["fpga_part"])
            for name in RESOURCES:
                totals[name] += (figures.resources[name] or 0.0) - (stream["resources"][name] or 0.0)
            changes = {"resources": dict(figures.resources), "origins": dict(figures.origins)}
            stream = {**stream, "depth": depth, "origin": "simulated", **changes}
        streams.append(stream)
    num_fpgas = content.get("devices", {}).get("num_fpgas", 1)
    used = utilization(totals, {name: amount * num_fpgas for name, amount in content["board_resources"].items()})
    before = content["estimated"]
    changes = {"resources": totals, "utilization": used}
    if "interval" in before:
        changes["interval"] = confidence.interval(totals)
    if before.get("resources_with_shell") is not None:
        changes["resources_with_shell"] = {
            name: value if value is None else value + totals[name] - before["resources"][name]
            for name, value in before["resources_with_shell"].items()
        }
    return {**content, "streams": streams, "estimated": {**before, **changes}}
