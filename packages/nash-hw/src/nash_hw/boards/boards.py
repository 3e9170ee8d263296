"""The boards FINN builds for and a user's own, with their FPGA and its resources."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..base.errors import UsageError
from .board import RESOURCES, Board
from .board_file import load_board

# FINN has no resources for these parts. AMD data sheets DS987 (K26), DS889 (ZU48DR), DS950 (VC1902, VE2802) and the
# Alveo V80 product brief; BRAM_18K is twice the number of 36K blocks.
_DATA_SHEET: dict[str, dict[str, int]] = {
    "xck26": {"LUT": 117_120, "FF": 234_240, "BRAM_18K": 288, "URAM": 64, "DSP": 1_248},
    "xczu48dr": {"LUT": 425_280, "FF": 850_560, "BRAM_18K": 2_160, "URAM": 80, "DSP": 4_272},
    "xcvc1902": {"LUT": 899_840, "FF": 1_799_680, "BRAM_18K": 1_934, "URAM": 463, "DSP": 1_968},
    "xcve2802": {"LUT": 520_704, "FF": 1_041_408, "BRAM_18K": 1_200, "URAM": 264, "DSP": 1_312},
    "xcv80": {"LUT": 2_574_208, "FF": 5_148_416, "BRAM_18K": 7_482, "URAM": 1_925, "DSP": 10_848},
}


def all_boards() -> list[Board]:
    """Return every board FINN knows, sorted by name."""
    from finn.util.basic import part_map
    from finn.util.platforms import platforms

    by_part: dict[str, tuple[dict[str, int], int]] = {}
    for name, platform_type in platforms.items():
        platform = platform_type()
        per_slr = platform.compute_resources
        totals = {resource: sum(slr[i] for slr in per_slr) for i, resource in enumerate(RESOURCES)}
        by_part[_device(part_map[name])] = (totals, platform.nslr)
    boards = []
    for name, part in sorted(part_map.items(), key=lambda entry: entry[0].lower()):
        device = _device(part)
        if device in by_part:
            resources, num_slrs = by_part[device]
            source = "finn"
        else:
            resources, num_slrs, source = _DATA_SHEET[device], 3 if device == "xcv80" else 1, "data sheet"
        boards.append(Board(name=name, fpga_part=part, resources=resources, num_slrs=num_slrs, source=source))
    return boards


def find_board(name: str) -> Board:
    """Return the board of that name, upper and lower case being the same, or the one a .json file describes.

    Raises:
        UsageError: there is none.
        ManifestError: the file is not a board's.
    """
    if name.lower().endswith(".json"):
        return load_board(Path(name))
    boards = {board.name.lower(): board for board in all_boards()}
    if name.lower() in boards:
        return boards[name.lower()]
    near = difflib.get_close_matches(name.lower(), boards, n=1)
    hint = (
        f"did you mean {boards[near[0]].name}?"
        if near
        else "'nash-hw boards' lists them, and a .json file describes another"
    )
    raise UsageError(f"--board: got '{name}', which FINN does not know; {hint}")


def _device(part: str) -> str:
    """Return the device of a part: 'xczu7ev' of 'xczu7ev-ffvc1156-2-e', 'xc7z020' of 'xc7z020clg400-1'."""
    device = part.split("-")[0].lower()
    return "xc7z020" if device.startswith("xc7z020") else device
