"""Faults over all commands that write: kills, and disks that are full; see README.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import disk, kills
from .cases import CASES, ROOT, make_fixtures
from .programs import Programs, programs

WORK = ROOT / "runs" / "faults"
FAULTS = {"kills": (kills.try_command, kills.KILLED), "disk": (disk.try_command, tuple(CASES))}


def main() -> int:
    """Try what is asked for, and return 1 if something was lost."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("kind", choices=(*FAULTS, "all"))
    parser.add_argument("--work", type=Path, default=WORK, help="a folder for all files; records.jsonl grows there")
    parser.add_argument("--num", type=int, default=3, help="kills or full disks a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="commands: 'search run' 'hw build'")
    asked = parser.parse_args()
    work, kinds = asked.work.resolve(), FAULTS if asked.kind == "all" else (asked.kind,)
    with programs(work / "runs") as found:
        return max(run(found, work, kind, asked.only, num=asked.num, seed=asked.seed) for kind in kinds)


def run(found: Programs, work: Path, kind: str, only: list[str] | None, *, num: int, seed: int) -> int:
    """Try faults of a kind, and write a record of each; commands that are recorded with this seed are left out."""
    had, records = work / "fixtures", work / "records.jsonl"
    make_fixtures(found, had)
    try_command, names = FAULTS[kind]
    done = {(one["kind"], one["command"], one["seed"], one["num"]) for one in _read(records) if "end" in one}
    num_lost = 0
    for name in [name for name in names if not only or name in only]:
        key = {"kind": kind, "command": name, "seed": seed, "num": num}
        if tuple(key.values()) in done:
            continue
        num_tried, num_bad = 0, 0
        for record in try_command(found, name, had, work / name.replace(" ", "-"), num=num, seed=seed):
            _append(records, key | record)
            num_tried, num_bad = num_tried + 1, num_bad + bool(record["problems"])
        _append(records, key | {"end": True, "tried": num_tried, "bad": num_bad})
        print(f"{name}: {num_tried} tried, {num_bad} lost something", flush=True)
        num_lost += num_bad
    return int(num_lost > 0)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text("utf-8").splitlines())


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    sys.exit(main())
