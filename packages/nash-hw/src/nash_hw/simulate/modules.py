"""What Verilator compiles for a layer: its sources under names that equal layers share, and one top module.

The top module, ``nash_top``, has the AXI streams ``in0_V``, ``in1_V``, ... and ``out0_V``, ...; whatever else FINN's
module has (the host's port, the choice of a set of thresholds) is tied to 0 in it. Layers that FINN has in C++ only are
built of ``sources/layers.sv``, width converters of FINN's ``dwc_axi.sv``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import IntegrityError, UnsupportedError
from .repair import repaired, with_weights, without_name

TOP = "nash_top"
MEMORY = "memblock.dat"
_TIED = (
    *(f"s_axilite_{name}" for name in ("AWVALID", "AWPROT", "AWADDR", "WVALID", "WDATA", "WSTRB", "BREADY")),
    *(f"s_axilite_{name}" for name in ("ARVALID", "ARPROT", "ARADDR", "RREADY")),
    *("in1_V_TVALID", "in1_V_TDATA", "ap_clk2x"),
)


@dataclass(frozen=True, kw_only=True)
class Module:
    """A distinct circuit: `texts` by file name in the order to read them, bits of the words at its ports."""

    texts: Mapping[str, str]
    in_bits: tuple[int, ...]
    out_bits: tuple[int, ...]

    @property
    def key(self) -> str:
        """The hash of all it is made of."""
        digest = hashlib.sha256()
        for part in (*self.texts, *self.texts.values(), repr((self.in_bits, self.out_bits))):
            digest.update(part.encode())
            digest.update(b"\0")
        return digest.hexdigest()[:24]


def source_text(name: str) -> str:
    """Return a source that comes with this package."""
    return resources.files(__package__).joinpath("sources", name).read_text("utf-8")


def padded(bits: int) -> int:
    """Return the bits of an AXI stream: whole bytes."""
    return -(-bits // 8) * 8


def stored_bytes(bits: int) -> int:
    """Return the bytes in which Verilator stores a port of so many bits."""
    width = padded(bits)
    return next((size for size in (1, 2, 4, 8) if width <= 8 * size), 4 * -(-width // 32))


def rtl_module(hdl: Path, layer: Mapping[str, str], instance: Any) -> Module:
    """Return the module of a layer whose RTL FINN wrote; `layer` is its entry of `hdl.rtl` in hardware.json.

    Raises:
        IntegrityError: its sources are not what the manifest says.
    """
    name = layer["name"]
    texts, ports = {}, ""
    for source in (hdl / layer["files"]).read_text("utf-8").split():
        text = (hdl / source).read_text("utf-8")
        if source.startswith(f"{name}/"):
            text = without_name(with_weights(text, MEMORY), name)
            found = re.search(rf"^\s*module\s+{without_name(layer['top'], name)}\b.*?\);", text, re.M | re.S)
            ports = found[0] if found else ports
        texts[without_name(source, name)] = repaired(text)
    if not ports:
        raise IntegrityError(f"{hdl / layer['files']}: no source has the module {layer['top']}; build it anew")
    in_bits, out_bits = instance.get_instream_width(0), instance.get_outstream_width(0)
    tied = [port for port in _TIED if re.search(rf"\b{port}\b", ports)]
    unit = [f".{port}('0)" for port in tied]
    unit += [f".{port}({port})" for port in ("ap_clk", "ap_rst_n", *_axi("in0_V"), *_axi("out0_V"))]
    body = f"\t{without_name(layer['top'], name)} unit({', '.join(unit)});\n"
    return _module(texts, body, (in_bits,), (out_bits,))


def converter_module(in_bits: int, out_bits: int) -> Module:
    """Return FINN's data width converter between streams of so many bits."""
    texts = {name: repaired(_library_text(name)) for name in ("dwc/hdl/vpc.sv", "dwc/hdl/dwc_axi.sv")}
    body = (
        f"\tdwc_axi #(.IBITS({in_bits}), .OBITS({out_bits})) unit(.ap_clk, .ap_rst_n,\n"
        "\t\t.s_axis_tdata(in0_V_TDATA), .s_axis_tvalid(in0_V_TVALID), .s_axis_tready(in0_V_TREADY),\n"
        "\t\t.m_axis_tdata(out0_V_TDATA), .m_axis_tvalid(out0_V_TVALID), .m_axis_tready(out0_V_TREADY));\n"
    )
    return _module(texts, body, (in_bits,), (out_bits,))


@cache
def _library_text(name: str) -> str:
    from finn.util.settings import get_settings

    return (Path(get_settings().finn_rtllib) / name).read_text("utf-8")


def hls_module(node: Any, instance: Any, num_inputs: int, factor: int = 1) -> Module:
    """Return our module of a layer that FINN has in C++ only; it reads `num_inputs` streams.

    `factor`: what a layer that multiplies by a number multiplies by.

    Raises:
        UnsupportedError: there is no model of this kind of layer, or not with these attributes.
    """
    make = _HLS.get(node.op_type)
    if make is None:
        raise UnsupportedError(
            f"{node.name}: there is no model of {node.op_type} to simulate; known are {', '.join(sorted(_HLS))}"
        )
    in_bits = tuple(instance.get_instream_width(i) for i in range(num_inputs))
    out_bits = tuple(instance.get_outstream_width(i) for i in range(len(node.output)))
    kind, parameters = make(node.name, instance)
    if kind == "nash_scale":
        parameters = parameters | {"FACTOR": factor}
    given = ", ".join(f".{key}({value})" for key, value in parameters.items())
    vectors = kind in ("nash_duplicate", "nash_concat")
    ins = _vector("i", "in", num_inputs) if vectors and num_inputs > 1 else _operands(num_inputs)
    outs = _vector("o", "out", len(out_bits)) if vectors and len(out_bits) > 1 else _single("o", "out0_V")
    body = f"\t{kind} #({given}) unit(.clk(ap_clk), .rst_n(ap_rst_n),\n\t\t{ins},\n\t\t{outs});\n"
    return _module({"layers.sv": source_text("layers.sv")}, body, in_bits, out_bits)


def _axi(port: str) -> tuple[str, str, str]:
    return f"{port}_TDATA", f"{port}_TVALID", f"{port}_TREADY"


def _single(prefix: str, port: str) -> str:
    return ", ".join(
        f".{prefix}{pin}({signal})" for pin, signal in zip(("dat", "vld", "rdy"), _axi(f"{port}"), strict=True)
    ).replace("TDATA)", "word)")


def _operands(count: int) -> str:
    return _single("i", "in0_V") if count == 1 else f"{_single('l', 'in0_V')}, {_single('r', 'in1_V')}"


def _vector(prefix: str, port: str, count: int) -> str:
    signals = zip(*(_axi(f"{port}{i}_V") for i in reversed(range(count))), strict=True)
    joined = ", ".join(
        f".{prefix}{pin}({{{', '.join(names)}}})" for pin, names in zip(("dat", "vld", "rdy"), signals, strict=True)
    )
    return joined.replace("TDATA", "word")


def _module(texts: Mapping[str, str], body: str, in_bits: tuple[int, ...], out_bits: tuple[int, ...]) -> Module:
    ports = ["\tinput logic ap_clk, input logic ap_rst_n"]
    wires = []
    for direction, other, bits in (("in", "out", in_bits), ("out", "in", out_bits)):
        for i, width in enumerate(bits):
            data, valid, ready = _axi(f"{direction}{i}_V")
            ports.append(
                f"\t{direction}put logic [{padded(width) - 1}:0] {data}, {direction}put logic {valid}, "
                f"{other}put logic {ready}"
            )
            word = f"{direction}{i}_V_word"
            if word not in body:
                continue
            wires.append(f"\tuwire [{width - 1}:0] {word};\n")
            source, target = (data, word) if direction == "in" else (f"{padded(width)}'({word})", data)
            wires.append(f"\tassign {target} = {source}{f'[{width - 1}:0]' if direction == 'in' else ''};\n")
    head = ",\n".join(ports)
    top = f"module {TOP}(\n{head}\n);\n{''.join(wires)}{body}endmodule\n"
    packages = [name for name in texts if name.endswith("_pkg.sv")]
    ordered = {name: texts[name] for name in (*packages, *(name for name in texts if name not in packages))}
    return Module(texts={**ordered, f"{TOP}.sv": top}, in_bits=in_bits, out_bits=out_bits)


def _refuse(name: str, what: str) -> UnsupportedError:
    return UnsupportedError(f"{name}: there is no model of {what} to simulate; report the network")


def _duplicate(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    return "nash_duplicate", {"W": instance.get_instream_width(), "N": instance.get_nodeattr("NumOutputStreams")}


def _add(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    get = instance.get_nodeattr
    if not list(get("lhs_shape")) == list(get("rhs_shape")) == list(get("out_shape")):
        raise _refuse(name, "an addition that broadcasts")
    left, right = instance.get_input_datatype(0), instance.get_input_datatype(1)
    return "nash_add", {
        "PE": get("PE"),
        "LW": left.bitwidth(),
        "LSIGNED": int(left.signed()),
        "RW": right.bitwidth(),
        "RSIGNED": int(right.signed()),
        "OW": instance.get_output_datatype().bitwidth(),
    }


def _lanes(instance: Any) -> dict[str, Any]:
    kind = instance.get_input_datatype(0)
    return {
        "PE": instance.get_nodeattr("PE"),
        "IW": kind.bitwidth(),
        "SIGNED": int(kind.signed()),
        "OW": instance.get_output_datatype().bitwidth(),
    }


def _scale(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    return "nash_scale", _lanes(instance)


def _pool(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    function = instance.get_nodeattr("Function")
    if function not in ("MaxPool", "AccPool"):
        raise _refuse(name, f"a pool with the function {function}")
    kernel = int(np.prod(instance.get_nodeattr("KernelSize")))
    return "nash_pool", {**_lanes(instance), "K": kernel, "SUM": int(function == "AccPool")}


def _accumulate(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    folds = instance.get_nodeattr("NumChannels") // instance.get_nodeattr("PE")
    pixels = int(np.prod(instance.get_folded_input_shape()[:-1])) // folds
    return "nash_accumulate", {**_lanes(instance), "PIXELS": pixels, "FOLDS": folds}


def _concat(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    count = instance.get_n_inputs()
    folds = ", ".join(str(instance.get_folded_input_shape(i)[-2]) for i in range(count))
    widths = {instance.get_instream_width(i) for i in range(count)}
    if widths != {instance.get_outstream_width()}:
        raise _refuse(name, "a concatenation of streams of different widths")
    return "nash_concat", {"W": instance.get_outstream_width(), "N": count, "FOLDS": f"'{{{folds}}}"}


def _products(name: str, instance: Any) -> dict[str, Any]:
    if not instance.get_nodeattr("noActivation"):
        raise _refuse(name, "a matrix-vector unit with thresholds in it")
    act, weight = instance.get_input_datatype(0), instance.get_input_datatype(1)
    if act.name == "BIPOLAR":
        raise _refuse(name, "a matrix-vector unit with activations of -1 and +1")
    return {
        "PE": instance.get_nodeattr("PE"),
        "AW": act.bitwidth(),
        "ASIGNED": int(act.signed()),
        "WW": weight.bitwidth(),
        "BIPOLAR": int(weight.name == "BIPOLAR"),
        "OW": instance.get_output_datatype().bitwidth(),
        "WEIGHTS": f'"{MEMORY}"',
    }


def _matrix(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    given = _products(name, instance)
    return "nash_mvau", given | {key: instance.get_nodeattr(key) for key in ("SIMD", "MW", "MH")}


def _depthwise(name: str, instance: Any) -> tuple[str, dict[str, Any]]:
    get = instance.get_nodeattr
    if get("SIMD") != 1:
        raise _refuse(name, f"a vector-vector unit with SIMD {get('SIMD')}")
    return "nash_vvau", _products(name, instance) | {"CHANNELS": get("Channels"), "K": int(np.prod(get("Kernel")))}


_HLS: dict[str, Callable[[str, Any], tuple[str, dict[str, Any]]]] = {
    "DuplicateStreams_hls": _duplicate,
    "ElementwiseAdd_hls": _add,
    "ElementwiseMul_hls": _scale,
    "Pool_hls": _pool,
    "GlobalAccPool_hls": _accumulate,
    "StreamingConcat_hls": _concat,
    "MVAU_hls": _matrix,
    "VVAU_hls": _depthwise,
}
