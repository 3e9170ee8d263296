"""The two-step installation brings what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent


def _names(lines: list[str]) -> set[str]:
    return {match[0].lower() for line in lines if (match := re.match(r"[A-Za-z][\w-]*", line))}


def test_two_steps_cover_every_dependency() -> None:
    asked = _names(tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]["dependencies"])
    files = ("finn-runtime.txt", "finn-nodeps.txt")
    brought = _names([line for name in files for line in (FOLDER / "requirements" / name).read_text().splitlines()])
    assert asked <= brought
