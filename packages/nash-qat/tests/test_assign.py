from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest

from nash_qat.base import manifest
from nash_qat.base.errors import CapacityError, ManifestError, UsageError
from nash_qat.bits import assign
from nash_qat.network import bits
from nash_qat.quant.presets import preset

ZERO = dict.fromkeys(assign.RESOURCES, 0.0)
TABLE = bits.resolve(networks.parsed(networks.BASELINE), preset("w4a4"))
CANDIDATES = {name: sorted({2, 3, own}) for name, own in TABLE.items()}


def problem(seed: int) -> assign.Problem:
    """A small random problem: five tensors, and places over one, two and three of them."""
    random = np.random.default_rng(seed)
    losses = {name: {2: random.normal(1, 1), 4: random.normal(0.3, 0.3), 8: 0.0} for name in "abcde"}
    places = []
    for tensors in (("a", "b"), ("b", "c", "d"), ("e",), ("d", "e")):
        size = 3 ** len(tensors)
        resources = {name: random.uniform(0, 100, size) for name in assign.RESOURCES}
        places.append(assign.Place(tensors=tensors, resources=resources))
    return assign.Problem(
        losses=losses,
        own=dict.fromkeys("abcde", 8),
        places=tuple(places),
        rest=ZERO | {"LUT": -7.5},
        spec=preset("w8a8"),
    )


def every_choice(problem: assign.Problem) -> list[tuple[float, dict[str, float], dict[str, int]]]:
    """Return loss, resources and bits of all choices, counted one by one."""
    found = []
    for chosen in itertools.product((2, 4, 8), repeat=5):
        choice = dict(zip("abcde", chosen, strict=True))
        used = dict(problem.rest)
        for place in problem.places:
            index = tuple((2, 4, 8).index(choice[name]) for name in place.tensors)
            for name in assign.RESOURCES:
                used[name] += place.resources[name].reshape((3,) * len(index))[index]
        found.append((sum(problem.losses[name][each] for name, each in choice.items()), used, choice))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_choice_is_the_best_of_all(seed: int) -> None:
    small = problem(seed)
    choices = every_choice(small)
    lut, dsp = (float(np.quantile([used[name] for _, used, _ in choices], 0.2)) for name in ("LUT", "DSP"))
    for budgets in ({"LUT": lut}, {"LUT": lut, "DSP": dsp}):
        fitting = [each for each in choices if all(each[1][name] <= budget for name, budget in budgets.items())]
        loss, used, choice = min(fitting, key=lambda each: each[0])
        found = assign.solve(small, budgets)
        assert found.bits == choice
        assert found.loss == pytest.approx(loss)
        assert found.used == pytest.approx(used)
        assert found.gap == 0


def test_budget_that_is_just_enough_is_kept() -> None:
    small = problem(0)
    least = min(used["LUT"] for _, used, _ in every_choice(small))
    assert assign.solve(small, {"LUT": least}).used["LUT"] == pytest.approx(least)
    with pytest.raises(CapacityError, match=rf"--budget LUT: got .*, expected at least {least:,.0f}, the least that"):
        assign.solve(small, {"LUT": least - 1})


def test_budgets_that_contradict_each_other_are_told() -> None:
    small = problem(1)
    choices = every_choice(small)
    budgets = {name: min(used[name] for _, used, _ in choices) + 0.5 for name in ("LUT", "DSP")}
    assert not any(all(used[name] <= budget for name, budget in budgets.items()) for _, used, _ in choices)
    least = min(used["LUT"] for _, used, _ in choices if used["DSP"] <= budgets["DSP"])
    with pytest.raises(CapacityError, match=rf"expected at least {least:,.0f} beside DSP={budgets['DSP']:g}"):
        assign.solve(small, budgets)


@pytest.mark.parametrize("text", ["LUT", "LUT=", "LUT=many", "lut=3", "LUT=-1", "LUT=inf", "LUT=nan"])
def test_malformed_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--budget: got '{text}', expected RESOURCE=AMOUNT"):
        assign.parse_budgets([text])
    with pytest.raises(UsageError, match="--budget: got none"):
        assign.parse_budgets([])


def header(kind: str) -> dict[str, Any]:
    created = {"package": "nash-x", "version": "0.1.0"}
    return {"schema": f"nash.{kind}/1.0", "created_by": created, "inputs": [], "artifacts": [], "name": "baseline"}


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A sensitivity.json and a bitcosts.json of the baseline: a bit less costs a tenth, and saves a hundred LUTs."""
    measured = {
        name: [{"bits": each, "loss": 1 + 0.1 * (own - each), "top1": 50.0} for each in CANDIDATES[name]]
        for name, own in TABLE.items()
    }
    sensitivity = header("sensitivity") | {
        "quantization": preset("w4a4").to_dict() | {"resolved": TABLE},
        "data": {"dataset": "digits", "split": "train", "num_samples": 8, "seed": 0},
        "base": {"loss": 1.0, "top1": 50.0},
        "tensors": [
            {"name": name, "kind": tensor.kind, "bits": TABLE[name], "measured": measured[name]}
            for name, tensor in bits.tensors(networks.parsed(networks.BASELINE)).items()
        ],
    }
    costs = header("bitcosts") | {
        "model": {"sha256": "0" * 64},
        "board": "U250",
        "fpga_part": "xcu250",
        "clock_mhz": 200,
        "target_fps": 1000,
        "available": ZERO,
        "model_resources": ZERO,
        "rest": ZERO | {"LUT": 50.0},
        "tensors": [
            {"name": name, "bits": TABLE[name], "candidates": sorted({*of_one, 5})}
            for name, of_one in CANDIDATES.items()
        ],
        "places": [
            {
                "name": name,
                "kind": "conv",
                "tensors": [name],
                "resources": {
                    resource: [100.0 * each * (resource == "LUT") for each in sorted({*of_one, 5})]
                    for resource in assign.RESOURCES
                },
            }
            for name, of_one in CANDIDATES.items()
        ],
    }
    written = tmp_path / "sensitivity.json", tmp_path / "bitcosts.json"
    for path, content in zip(written, (sensitivity, costs), strict=True):
        path.write_text(json.dumps(content))
        manifest.load(path, path.stem)
    return written


def test_result_is_a_quantization(run: Callable[..., Any], paths: tuple[Path, Path], tmp_path: Path) -> None:
    budget = 50 + 100 * (sum(TABLE.values()) - 7)
    found = run("assign", *paths, "--budget", f"LUT={budget}", "--out", tmp_path / "q.json", "--json")
    assert found.code == 0, found.err
    assert found.json["loss_increase"] == pytest.approx(0.7)
    assert found.json["resources"]["LUT"] == budget
    assert sum(found.json["bits"].values()) == sum(TABLE.values()) - 7
    genotype = networks.written(networks.BASELINE, tmp_path)
    exported = run("export", genotype, "--quantization", tmp_path / "q.json", "--out", tmp_path / "m")
    assert exported.code == 0, exported.err
    model = manifest.load(tmp_path / "m" / "model.json", "model")
    assert model["quantization"]["resolved"] == found.json["bits"]


def test_errors_have_their_exit_codes(run: Callable[..., Any], paths: tuple[Path, Path], tmp_path: Path) -> None:
    sensitivity, costs = paths
    out = ("--out", tmp_path / "q.json")
    small = run("assign", sensitivity, costs, "--budget", "LUT=51", *out)
    least = 50 + 100 * sum(of_one[0] for of_one in CANDIDATES.values())
    assert small.code == 9
    assert f"--budget LUT: got 51, expected at least {least:,}, the least that any bits take" in small.err
    assert run("assign", sensitivity, costs, *out).code == 2
    assert run("assign", costs, sensitivity, "--budget", "LUT=5000", *out).code == 3
    assert not (tmp_path / "q.json").exists()


def test_other_network_is_refused(paths: tuple[Path, Path]) -> None:
    sensitivity, costs = paths
    content = json.loads(costs.read_text())
    renamed = json.dumps(content).replace("cells.1.layers.0.main", "cells.1.layers.0.other")
    costs.write_text(renamed)
    with pytest.raises(ManifestError, match=r"tensors: got no 'cells\.1\.layers\.0\.main'.*\(2 differ\)"):
        assign.Problem.read(sensitivity, costs)
    content["places"][0]["resources"]["LUT"].pop()
    costs.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="places: stem: expected 4 figures"):
        assign.Problem.read(sensitivity, costs)
