"""How fast the clock of an FPGA can be, by its fabric and speed grade.

Sources: AMD's data sheets, "Clock Buffers and Networks" (BUFG) and "DSP48 Slice Switching Characteristics" (all
registers used): DS181 and DS187 (Artix-7 and the Zynq-7000 of its fabric), DS922, DS923, DS925 and DS931 (UltraScale+;
at 0.72 V for grades of low voltage), DS956 and DS958 (Versal). The lesser of both holds, as nearly every accelerator
multiplies. What AMD's own streaming cores reach as a rule: PG278, "Performance".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..base.errors import UsageError
from .board import Board

_LOW_VOLTAGE = "LV"


@dataclass(frozen=True, kw_only=True)
class _Fabric:
    name: str
    parts: re.Pattern[str]
    ceilings_mhz: dict[str, int]  # by speed grade, with the letter of its voltage where that decides
    usual_mhz: int


_FABRICS = (
    _Fabric(
        name="Artix-7",
        parts=re.compile(r"x[aq]?c?7(a|z0(07s|10|12s|14s|15|20))"),
        ceilings_mhz={"3": 628, "2": 628, "1": 464},
        usual_mhz=150,
    ),
    _Fabric(
        name="UltraScale+",
        parts=re.compile(r"x[acq](zu|k26|k24|u\d|au|su|ku\d+p|vu\d+p)"),
        ceilings_mhz={"3": 891, "2": 775, "1": 645, "2LV": 644, "1LV": 600},
        usual_mhz=300,
    ),
    _Fabric(
        name="Versal",
        parts=re.compile(r"x[aq]?c?v[cpemh]?\d"),
        ceilings_mhz={"3H": 1150, "2H": 1150, "2M": 1070, "1M": 984, "2L": 800, "1L": 680},
        usual_mhz=300,
    ),
)


def clock_ceiling_mhz(fpga_part: str) -> int | None:
    """Return the fastest clock of a part, None where there is no figure of its fabric or speed grade.

    >>> clock_ceiling_mhz("xc7z020clg400-1"), clock_ceiling_mhz("xck26-sfvc784-2LV-c")
    (464, 644)
    """
    fabric = _fabric(fpga_part)
    found = re.search(r"-([123])([A-Z]*)", fpga_part)
    if fabric is None or found is None:
        return None
    grade, letters = found.groups()
    suffix = letters[:1] if fabric.name == "Versal" else _LOW_VOLTAGE if letters == _LOW_VOLTAGE else ""
    return fabric.ceilings_mhz.get(grade + suffix)


def usual_clock_mhz(fpga_part: str) -> int | None:
    """Return the clock that streaming cores reach as a rule on the fabric of a part, None where nobody says."""
    fabric = _fabric(fpga_part)
    return None if fabric is None else fabric.usual_mhz


def check_clock(board: Board, clock_mhz: float) -> None:
    """Check that a clock is none that no design on a board can have.

    Raises:
        UsageError: it is.
    """
    ceiling = clock_ceiling_mhz(board.fpga_part)
    if ceiling is not None and clock_mhz > ceiling:
        usual = usual_clock_mhz(board.fpga_part)
        raise UsageError(
            f"--clock-mhz: got {clock_mhz:g}, expected at most {ceiling}: no clock network or DSP block of "
            f"{board.name}'s {board.fpga_part} is faster; streaming cores usually reach {usual}"
        )


def _fabric(fpga_part: str) -> _Fabric | None:
    return next((fabric for fabric in _FABRICS if fabric.parts.match(fpga_part.lower())), None)
