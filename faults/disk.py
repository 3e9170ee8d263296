"""A disk that is full after a random byte, for each command that writes: one line, code 10, and nothing lost."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .cases import CASES, Case, environment
from .kills import prepared
from .programs import Outcome, Programs, differences, tree


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
        yield {"fault": "disk", "command": name, "left": left, "of": whole.written} | _found(case, disk, before, ended)
        if tree(disk) != before:
            prepared(case, had, work)
    with read_only(disk) as is_mounted:
        if lefts and is_mounted:
            ended = programs.run(arguments, **faults)
            yield {"fault": "read-only", "command": name} | _found(case, disk, before, ended)


def _found(case: Case, disk: Path, before: dict[str, str], ended: Outcome) -> dict[str, Any]:
    """Return how a command ended that could not write, and what was lost by it."""
    found = differences(before, tree(disk, without=case.kept))
    problems = [one for one in found if one[1:] not in _names(disk, case)]
    if ended.code != 10 or not ended.is_clear:
        problems.append(f"code {ended.code}: {ended.stderr[-1500:]}")
    return {
        "code": ended.code,
        "seconds": round(ended.seconds, 2),
        "line": next((line for line in ended.stderr.splitlines() if line.startswith("error: ")), None),
        "problems": problems,
    }


@contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """Mount a folder over itself, read-only, for a block; yield whether that is allowed here."""
    commands = (["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder])
    done = [subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands]
    try:
        yield all(done)
    finally:
        if done[0]:
            subprocess.run(["umount", folder], check=True)


def _names(disk: Path, case: Case) -> set[str]:
    """Return the paths that a failed command may leave, and those of them that were there before."""
    return set(tree(disk)) - set(tree(disk, without=case.kept))
