"""SystemVerilog of finn-rtllib and of FINN's templates as Verilator takes it, and as equal layers share it.

All repairs are on copies; the circuit stays the same.
"""

from __future__ import annotations

import re

NAME = "layer"  # what stands for a layer's own name in its sources

_WATCHDOG = re.compile(r"\tif\(1\) begin : blkRecoveryWatch.*?end : blkRecoveryWatch\n", re.S)
_FUNCTION = re.compile(r"\t\ttypedef int unsigned  leaf_load_t.*?endfunction : init_leaf_loads\n", re.S)
_BEFORE_FUNCTION = "\tuwire [SUM_WIDTH-1:0]  sum0;\n"
_STRUCT = ("typedef struct {\n\t\tint unsigned  lo;", "typedef struct packed {\n\t\tint unsigned  lo;")


def repaired(text: str) -> str:
    """Return a source without what Verilator 5 refuses.

    thresholding.sv: a check that needs a delay goes. add_multi.sv: a function inside a generate block goes before it.
    fifo.sv: a constant of an unpacked struct becomes one of a packed struct.
    """
    text = _WATCHDOG.sub("", text)
    function = _FUNCTION.search(text)
    if function and _BEFORE_FUNCTION in text:
        text = text.replace(function[0], "").replace(_BEFORE_FUNCTION, function[0] + _BEFORE_FUNCTION, 1)
    return text.replace(*_STRUCT)


def without_name(text: str, name: str) -> str:
    """Return a text with another name for its layer, so that equal layers have equal texts; paths of memories lose it.

    >>> without_name('module MVAU_rtl_1_wrapper; // "MVAU_rtl_1/memblock.dat", not MVAU_rtl_10', "MVAU_rtl_1")
    'module layer_wrapper; // "memblock.dat", not MVAU_rtl_10'
    """
    return re.sub(rf"\b{re.escape(name)}(?!\d)", NAME, text).replace(f'"{NAME}/', '"')


def with_weights(text: str, memory: str) -> str:
    """Return a memory's wrapper that begins with its weights where the host would write them."""
    return text.replace('INIT_FILE = ""', f'INIT_FILE = "{memory}"')
