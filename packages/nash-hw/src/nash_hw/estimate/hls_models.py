"""LUTs and flip-flops of FINN's HLS layers, from what their C++ computes.

No netlist of these can be had without Vitis HLS, so each figure is a count of what must be there: the arithmetic of one
cycle, a skid buffer at each stream's port (register_mode "both", the default of UG1399: two registers and a
multiplexer a bit), and `_CONTROL` for the loop's state machine and counters. Expect them to be off by half.
"""

from __future__ import annotations

from typing import Any

from .figures import NO_MEMORY, block_rams, clog2, lutram_luts, rom_luts
from .rtl_models import memory_style, weight_memory

_CONTROL = {"LUT": 60.0, "FF": 60.0}
_FINN_PACKING = 1.1  # what FINN multiplies its count of LUTs by
_ACCUMULATORS_IN_LUTS = 1024  # bits; Vitis HLS binds a larger array to block RAM


def _layer(widths: list[int], luts: float, registers: float) -> dict[str, float]:
    """Return what a loop takes that reads and writes streams of these widths, computes and registers that much."""
    ports = sum(widths)
    return {
        "LUT": _CONTROL["LUT"] + ports + 4.0 * len(widths) + luts,
        "FF": _CONTROL["FF"] + 2.0 * ports + 4.0 * len(widths) + registers,
        **NO_MEMORY,
        "DSP": 0.0,
    }


def duplication(instance: Any) -> dict[str, float]:
    """Return what DuplicateStreams takes: nothing but ports."""
    width = instance.get_instream_width()
    return _layer([width] * (1 + instance.get_nodeattr("NumOutputStreams")), 0, 0)


def concatenation(instance: Any) -> dict[str, float]:
    """Return what StreamingConcat takes: a multiplexer of its inputs."""
    num_inputs, width = len(instance.onnx_node.input), instance.get_outstream_width()
    return _layer([width] * (num_inputs + 1), width * (num_inputs - 1), width)


def addition(instance: Any) -> dict[str, float]:
    """Return what ElementwiseAdd of two streams takes: an adder for each PE."""
    widths = [instance.get_instream_width(0), instance.get_instream_width(1), instance.get_outstream_width()]
    return _layer(widths, widths[-1], sum(widths))


def scaling(instance: Any, factor: int) -> dict[str, float]:
    """Return what ElementwiseMul by a constant takes: for each PE an adder for each 1 of the factor but one.

    A power of two is wires. Where a 1 ends a row of them, a subtraction does instead (canonical signed digits).
    """
    widths = [instance.get_instream_width(0), instance.get_outstream_width()]
    ones = (3 * factor ^ factor).bit_count()
    return _layer(widths, (ones - 1) * widths[1], widths[1])


def pool(instance: Any) -> dict[str, float]:
    """Return what Pool takes: for each PE a comparison (half a LUT a bit) and a choice, or an adder, and a register."""
    out = instance.get_outstream_width()
    maximum = instance.get_nodeattr("Function") == "MaxPool"
    return _layer([instance.get_instream_width(), out], 1.5 * out if maximum else out, 2 * out)


def accumulating_pool(instance: Any) -> dict[str, float]:
    """Return what GlobalAccPool takes: for each PE an adder, and an accumulator for each channel."""
    out = instance.get_outstream_width()
    folds = instance.get_nodeattr("NumChannels") // instance.get_nodeattr("PE")
    result = _layer([instance.get_instream_width(), out], 2 * out, 2 * out)
    if folds > 1 and folds * out > _ACCUMULATORS_IN_LUTS:
        result["BRAM_18K"] = float(block_rams(out, folds))
    elif folds > 1:
        result["LUT"] += lutram_luts(out, folds)
    return result


def selection(instance: Any) -> dict[str, float]:
    """Return what LabelSelect takes: K places, each of which a label may take or move down."""
    places = instance.get_nodeattr("K")
    value = instance.get_input_datatype().bitwidth()
    label = clog2(instance.get_nodeattr("Labels"))
    moved = places * (value + label)
    return _layer([instance.get_instream_width(), instance.get_outstream_width()], moved + places * value / 2, moved)


def requant(instance: Any) -> dict[str, float]:
    """Return what Requant takes in floating point: for each PE a multiplication, an addition and two conversions.

    In single precision these are of the order of 5 DSPs, 650 LUTs and 1,000 registers (PG060, full use of DSPs).
    """
    pe = instance.get_nodeattr("PE")
    result = _layer([instance.get_instream_width(), instance.get_outstream_width()], 650.0 * pe, 1000.0 * pe)
    return result | {"DSP": 5.0 * pe}


def matrix_vector(instance: Any, finn_luts: float) -> dict[str, float]:
    """Return LUT and FF of MVAU_hls or VVAU_hls: FINN's LUTs with the streamer of its weights, ports, registers.

    FINN's formula (MVAU_hls.lut_estimation) is of arithmetic and, where weights lie in LUTs, of these; the RTL that
    streams them is the one RTL units have. Where an operand has one bit there is nothing to multiply, and of the adder
    tree one adder for each product: that is what published syntheses of such units have (tests/data/synthesized.json).
    Registers: one after each product, and two for each accumulator.
    """
    get = instance.get_nodeattr
    width, depth = instance.get_instream_width(1), instance.calc_wmem()
    operands = [instance.get_input_datatype(i).bitwidth() for i in (0, 1)]
    bits = sum(operands)
    if min(operands) == 1 and get("resType") != "dsp":
        simd = get("SIMD")
        products = simd * (2 * -(-bits // 6) - 1) * bits  # as FINN's formula has them
        finn_luts -= _FINN_PACKING * get("PE") * (products + bits * (simd - 1))
    accumulator = instance.get_accumulator_datatype().bitwidth()
    registers = get("PE") * (get("SIMD") * bits + 2 * accumulator)
    ports = [instance.get_instream_width(0), width, instance.get_outstream_width()]
    ff = _layer(ports, 0, registers)["FF"]
    if get("mem_mode") != "internal_decoupled":
        return {"LUT": finn_luts, "FF": ff}
    style = memory_style(instance)
    memory = weight_memory(width, depth, style, written=bool(get("runtime_writeable_weights")))
    counted = width * -(-depth // 64) if get("ram_style") == "distributed" else 0
    return {"LUT": finn_luts - counted + memory["LUT"], "FF": ff + memory["FF"]}


def thresholding(instance: Any) -> dict[str, float]:
    """Return LUT and FF of Thresholding_hls: all thresholds of a channel at once, half a LUT a bit, and their count.

    FINN counts one comparator for each PE (Thresholding_hls.lut_estimation); its memory is a stream of thresholds.
    """
    get = instance.get_nodeattr
    pe, steps, depth = get("PE"), get("numSteps"), instance.calc_tmem()
    bits = instance.get_input_datatype(1).bitwidth()
    found = _layer([instance.get_instream_width(), instance.get_outstream_width()], 0, pe * steps)
    held = rom_luts(pe * steps * bits, depth) if get("ram_style") == "distributed" and depth > 1 else 0.0
    return {"LUT": found["LUT"] + held + pe * steps * (bits / 2 + 1), "FF": found["FF"]}
