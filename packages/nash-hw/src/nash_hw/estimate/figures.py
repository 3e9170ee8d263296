"""What a part of the accelerator takes, and who says so; sizes of memories in LUTs and block RAM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..boards.board import RESOURCES

NO_MEMORY = {"BRAM_18K": 0.0, "URAM": 0.0}
# widths and depths of a RAMB18 as a simple dual-port memory (UG573, table 1-10), the widest first
_BLOCK_RAM = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Resources of one layer, whole numbers, None where unknown, and who says so: finn, corrected or modelled."""

    resources: Mapping[str, int | None]
    origins: Mapping[str, str | None]


def modelled(resources: Mapping[str, float]) -> Figures:
    """Return figures that are all ours; a resource that is not named is unknown."""
    return Figures(
        resources=whole(resources),
        origins={name: "modelled" if name in resources else None for name in RESOURCES},
    )


def whole(resources: Mapping[str, float]) -> dict[str, int | None]:
    """Return the nearest whole number of each resource, as nobody places half a LUT; None where there is no figure.

    >>> whole({"LUT": 17.6, "FF": 12.0})
    {'LUT': 18, 'FF': 12, 'BRAM_18K': None, 'URAM': None, 'DSP': None}
    """
    return {name: round(resources[name]) if name in resources else None for name in RESOURCES}


def sum_known(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values, None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def clog2(number: int) -> int:
    """Return the bits that count `number` states: 0 for 1, 3 for 8, 4 for 9 ($clog2 of SystemVerilog)."""
    return max(number - 1, 0).bit_length()


def rom_luts(width: int, depth: int) -> float:
    """Return the LUTs of a memory that nobody writes: 64 bits each, and one in 16 to choose between 256 words.

    Four LUTs join without another in the multiplexers F7 and F8 of a slice (UG574).
    """
    blocks = -(-depth // 64)
    return width * (blocks + (blocks - 1) // 4 / 2)


def lutram_luts(width: int, depth: int) -> float:
    """Return the LUTs of a memory with one write and one read port: 8 hold 14 bits of 32 words or 7 bits of 64.

    RAM32M16 and RAM64M8 of UG574; the eighth LUT holds the port that writes.
    """
    if depth <= 32:
        return 8 * -(-width // 14)
    return 8 * -(-width // 7) * -(-depth // 64)


def block_rams(width: int, depth: int) -> int:
    """Return the RAMB18 of a memory with one write and one read port, all of one width."""
    return min(-(-width // columns) * -(-depth // rows) for columns, rows in _BLOCK_RAM)
