"""The tool that writes tables of READMEs."""

from __future__ import annotations

import importlib.util
import statistics
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("readme", Path(__file__).parent.parent / "tools" / "readme.py")
assert _SPEC is not None
assert _SPEC.loader is not None
readme = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(readme)

TEXT = "before\n<!-- table: one -->\n| a |\n|---|\n| 1 |\n<!-- end -->\nbetween\n<!-- table: two -->\n<!-- end -->\n"
TABLES = {"one": lambda: [["a"], ["1"]], "two": lambda: [["b", ""], ["2", "3"]]}


def test_stale_tables_are_renewed_and_named() -> None:
    text, stale = readme.renewed(TEXT, TABLES)
    assert stale == ["two"]
    assert text == TEXT.replace("two -->\n", "two -->\n| b | |\n|---|---|\n| 2 | 3 |\n")
    assert readme.renewed(text, TABLES) == (text, [])


def test_a_table_without_a_source_is_refused() -> None:
    with pytest.raises(KeyError, match="two"):
        readme.renewed(TEXT, {"one": TABLES["one"]})


def test_exit_codes_are_all_there_once() -> None:
    codes = [int(code) for row in readme.exit_codes()[1:] for code in (row[0], row[3]) if code]
    assert sorted(codes) == [*range(12), 130]


def test_a_difference_is_of_the_seeds_that_both_have() -> None:
    gains = [1.0, 2.0, 6.0]
    half = 4.3027 * statistics.stdev(gains) / 3**0.5
    ours, theirs = {0: 11.0, 1: 12.0, 2: 16.0, 3: 99.0}, {0: 10.0, 1: 10.0, 2: 10.0}
    assert readme._difference(ours, theirs) == f"+3.00 +- {half:.2f}"
