"""What tests of sweeps share: the list of the stand-ins' calls (see fake_stage.py), and waiting for them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

FAKE = Path(__file__).with_name("fake_stage.py")
GRID = {"backbone": "resnet8", "variant": ["none", "v3"], "width": 4, "preset": ["w2a2", "w4a4"]}


def calls(stages: Path) -> list[str]:
    path = stages / "calls"
    return path.read_text().splitlines() if path.exists() else []


def kinds(found: list[str]) -> Counter[str]:
    return Counter(" ".join(call.split()[:2]) for call in found)


def wait_for(path: Path) -> None:
    for _ in range(60_000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")
