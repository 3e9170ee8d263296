"""The four command lines, chained by files alone."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from conftest import Chain, Nash


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["nash", "baseline"])
def test_each_manifest_names_the_one_before(name: str, chains: dict[str, Chain]) -> None:
    chain = chains[name]
    model, hardware, benchmark = _read(chain.model), _read(chain.hardware), _read(chain.benchmark)
    assert model["genotype"]["sha256"] == _sha256(chain.genotype)
    assert model["genotype"]["copy"] == _read(chain.genotype)
    assert hardware["model"]["sha256"] == _sha256(chain.model)
    assert benchmark["model"]["sha256"] == _sha256(chain.model)
    assert {record["sha256"] for record in benchmark["inputs"]} == {_sha256(chain.model), _sha256(chain.hardware)}


@pytest.mark.parametrize("name", ["nash", "baseline"])
@pytest.mark.parametrize("kind", ["genotype", "model", "hardware", "benchmark"])
def test_artifacts_lie_beside_their_manifest_unchanged(name: str, kind: str, chains: dict[str, Chain]) -> None:
    path = chains[name].manifests()[kind]
    for artifact in _read(path)["artifacts"]:
        file = path.parent / artifact["path"]
        assert file.resolve().is_relative_to(path.parent.resolve())
        assert (_sha256(file), file.stat().st_size) == (artifact["sha256"], artifact["bytes"])


@pytest.mark.parametrize("name", ["nash", "baseline"])
def test_two_packages_measure_the_same_accuracy(name: str, chains: dict[str, Chain]) -> None:
    trained, benchmark = _read(chains[name].model)["accuracy"], _read(chains[name].benchmark)["accuracy"]
    assert trained["num_samples"] == benchmark["num_samples"] == 360
    assert benchmark["top1"] == pytest.approx(trained["top1"], abs=1e-9)
    assert benchmark["top5"] == pytest.approx(trained["top5"], abs=1e-9)


@pytest.mark.parametrize("name", ["nash", "baseline"])
def test_hardware_reaches_its_target_and_is_verified(name: str, chains: dict[str, Chain]) -> None:
    hardware = _read(chains[name].hardware)
    assert hardware["estimated"]["throughput_fps"] >= 1000
    slowest = max(layer["cycles"] for layer in hardware["layers"] if layer["cycles"] is not None)
    assert hardware["estimated"]["ii_cycles"] == slowest
    assert hardware["estimated"]["throughput_fps"] == pytest.approx(200e6 / slowest)
    assert hardware["measured"] is None
    assert len(hardware["verification"]) >= 3
    assert max(record["max_abs_error"] for record in hardware["verification"]) < 1e-4


def test_report_lists_both_networks(chains: dict[str, Chain], nash: Nash, tmp_path: Path) -> None:
    folders = [chain.folder for chain in chains.values()]
    outcome = nash("bench", "report", *folders, "--out", tmp_path / "report", "--json")
    rows = list(csv.DictReader((tmp_path / "report" / "results.csv").open()))
    assert len(rows) == 2
    assert isinstance(outcome.result, dict)
    page = (tmp_path / "report" / "index.html").read_text()
    for chain in chains.values():
        assert _read(chain.model)["name"] in page


def test_compare_gives_the_differences(chains: dict[str, Chain], nash: Nash) -> None:
    baseline, candidate = chains["baseline"].benchmark, chains["nash"].benchmark
    text = json.dumps(nash("bench", "compare", baseline, candidate, "--json").result)
    assert "top1" in text
    assert "LUT" in text


def test_zoo_network_takes_the_way_by_hand(nash: Nash, tmp_path: Path) -> None:
    nash("search", "zoo", "resnet18-v3", "--width", "4", "--input-size", "16", "--out", "g.json", cwd=tmp_path)
    train = ("--dataset", "digits", "--preset", "v3", "--recipe", "quick", "--epochs", "1", "--seed", "0")
    nash("qat", "train", "g.json", *train, "--out", "model", cwd=tmp_path)
    target = ("--board", "Pynq-Z1", "--clock-mhz", "100", "--target-fps", "100")
    nash("hw", "build", "model/model.json", *target, "--out", "hardware", cwd=tmp_path)
    nash("bench", "report", "model", "hardware", "--out", "report", cwd=tmp_path)
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_simulated_frames_are_those_of_the_network(nash: Nash, tmp_path: Path) -> None:
    nash("search", "zoo", "resnet8", "--width", "4", "--input-size", "16", "--out", "g.json", cwd=tmp_path)
    nash("qat", "export", "g.json", "--preset", "w2a2", "--seed", "0", "--out", "model", cwd=tmp_path)
    target = ("--board", "KV260_SOM", "--target-fps", "5000", "--until", "hdl")
    nash("hw", "build", "model/model.json", *target, "--out", "hardware", cwd=tmp_path)
    options = ("--golden", "model/golden.npz", "--frames", "3", "--trials", "3", "--cache", "cache")
    result = nash("hw", "simulate", "hardware", *options, "--json", cwd=tmp_path).result
    simulated = result["simulated"]
    assert simulated["frames_compared"] >= 6
    assert all(check["is_exact"] for check in simulated["checks"])
    assert simulated["ii_cycles"] <= 1.01 * result["estimated"]["ii_cycles"]
    evaluate = ("model/model.json", "--dataset", "digits", "--hardware", "hardware/hardware.json")
    nash("bench", "evaluate", *evaluate, "--out", "benchmark.json", cwd=tmp_path)
    hardware = _read(tmp_path / "benchmark.json")["hardware"]
    assert (hardware["origin"], hardware["throughput_fps"]) == ("simulated", simulated["throughput_fps"])
