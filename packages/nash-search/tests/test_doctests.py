from __future__ import annotations

import doctest
import importlib

import pytest

_MODULES = ("binary", "convolution", "operations", "activations", "quantization", "quantizers", "genotype", "variants")


@pytest.mark.parametrize("name", [*_MODULES, "settings", "suggest"])
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"nash_search.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
