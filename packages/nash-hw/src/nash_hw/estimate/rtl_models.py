"""LUTs and flip-flops of FINN's RTL layers, term by term what their RTL instantiates.

Where a term says which file of finn-rtllib it is of, it was read there; the sums are held against the netlists that
yosys makes of the same RTL (benchmarks/synthesis.py, tests/test_synthesis.py). One bit of a shift register of up to
32 words is one LUT, so is one bit of an adder; control logic is a constant and some LUTs for each bit of a counter.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .figures import NO_MEMORY, clog2, lutram_luts, rom_luts

_AUTO_WORDS = 64
_AUTO_BITS = 16_384


def mvau(instance: Any, lanes: int | None) -> dict[str, float]:
    """Return LUT and FF of MVAU_rtl or VVAU_rtl with its weight memory.

    `lanes` weights share the multiplier of a DSP48; it is None where DSP58s add up three products by themselves.
    """
    get = instance.get_nodeattr
    pe, simd = get("PE"), get("SIMD")
    weight_bits, act_bits = (instance.get_input_datatype(i).bitwidth() for i in (1, 0))
    accumulator = instance.get_output_datatype().bitwidth()
    # mvu_vvu_axi.sv: a queue of shift registers, the output register, control
    lut, ff = 15.0 + pe * accumulator, 20.0 + pe * accumulator
    if lanes is not None:
        core_lut, core_ff = _dsp48_core(pe, simd, weight_bits, act_bits, accumulator, lanes)
        lut, ff = lut + core_lut, ff + core_ff
    if "MW" in instance.get_nodeattr_types():
        replay = _replay_buffer(get("MW") // simd, get("MH") // pe, simd * act_bits)
        lut, ff = lut + replay[0], ff + replay[1]
    width, written = pe * simd * weight_bits, bool(get("runtime_writeable_weights"))
    memory = weight_memory(width, instance.calc_wmem(), memory_style(instance), written=written)
    return {"LUT": lut + memory["LUT"], "FF": ff + memory["FF"]}


def memory_style(instance: Any) -> str:
    """Return where the weights of a unit lie; what is left to Vivado ("auto") it keeps in LUTs if it is small.

    Of the published designs (tests/data/synthesized.json) it kept memories of up to 64 words and 12,288 bits in LUTs
    and put one of 60 words and 76,800 bits, and one of 36 words and 36,864 bits, into block RAM.
    """
    style = instance.get_nodeattr("ram_style")
    if style != "auto":
        return style
    depth, width = instance.calc_wmem(), instance.get_instream_width(1)
    return "distributed" if depth <= _AUTO_WORDS and depth * width <= _AUTO_BITS else "block"


def _dsp48_core(
    pe: int, simd: int, weight_bits: int, act_bits: int, accumulator: int, lanes: int
) -> tuple[float, float]:
    """Return LUT and FF around the multipliers of mvu.sv.

    The product of one activation with the weights of several PEs is cut into lanes. Between two lanes two bits tell
    the overflow; low parts and overflows of all SIMD inputs are added up in trees that are registered at each level.
    """
    lane = weight_bits + act_bits - 1
    slack = 27 - weight_bits - (lanes - 1) * lane
    low = min(lane + max(slack, 0) // max(lanes - 1, 1), accumulator)
    tops = -(-pe // lanes)
    boundaries = pe - tops
    high = max(accumulator - low + 1, 1 + clog2(simd))
    # overflows: LUT6_2, two adders of two bits, six registers for each input; tree, accumulator
    adders, registers = _tree(simd, 2)
    lut = boundaries * (simd * 5 + adders + high)
    ff = boundaries * (simd * 6 + registers + high)
    for count, bits in ((boundaries, low), (tops, accumulator)):
        adders, registers = _tree(simd, bits)
        lut += count * adders
        ff += count * max(registers, bits)
    total = boundaries * (accumulator + low) + (tops * accumulator if lanes > 1 else 0)
    return lut + total, ff + pe * accumulator


@cache
def _tree(leaves: int, bits: int) -> tuple[int, int]:
    """Return the bits of adders and of registers in a tree over numbers of `bits` bits (add_multi.sv).

    The tree is a heap; every node above the lowest level has a register, a leaf too.
    """
    levels = clog2(leaves)
    load = [0] * (leaves - 1) + [1] * leaves
    adders = registers = 0
    for node in range(2 * leaves - 2, -1, -1):
        if node < leaves - 1:
            load[node] = load[2 * node + 1] + load[2 * node + 2]
        width = bits + clog2(load[node])
        adders += width * (node < leaves - 1)
        registers += width * (clog2(node + 2) - 1 < levels)
    return adders, registers


def _replay_buffer(words: int, repetitions: int, width: int) -> tuple[float, float]:
    """Return LUT and FF of replay_buffer.sv, which reads each input vector anew for every fold of the rows."""
    counters = clog2(words) + clog2(repetitions)
    if repetitions == 1:
        return 1.5 * counters, float(counters)
    depth = 2 ** max(clog2(words), 1)
    pointers = 3 * (clog2(depth) + 1)
    return 1.0 * (counters + pointers) + lutram_luts(width, depth), float(width + counters + pointers)


def weight_memory(width: int, depth: int, style: str, *, written: bool) -> dict[str, float]:
    """Return LUT and FF of memstream.sv: a counter, the memory's pipeline and a queue of eight words.

    Words lie in `style`: block and ultra have the pipeline's two registers inside, LUTs have not.
    """
    address = max(clog2(depth), 1)
    lut, ff = 12.0 + address + width, 24.0 + 2 * address + width
    if style == "distributed":
        lut += rom_luts(width, depth)
        ff += 2 * width
    if written:  # axilite.sv: words of 32 bits gather in a register, and are read from another
        lut += 110 + width / 3
        ff += 180 + 3 * width
    return {"LUT": lut, "FF": ff}


def thresholding(instance: Any, memory_luts: float) -> dict[str, float]:
    """Return LUT and FF of Thresholding_rtl: one comparison a stage, in as many stages as the output has bits.

    thresholding.sv: each stage reads a threshold (FINN's `memory_luts`), compares, and hands the value on; values,
    valid flags and the channel's number are registered twice in a deep pipeline. One threshold or two are constants of
    the comparison.
    """
    get = instance.get_nodeattr
    pe = get("PE")
    bits = instance.get_input_datatype(1).bitwidth()
    stages = clog2(get("numSteps") + 1)
    folds = get("NumChannels") // pe
    registers = 1 + get("deep_pipeline")
    shared = stages * registers * (1 + clog2(folds))
    values = registers * bits * (stages - 1) + bits
    results = 1.25 * registers * stages**2
    in_luts = min(2, (get("depth_trigger_bram") or 3) - 1)
    memory_luts -= pe * sum(width for width, depth in instance.get_pe_mem_geometries() if depth <= in_luts)
    lut = 40 + clog2(folds) * 2 + memory_luts + pe * (stages * (bits / 2 + 2) + stages)
    ff = 20 + clog2(folds) + shared + pe * (values + bits * (stages - (folds == 1)) + results + stages)
    return {"LUT": lut, "FF": ff}


def window_generator(instance: Any) -> dict[str, float]:
    """Return LUT and FF of ConvolutionInputGenerator_rtl: counters of five nested loops, and where the buffer stands.

    swg_template_default.sv holds the buffer in one memory; swg_template_parallel.sv the K x K pixels it shows at once
    in flip-flops and what lies between two rows of them in memories.
    """
    get = instance.get_nodeattr
    kernel_h, kernel_w = get("ConvKernelDim")
    height, width = get("IFMDim")
    folds = get("IFMChannels") // get("SIMD")
    stream = get("SIMD") * instance.get_input_datatype().bitwidth()
    elements = clog2(height * width * folds + 1) + 1
    loops = sum(clog2(n) + 2 for n in (*get("OFMDim"), kernel_h, kernel_w, folds) if n > 1)
    in_luts = get("ram_style") == "distributed"
    if get("parallel_window"):
        dilation_h, dilation_w = get("Dilation")
        span = (kernel_w - 1) * dilation_w + 1
        line = max((width - span + width * (dilation_h - 1)) * folds, 2)
        memory = (lutram_luts(stream, line) if in_luts else 0) + 2 * clog2(line)
        rows = kernel_h - 1
        pixels = kernel_h * ((span - 1) * folds + 1) + rows
        return {
            "LUT": 20 + 2.0 * elements + loops + rows * memory,
            "FF": 10 + 2.0 * elements + loops + stream * pixels + rows * 2 * clog2(line),
        }
    depth = instance.get_buffer_depth()
    address = clog2(depth)
    counting = 6.0 if kernel_h * kernel_w * folds > 1 else 3.0
    return {
        "LUT": 30 + counting * elements + 2 * loops + 3 * address + (lutram_luts(stream, depth) if in_luts else 0),
        "FF": 10 + 3.0 * elements + loops + 2 * address + (stream if in_luts else 0),
    }


def padding(instance: Any) -> dict[str, float]:
    """Return all of FMPadding_rtl: two registers for the stream, three counters (fmpadding.sv)."""
    get = instance.get_nodeattr
    stream = -(-instance.get_instream_width() // 8) * 8
    counters = sum(clog2(n + 1) for n in instance.get_normal_output_shape()[1:3]) + clog2(
        get("NumChannels") // get("SIMD")
    )
    return {"LUT": 20 + stream + 2.5 * counters, "FF": 4 + 2 * stream + 7 * counters / 2, **NO_MEMORY, "DSP": 0.0}


def requant(instance: Any) -> dict[str, float]:
    """Return all of Requant_rtl: for each PE a multiplier that also adds, what it needs of its channels, shift, clip.

    requant.sv or, where parameters come from a memory, requant_decoupled.sv; requant_axi.sv's queue of seven words.
    """
    get = instance.get_nodeattr
    pe = get("PE")
    folds = get("NumChannels") // pe
    in_bits, out_bits = instance.get_input_datatype().bitwidth(), instance.get_output_datatype().bitwidth()
    scale_bits = 25 if in_bits <= 18 else 18
    parameters = 2 * scale_bits + in_bits + 3  # scale, bias as wide as the product, shift
    lut = 30.0 + clog2(folds) + pe * 2.2 * out_bits
    ff = 25.0 + clog2(folds) + pe * (in_bits + 2 * out_bits + 37)
    if get("mem_mode") == "internal_decoupled":
        memory = weight_memory(pe * parameters, folds, "distributed", written=False)
        return {"LUT": lut + memory["LUT"], "FF": ff + pe * parameters + memory["FF"], **NO_MEMORY, "DSP": float(pe)}
    different = min(clog2(folds) / 4, 1.0)  # of few channels many bits are the same
    lut += pe * different * rom_luts(parameters, folds)
    return {"LUT": lut, "FF": ff + pe * different * parameters, **NO_MEMORY, "DSP": float(pe)}
