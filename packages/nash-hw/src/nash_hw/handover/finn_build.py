"""The folder that FINN+ builds a bitfile from, and FINN+ at work in it.

What lies there::

    finn/build.yaml      FINN's DataflowBuildConfig (finn/builder/build_dataflow_config.py), from hardware generation on
    finn/dataflow.onnx   the specialized, folded graph
    finn/folding.json    how it is folded, which FINN asks for; the graph has it already
    finn/fifos.json      how deep each FIFO is, as estimated or as `nash-hw simulate` found it, so that FINN need not
                         search (one board only)
    finn/floorplan.json  the SLR of each node, where there are several; FINN writes more into it, so it is no artifact
    finn/output/         what FINN makes of it
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import yaml

from ..base.errors import ToolchainError
from ..boards.board import Board
from ..boards.shells import shell_flow
from ..graph.model import Model, custom_op, skeleton

FOLDER = "finn"
OUTPUT = "output"
FIFOS = "fifos.json"
FLOORPLAN = "floorplan.json"
FILES = ("build.yaml", "dataflow.onnx", "folding.json", FIFOS)
COMMAND = f"finn build {FOLDER}/build.yaml {FOLDER}/dataflow.onnx"
LOG = "finn.log"
_TO_IP = (
    "step_generate_estimate_reports",
    "step_generate_hardware",
    "step_create_stitched_ip",
    "step_measure_rtlsim_performance",
    "step_out_of_context_synthesis",
)
_TO_BITFILE = ("step_prepare_synthesis", "step_synthesize_bitfile", "step_make_driver", "step_deployment_package")
_PORT_BITS = 512  # of a transfer to or from memory on Alveo (DataflowBuildConfig.vitis_iodma_intf_max_width)
_IP_OUTPUTS = ("estimate_reports", "stitched_ip", "rtlsim_performance", "out_of_context_synth")
_BITFILE_OUTPUTS = ("bitfile", "pynq_driver", "deployment_package")


def build_config(board: Board, clock_mhz: float, partitioning: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return FINN's build configuration for a folded graph; `partitioning` is for several boards.

    On several boards FINN numbers FIFOs anew, so there it sizes them itself.
    """
    flow = shell_flow(board)
    return {
        "output_dir": OUTPUT,
        "synth_clk_period_ns": 1000 / clock_mhz,
        "folding_config_file": "folding.json",
        **({"fpga_part": board.fpga_part} if flow is None else {"board": board.name, "shell_flow_type": flow}),
        "generate_outputs": [*_IP_OUTPUTS, *(_BITFILE_OUTPUTS if flow else ())],
        "steps": [*_TO_IP, *(_TO_BITFILE if flow else ())],
        **(
            {"auto_fifo_depths": False, "fifo_config_file": FIFOS}
            if partitioning is None
            else {"partitioning_configuration": partitioning}
        ),
    }


def fifo_config(graph: Path, fpga_part: str) -> dict[str, Any]:
    """Return FINN's fifo_config_file for a folded graph: the FIFOs it will insert, by the names it will give them.

    Its own passes insert them here (builder/build_dataflow_steps.py, step_set_fifo_depths), as deep as the layers say.
    """
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from finn.transformation.qonnx.give_unique_node_names_recursive import GiveUniqueNodeNamesRecursive

    model = Model(skeleton(onnx.load(str(graph))))
    model = model.transform(InsertDWC()).transform(InsertFIFO(create_shallow_fifos=True))
    model = model.transform(SpecializeLayers(fpga_part)).transform(GiveUniqueNodeNamesRecursive())
    fifos = {node.name: custom_op(node) for node in model.get_nodes_by_op_type("StreamingFIFO_rtl")}
    return {
        key: {name: fifo.get_nodeattr(attribute) for name, fifo in fifos.items()}
        for key, attribute in (("fifo_depths", "depth"), ("impl_style", "impl_style"), ("ram_style", "ram_style"))
    }


def with_transfers(graph: Path, fpga_part: str) -> Model:
    """Return a folded graph, without weights, with all that FINN inserts for Vitis, by the names it will give it.

    Its own passes insert it here (builder/build_dataflow_steps.py, step_set_fifo_depths and step_prepare_synthesis):
    converters, FIFOs, transfers to and from memory. The `doc_string` of a layer is its name in the graph.
    """
    from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
    from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
    from finn.transformation.fpgadataflow.insert_iodma import InsertIODMA
    from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
    from finn.transformation.qonnx.give_unique_node_names_recursive import GiveUniqueNodeNamesRecursive

    model = Model(skeleton(onnx.load(str(graph))))
    for node in model.graph.node:
        node.doc_string = node.name
    passes = [InsertDWC(), InsertFIFO(create_shallow_fifos=True), SpecializeLayers(fpga_part)]
    passes += [GiveUniqueNodeNamesRecursive(), InsertIODMA(max_intfwidth=_PORT_BITS), GiveUniqueNodeNamesRecursive()]
    for each in passes:
        model = model.transform(each)
    return model


def write_folder(folder: Path, config: dict[str, Any], files: Path, fpga_part: str) -> None:
    """Write the folder; `files` has the dataflow.onnx and folding.json that go into it, and fifos.json if simulated."""
    folder.mkdir()
    if (files / FIFOS).exists():
        shutil.copyfile(files / FIFOS, folder / FIFOS)
    else:
        fifos = fifo_config(files / "dataflow.onnx", fpga_part)
        (folder / FIFOS).write_text(json.dumps(fifos, indent=2) + "\n", "utf-8")
    for name in ("dataflow.onnx", "folding.json"):
        shutil.copyfile(files / name, folder / name)
    head = f"# For FINN+ 1.6. In the folder above this one:  {COMMAND}\n"
    (folder / "build.yaml").write_text(head + yaml.safe_dump(config, sort_keys=False), "utf-8")


def is_same(folder: Path, other: Path) -> bool:
    """Tell whether two folders ask FINN for the same."""
    return all(
        (folder / name).exists() and (other / name).exists() and filecmp.cmp(folder / name, other / name, shallow=False)
        for name in FILES
    )


def run_finn(out: Path, tell: Callable[[str], None]) -> None:
    """Let FINN build in ``out/finn``, from the last step on that it has finished there.

    Raises:
        ToolchainError: FINN or Vivado fails; the message names the step and the log.
    """
    folder = out.resolve() / FOLDER
    steps = yaml.safe_load((folder / "build.yaml").read_text("utf-8"))["steps"]
    done = [name for name in steps if (folder / OUTPUT / "intermediate_models" / f"{name}.onnx").exists()]
    if len(done) == len(steps):
        return
    command = [_finn_program(), "build", "build.yaml", "dataflow.onnx", "--batch", "--build-path", "build"]
    command += ["--start", steps[len(done)]] if done else []
    step = _follow(command, folder, tell) or steps[len(done)]
    left = [name for name in steps if not (folder / OUTPUT / "intermediate_models" / f"{name}.onnx").exists()]
    if left:
        raise ToolchainError(
            f"{FOLDER}: FINN failed in {step}; read {folder / LOG}, then go on with --resume --until bitfile"
        )


def _finn_program() -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("finn", path=path)
    if program is None:
        raise ToolchainError(f"finn: there is no such program beside {sys.executable}; reinstall finn-plus")
    return program


def _follow(command: list[str], folder: Path, tell: Callable[[str], None]) -> str | None:
    """Run FINN with its output in a log; return the last step it said it runs. What stops us stops it and its tools."""
    step = None
    with (
        (folder / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as run,
    ):
        try:
            for line in run.stdout:
                log.write(line)
                log.flush()
                _, found, rest = line.partition("Running step: ")
                if found:
                    step = rest.split()[0]
                    tell(f"FINN: {rest.strip()}")
        except BaseException:
            os.killpg(run.pid, signal.SIGTERM)
            raise
    return step
