"""Commands that are killed at random operations and moments, resumed, and compared with an uninterrupted one."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cases import CASES, Case, environment
from .programs import Outcome, Programs, differences, fingerprints

KILLED = ("search run", "qat train", "hw build", "hw simulate", "bench sweep")
_NOT_OF_THIS = 2  # exit code of --resume where another build lies


def try_command(
    programs: Programs, name: str, had: Path, work: Path, *, num: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield a record of each series of kills that a command went through, until it was killed `num` times."""
    case, env = CASES[name], environment(had) if "sweep" in name else {}
    disk = prepared(case, had, work)
    whole = programs.run(case.arguments(had, disk), watched=disk, env=env)
    if whole.code:
        raise RuntimeError(f"{name}: left with {whole.code}: {whole.stderr[-2000:]}")
    expected = fingerprints(disk, without=case.volatile)
    total = 0
    for number in range(num * 3):
        if total >= num:
            return
        draw = random.Random(f"kills/{seed}/{name}/{number}")
        prepared(case, had, work)
        kills = [_killed(programs, case, had, disk, env, whole, draw) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
        ended = _gone_on(programs, case, had, disk, env)
        problems = differences(expected, fingerprints(disk, without=case.volatile))
        if ended.code:
            problems.append(f"code {ended.code}: {ended.stderr[-1500:]}")
        problems += [
            f"killed with code {one['code']}: {one['said']}"
            for one in kills
            if one["code"] not in (-9, 0) and not one["is_killed"]
        ]
        num_kills = sum(one["is_killed"] for one in kills)
        total += num_kills
        yield {"fault": "kill", "command": name, "kills": kills, "num_kills": num_kills, "problems": problems}


def _killed(
    programs: Programs, case: Case, had: Path, disk: Path, env: dict[str, str], whole: Outcome, draw: random.Random
) -> dict[str, Any]:
    """Start a command, or go on with it, and kill its process group at an operation or a moment."""
    at = draw.randrange(whole.operations) if draw.random() < 0.7 else None
    moment = draw.random() * whole.seconds
    for arguments in _ways_on(case, had, disk):
        running = programs.start(arguments, watched=disk, env=env, kill_at=-1 if at is None else at)
        if at is None:
            time.sleep(moment)
            running.kill()
        ended = running.wait()
        if ended.code != _NOT_OF_THIS:
            break
    where = {"operation": at} if at is not None else {"seconds": round(moment, 2)}
    is_killed = ended.code == -9 or "left with -9" in ended.stderr  # itself, or the engine that it runs
    return where | {
        "code": ended.code,
        "is_killed": is_killed,
        "said": "" if ended.code in (-9, 0) else ended.stderr[-1500:],
    }


def _gone_on(programs: Programs, case: Case, had: Path, disk: Path, env: dict[str, str]) -> Outcome:
    for arguments in _ways_on(case, had, disk):
        ended = programs.run(arguments, watched=disk, env=env)
        if ended.code != _NOT_OF_THIS:
            break
    return ended


def _ways_on(case: Case, had: Path, disk: Path) -> Iterator[list[str]]:
    """Yield the command with --resume, where there is something to go on with, and without, if that is not of it."""
    arguments = case.arguments(had, disk)
    needs_checkpoint = case is CASES["qat train"]
    if case.going_on and (not needs_checkpoint or (disk / "out" / "checkpoint.safetensors").exists()):
        yield [*arguments, *case.going_on]
    yield arguments


def prepared(case: Case, had: Path, work: Path) -> Path:
    """Return an empty disk with what lies there before."""
    disk = work / "disk"
    shutil.rmtree(disk, ignore_errors=True)
    disk.mkdir(parents=True)
    case.prepare(had, disk)
    return disk
