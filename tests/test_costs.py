"""A search weighs what its operations cost on a board: space.json, costs.json, a genotype that is cheaper for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Nash
from jsonschema import Draft202012Validator

NETWORK = ("--backbone", "resnet8", "--variant", "v3", "--width", "4", "--input-size", "16")


@pytest.fixture
def priced(nash: Nash, tmp_path: Path) -> Path:
    """Return the costs of a small search space, written beside it."""
    nash("search", "space", *NETWORK, "--out", tmp_path / "space.json")
    target = ("--board", "Pynq-Z1", "--weight-bits", "2", "--act-bits", "2", "--target-fps", "2000")
    nash("hw", "costs", tmp_path / "space.json", *target, "--out", tmp_path / "costs.json")
    return tmp_path / "costs.json"


def test_costs_weigh_in_a_search(priced: Path, nash: Nash, tmp_path: Path) -> None:
    for kind, writer in {"space": "search", "costs": "hw"}.items():
        schema = json.loads(nash(writer, "schema", kind).stdout)
        Draft202012Validator(schema).validate(json.loads((tmp_path / f"{kind}.json").read_text()))
    edges = [_edge(candidate) for candidate in _candidates(tmp_path / "space.json")]
    assert [_edge(candidate) for candidate in _candidates(priced)] == edges

    options = ("--dataset", "digits", "--recipe", "quick", "--epochs", "6", "--seed", "0", "--costs", priced)
    nash("search", "run", *NETWORK, *options, "--sweep-cost", "0,10", "--out", tmp_path / "sweep")
    genotypes = sorted((tmp_path / "sweep").glob("*/genotype.json"))
    luts = {path.parent.name: _luts(path, priced) for path in genotypes}
    free, weighed = luts.values()
    assert weighed < free, luts


def test_costs_of_another_space_are_refused(priced: Path, nash: Nash, tmp_path: Path) -> None:
    wider = ("--backbone", "resnet18", "--variant", "v3", "--width", "4", "--input-size", "16")
    outcome = nash("search", "run", *wider, "--costs", priced, "--cost-weight", "1", "--out", tmp_path / "run", code=3)
    assert "costs.json" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "run").exists()


def _candidates(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["candidates"]


def _edge(candidate: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(candidate[key] for key in ("cell", "layer", "input", "op"))


def _luts(genotype: Path, costs: Path) -> float:
    """Return what the operations of a genotype take together."""
    prices = {_edge(candidate): candidate["resources"]["LUT"] for candidate in _candidates(costs)}
    cells = json.loads(genotype.read_text())["cells"]
    return sum(
        prices[cell, layer, found["nas_op"]["input"], found["nas_op"]["op"]]
        for cell, content in enumerate(cells)
        for layer, found in enumerate(content["layers"], 1)
        if found["nas_op"]
    )
