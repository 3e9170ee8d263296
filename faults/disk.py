"""A disk that is full after a random byte, for each command that writes: one line, code 10, and nothing lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cases import CASES, Case, environment
from .kills import prepared
from .programs import Programs, differences, tree


def try_command(
    programs: Programs, name: str, had: Path, work: Path, *, num: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield a record of each byte at which the disk of a command was full."""
    case = CASES[name]
    disk = prepared(case, had, work)
    arguments = case.arguments(had, disk)
    faults = {"watched": disk, "env": environment(had) if "sweep" in name else {}}
    whole = programs.run(arguments, **faults)
    if whole.code:
        raise RuntimeError(f"{name}: left with {whole.code}: {whole.stderr[-2000:]}")
    draw = random.Random(f"disk/{seed}/{name}")
    lefts = [draw.randrange(whole.written) for _ in range(num if whole.written else 0)]
    if not lefts:
        yield {"fault": "disk", "command": name, "left": None, "code": 0, "problems": [], "note": "writes no file"}
    before = tree(prepared(case, had, work))
    for left, ended in zip(lefts, programs.series(arguments, lefts=lefts, **faults), strict=True):
        found = differences(before, tree(disk, without=case.kept))
        problems = [one for one in found if one[1:] not in _names(disk, case)]
        if ended.code != 10 or not ended.is_clear:
            problems.append(f"code {ended.code}: {ended.stderr[-1500:]}")
        yield {
            "fault": "disk",
            "command": name,
            "left": left,
            "of": whole.written,
            "code": ended.code,
            "seconds": round(ended.seconds, 2),
            "line": next((line for line in ended.stderr.splitlines() if line.startswith("error: ")), None),
            "problems": problems,
        }
        if tree(disk) != before:
            prepared(case, had, work)


def _names(disk: Path, case: Case) -> set[str]:
    """Return the paths that a failed command may leave, and those of them that were there before."""
    return set(tree(disk)) - set(tree(disk, without=case.kept))
