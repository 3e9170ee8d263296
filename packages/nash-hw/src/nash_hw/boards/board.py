"""A board: its FPGA, what that holds, and what its resources are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RESOURCES = ("LUT", "FF", "BRAM_18K", "URAM", "DSP")
# what all of a resource costs: routing, the shell and what no model foresees take LUTs, while a DSP block or a memory
# left over serves nobody
DEFAULT_PRICE = {"LUT": 2.0, "FF": 1.0, "BRAM_18K": 1.0, "URAM": 1.0, "DSP": 1.0}


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board: its FPGA part and what the FPGA holds, summed over its dies."""

    name: str
    fpga_part: str
    resources: Mapping[str, int]
    num_slrs: int
    source: str  # "finn", "data sheet" where FINN lists the board without resources, "file" for a user's own
    price: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_PRICE))  # of all there is of each resource
