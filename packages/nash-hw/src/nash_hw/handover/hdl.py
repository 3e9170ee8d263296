"""Write the RTL of the layers that need no Vivado, and the C++ of those that need Vitis HLS.

    hdl/rtllib/...          the files of finn-rtllib that the layers instantiate, once
    hdl/LAYER/...           what FINN generates for a layer, and `files.f`, its sources in the order to compile
    hdl/SHA256SUMS          the hash of every file

Paths inside are relative to ``hdl/``: tools are started there (``verilator -f LAYER/files.f``). FINN joins an RTL
matrix-vector unit and the memory of its weights, or a Requant and that of its scales, in Vivado's block design; here a
module ``LAYER_layer`` does.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from ..base.manifest import file_sha256
from ..estimate.estimate import layer_source
from ..graph.model import Model, custom_op

FOLDER = "hdl"
HASHES = "SHA256SUMS"
_TEXT = (".v", ".sv", ".tcl", ".cpp", ".hpp")
_MEMORY = ("axi/hdl/axilite.sv", "memstream/hdl/memstream_axi.sv", "memstream/hdl/memstream.sv")


@dataclass(frozen=True, kw_only=True)
class RtlLayer:
    """A layer whose RTL is complete: its top module and the list of its sources."""

    name: str
    op_type: str
    top: str
    files: str


@dataclass(frozen=True, kw_only=True)
class HlsLayer:
    """A layer that Vitis HLS has to compile."""

    name: str
    op_type: str
    source: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Hdl:
    """What was generated, and what is left for Vitis HLS and Vivado."""

    rtl: tuple[RtlLayer, ...]
    hls: tuple[HlsLayer, ...]

    def as_json(self) -> dict[str, Any]:
        return {"folder": FOLDER, "rtl": [asdict(layer) for layer in self.rtl], "hls": [asdict(x) for x in self.hls]}


def write_hdl(model: Model, folder: Path, fpga_part: str, clock_mhz: float) -> Hdl:
    """Write the sources of every layer of a folded model into a new folder."""
    model = Model(onnx.ModelProto.FromString(model.model.SerializeToString()))  # FINN notes in it where it wrote
    folder = folder.resolve()
    folder.mkdir()
    rtl, hls = [], []
    for node in model.graph.node:
        _generate(model, node, folder / node.name, fpga_part, 1000 / clock_mhz)
        if node.op_type.endswith("_rtl"):
            rtl.append(_finish_rtl(node, folder))
        else:
            source = layer_source(model, node)
            hls.append(HlsLayer(name=node.name, op_type=node.op_type, source=source, why=_why_hls(node)))
    _write_hashes(folder)
    return Hdl(rtl=tuple(rtl), hls=tuple(hls))


def _why_hls(node: onnx.NodeProto) -> str:
    if node.op_type not in ("MVAU_hls", "VVAU_hls", "Thresholding_hls"):
        return "FINN has this kind of layer in C++ only"
    instance = custom_op(node)
    types = " and ".join(instance.get_input_datatype(position).name for position in (0, 1))
    return f"FINN's RTL form does not take {types}"


def _generate(model: Model, node: onnx.NodeProto, folder: Path, fpga_part: str, clock_ns: float) -> None:
    """Let FINN write the sources of a layer (finn/transformation/fpgadataflow/prepare_ip.py), then free them of it."""
    from finn.util.settings import get_settings

    folder.mkdir()
    instance = custom_op(node)
    instance.set_nodeattr("code_gen_dir_ipgen", str(folder))
    instance.code_generation_ipgen(model, fpga_part, clock_ns)
    for path in folder.glob("*.npy"):
        path.unlink()  # the input of FINN's own execution
    replacements = {
        f'"./{node.name}_': f'"{node.name}/{node.name}_',
        str(get_settings().finn_deps): "$::env(FINN_DEPS)",
    }
    for path in folder.iterdir():
        if path.suffix in _TEXT:
            here = "." if path.suffix == ".tcl" else node.name  # Vitis HLS is started in the layer's folder
            text = path.read_text("utf-8").replace(str(folder), here)
            for old, new in replacements.items():
                text = text.replace(old, new)
            path.write_text(text, "utf-8")


def _finish_rtl(node: onnx.NodeProto, folder: Path) -> RtlLayer:
    """Bring what a layer instantiates beside it and list its sources."""
    from finn.util.settings import get_settings

    instance = custom_op(node)
    library = Path(get_settings().finn_rtllib)
    sources = [Path(path) for path in instance.get_rtl_file_list(abspath=True)]
    top = instance.get_verilog_top_module_name()
    for memory in (folder / node.name).glob("*_memstream_wrapper.v"):  # there is at most one
        joined = folder / node.name / f"{node.name}_layer.v"
        joined.write_text(_joined(node, top, memory, instance), "utf-8")
        sources += [*(library / name for name in _MEMORY), memory, joined]
        top = joined.stem
    names = [_bring(path, library, folder) for path in dict.fromkeys(sources)]
    packages = [name for name in names if name.endswith("_pkg.sv")]  # to be read before what imports them
    listed = "\n".join([*packages, *(name for name in names if name not in packages)])
    (folder / node.name / "files.f").write_text(listed + "\n", "utf-8")
    return RtlLayer(name=node.name, op_type=node.op_type, top=top, files=f"{node.name}/files.f")


def _bring(path: Path, library: Path, folder: Path) -> str:
    """Return the path of a source below `folder`, copied there if it is of FINN's library."""
    path = path.resolve()
    if path.is_relative_to(library.resolve()):
        target = folder / "rtllib" / path.relative_to(library.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(path, target)
        path = target
    return path.resolve().relative_to(folder.resolve()).as_posix()


def _joined(node: onnx.NodeProto, core: str, memory: Path, instance: Any) -> str:
    """Return the module that streams the parameters of a layer from their memory into it.

    Weights that the host can write have an AXI-lite port, at which 32 bits are a word of memory.
    """
    depth, width = (int(re.search(rf"{name} = (\d+)", memory.read_text("utf-8"))[1]) for name in ("DEPTH", "WIDTH"))
    ports, wires = [], dict.fromkeys(_AXILITE_INPUTS, "1'b0")
    if "runtime_writeable_weights" in instance.get_nodeattr_types() and instance.get_nodeattr(
        "runtime_writeable_weights"
    ):
        words = 1 << (-(-width // 32) - 1).bit_length()
        address = (depth * words - 1).bit_length() + 2
        widths = {"AWADDR": address, "ARADDR": address, "AWPROT": 3, "ARPROT": 3, "WDATA": 32, "WSTRB": 4}
        widths |= {"RDATA": 32, "BRESP": 2, "RRESP": 2}
        for key in (*_AXILITE_INPUTS, *_AXILITE_OUTPUTS):
            direction = "input" if key in _AXILITE_INPUTS else "output"
            ports.append(f"\t{direction} [{widths.get(key, 1) - 1}:0] s_axilite_{key},")
            wires[key] = f"s_axilite_{key}"
    is_requant = node.op_type == "Requant_rtl"
    return _JOINED.format(
        name=node.name,
        core=core,
        memory=memory.stem,
        in_width=instance.get_instream_width_padded(0),
        parameter_width=-(-width // 8) * 8,
        out_width=instance.get_outstream_width_padded(0),
        ports="".join(f"{port}\n" for port in ports),
        connections=", ".join(f".s_axilite_{key}({wire})" for key, wire in wires.items()),
        port="s_params_V" if is_requant else "in1_V",
        clk2x="" if is_requant else ".ap_clk2x(1'b0), ",
    )


_AXILITE_INPUTS = (
    *("AWVALID", "AWPROT", "AWADDR", "WVALID", "WDATA", "WSTRB", "BREADY"),
    *("ARVALID", "ARPROT", "ARADDR", "RREADY"),
)
_AXILITE_OUTPUTS = ("AWREADY", "WREADY", "BVALID", "BRESP", "ARREADY", "RVALID", "RRESP", "RDATA")
_JOINED = """\
module {name}_layer (
{ports}\tinput ap_clk,
\tinput ap_rst_n,
\tinput [{in_width}-1:0] in0_V_TDATA,
\tinput in0_V_TVALID,
\toutput in0_V_TREADY,
\toutput [{out_width}-1:0] out0_V_TDATA,
\toutput out0_V_TVALID,
\tinput out0_V_TREADY
);
\twire [{parameter_width}-1:0] parameters;
\twire parameters_valid, parameters_ready;
\t{memory} memory (
\t\t.ap_clk(ap_clk), .ap_clk2x(1'b0), .ap_rst_n(ap_rst_n),
\t\t{connections},
\t\t.s_axis_0_tvalid(1'b0), .s_axis_0_tdata(1'b0), .s_axis_0_tready(),
\t\t.m_axis_0_tdata(parameters), .m_axis_0_tvalid(parameters_valid), .m_axis_0_tready(parameters_ready)
\t);
\t{core} unit (
\t\t.ap_clk(ap_clk), {clk2x}.ap_rst_n(ap_rst_n),
\t\t.{port}_TDATA(parameters), .{port}_TVALID(parameters_valid), .{port}_TREADY(parameters_ready),
\t\t.in0_V_TDATA(in0_V_TDATA), .in0_V_TVALID(in0_V_TVALID), .in0_V_TREADY(in0_V_TREADY),
\t\t.out0_V_TDATA(out0_V_TDATA), .out0_V_TVALID(out0_V_TVALID), .out0_V_TREADY(out0_V_TREADY)
\t);
endmodule
"""


def _write_hashes(folder: Path) -> None:
    """List the hash of every file, in the format of sha256sum."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / HASHES).write_text("".join(lines), "utf-8")
