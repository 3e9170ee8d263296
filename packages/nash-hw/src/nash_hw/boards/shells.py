"""What FINN's shell takes around an accelerator on a Zynq: processor ports, interconnect, a DMA for each end.

Figures are those of published syntheses, of which each says what it is; where nobody has published one there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .board import RESOURCES, Board


@dataclass(frozen=True, kw_only=True)
class Shell:
    """What lies on the FPGA beside the accelerator, and who says so."""

    family: str
    resources: Mapping[str, float]
    source: str


# The report of a whole design has a row for each layer and each DMA; the rest of it is the shell. Of UltraScale+ only
# the sum was published: what is left of four small designs (TFC, KWS, a multilayer perceptron), whose layers are few;
# 9,700 to 9,890 LUT, 4 to 7 block RAMs, and of flip-flops the least, 10,300 to 20,000 being left.
_ZYNQ_7000 = Shell(
    family="Zynq-7000",
    resources={"LUT": 6_421, "FF": 8_334, "BRAM_18K": 2, "URAM": 0, "DSP": 0},
    source="akhilvasan/finn_cybsec, report/post_synth_resources.json: all less the layers; 4,334 LUT and two DMAs",
)
_ZYNQ_ULTRASCALE = Shell(
    family="Zynq UltraScale+",
    resources={"LUT": 9_800, "FF": 12_000, "BRAM_18K": 6, "URAM": 0, "DSP": 0},
    source="eki-project/finn-plus, runs CI_118674 and CI_118675 on RFSoC2x2: what synthesis has beside the estimate, "
    "with two DMAs and FINN+'s instrumentation",
)
_BY_PART = {"xc7z": _ZYNQ_7000, "xczu": _ZYNQ_ULTRASCALE, "xck26": _ZYNQ_ULTRASCALE}


def shell_flow(board: Board) -> str | None:
    """Return FINN's way to a bitfile for a board, None if it has none: then it ends with an IP core."""
    from finn.util.basic import alveo_part_map, pynq_part_map

    for flow, parts in (("vivado_zynq", pynq_part_map), ("vitis_alveo", alveo_part_map)):
        if parts.get(board.name) == board.fpga_part:
            return flow
    return None


def shell_of(board: Board) -> Shell | None:
    """Return the shell of FINN's build for a board, None if nobody has published one or there is none."""
    if shell_flow(board) != "vivado_zynq":
        return None
    return next((shell for part, shell in _BY_PART.items() if board.fpga_part.startswith(part)), None)


def room_beside_shell(board: Board) -> Board:
    """Return a board with what its shell, if one is known, leaves for an accelerator."""
    shell = shell_of(board)
    if shell is None:
        return board
    left = {name: max(amount - int(shell.resources[name]), 0) for name, amount in board.resources.items()}
    return replace(board, resources=left)


def with_shell(resources: Mapping[str, float | None], shell: Shell | None) -> dict[str, float | None] | None:
    """Return the resources of a design with its shell, None where that is unknown."""
    if shell is None:
        return None
    return {name: None if resources[name] is None else resources[name] + shell.resources[name] for name in RESOURCES}
