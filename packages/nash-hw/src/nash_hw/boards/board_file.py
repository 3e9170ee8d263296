"""A user's own board, described in a JSON file (schemas/board.json)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from ..base import json_file, manifest
from ..base.errors import ManifestError
from ..base.quoting import brief
from .board import Board

_NEXT_STEP = "compare with 'nash-hw schema board'"
# what FINN tells apart by the name of a part (finn.util.basic, get_dsp_block): 7-series and UltraScale(+)
_KNOWN_PARTS = re.compile(r"x[acq](7[akszv]|[kvzas]u|k\d|u\d)[0-9a-z]*\S*")
_EXAMPLE = "a 7-series, UltraScale, UltraScale+ or Versal part that FINN knows, such as xczu7ev-ffvc1156-2-e"
_MAX_PROBLEMS = 8


def load_board(path: Path) -> Board:
    """Read a board's file.

    Raises:
        ManifestError: it cannot be read, breaks its schema, or its part is of a family FINN does not know.
    """
    try:
        content = json_file.read(path)
    except json_file.Unreadable as error:
        raise ManifestError(f"{path}: {error}; check --board, or {_NEXT_STEP}") from error
    errors = islice(manifest.validator("board").iter_errors(content), _MAX_PROBLEMS)
    problems = [problem for error in errors for problem in _problems(error)]
    if not problems and not is_known_part(content["fpga_part"]):
        problems = [f"fpga_part: got {brief(content['fpga_part'])}, expected {_EXAMPLE}"]
    if problems:
        raise ManifestError(f"{path}: {' | '.join(problems)}; {_NEXT_STEP}")
    return Board(
        name=content["name"],
        fpga_part=content["fpga_part"],
        resources=content["resources"],
        num_slrs=content.get("num_slrs", 1),
        source=content.get("source", "file"),
    )


def is_known_part(part: str) -> bool:
    """Tell whether FINN knows the family of a part, and so the kind of its DSP blocks."""
    from finn.util.basic import is_versal

    return bool(_KNOWN_PARTS.fullmatch(part)) or is_versal(part)


def _problems(error: Any) -> Iterable[str]:
    """Yield what a validation error says, as key, got and expected."""
    where = error.json_path.removeprefix("$").removeprefix(".")
    prefix = f"{where}." if where else ""
    keys = error.schema.get("properties", {})
    if error.validator == "required":
        yield f"{prefix}{error.message.split(chr(39))[1]}: got nothing, expected it to be there"
    elif error.validator == "additionalProperties":
        for key in sorted(set(error.instance) - set(keys)):
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(keys)}"
            yield f"{prefix}{brief(key, is_text=True)}: unknown key, {hint}"
    else:
        kinds = {"type": "", "minimum": "at least ", "minLength": "a length of at least "}
        expected = f"{kinds.get(error.validator, error.validator + ' ')}{error.validator_value}"
        yield f"{where or '(top)'}: got {brief(error.instance)}, expected {expected}"
