from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    ["binary", "convolution", "operations", "settings", "supernet", "genotype", "variants", "suggest"],
)
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"nash_search.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
