from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import nash_search

_SOURCES = Path(nash_search.__file__).parent
_MODULES = [path.relative_to(_SOURCES.parent) for path in sorted(_SOURCES.rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", _MODULES, ids=str)
def test_examples_in_docstrings_run(path: Path) -> None:
    failed, attempted = doctest.testmod(import_module(".".join(path.with_suffix("").parts)))
    assert attempted > 0
    assert failed == 0
