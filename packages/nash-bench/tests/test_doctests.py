from __future__ import annotations

import doctest

import pytest

from nash_bench import collect, pareto


@pytest.mark.parametrize("module", [collect, pareto])
def test_examples_in_docstrings_run(module: object) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted > 0
    assert failed == 0
