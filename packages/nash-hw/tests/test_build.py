from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from nash_hw.base import manifest
from nash_hw.base.errors import UsageError


def build(model_json: Path, out: Path, **changes):
    from nash_hw.build.build import BuildConfig
    from nash_hw.build.build import build as build_model

    given = {"board": "ZCU104", "clock_mhz": 100.0, "out": out, "quiet": True} | changes
    return build_model(model_json, BuildConfig(**given))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    from conftest import DATA

    out = tmp_path_factory.mktemp("built") / "hw"
    return out, build(DATA / "every-operation-v3" / "model.json", out, target_fps=5000)


def test_manifest_is_valid_and_names_what_it_was_made_of(built):
    from conftest import DATA

    out, result = built
    assert manifest.load(out / "hardware.json", "hardware") == result
    source = DATA / "every-operation-v3" / "model.json"
    assert result["model"]["sha256"] == manifest.file_sha256(source) == result["inputs"][0]["sha256"]
    for artifact in result["artifacts"]:
        manifest.resolve(out / "hardware.json", artifact["path"], artifact["sha256"])
    assert {artifact["role"] for artifact in result["artifacts"]} == {"folding", "layers", "dataflow", "drawing"}
    files = [".steps", "dataflow.onnx", "dataflow.svg", "folding.json", "hardware.json", "layers.csv"]
    assert sorted(os.listdir(out)) == files
    assert os.listdir(out / ".steps") == ["state.json"]


def test_every_stage_is_verified_without_a_flip(built):
    _, result = built
    records = {record["stage"]: record for record in result["verification"]}
    assert list(records) == ["streamlined", "lowered", "hardware", "folded"]
    assert records["hardware"]["num_samples"] == records["folded"]["num_samples"] == 8
    assert all(record["num_flips"] == 0 and record["max_abs_error"] < 1e-5 for record in records.values())


def test_figures_fit_together(built):
    _, result = built
    estimated = result["estimated"]
    assert estimated["throughput_fps"] == pytest.approx(100e6 / estimated["ii_cycles"])
    assert estimated["throughput_fps"] >= 5000
    assert estimated["ii_cycles"] == max(layer["cycles"] for layer in result["layers"])
    assert estimated["resources"]["DSP"] == sum(layer["resources"]["DSP"] or 0 for layer in result["layers"])
    assert estimated["utilization"]["DSP"] == pytest.approx(estimated["resources"]["DSP"] / 1728)
    parts = result["layers"] + result["streams"]
    assert estimated["resources"]["FF"] == pytest.approx(sum(part["resources"]["FF"] for part in parts))
    assert estimated["latency_us"] < estimated["latency_bound_us"]
    assert result["steps"][0]["name"] == "start FINN"


def test_written_graph_executes_to_the_golden_logits(built, finn):
    """What is handed on is what was verified: dataflow.onnx, read back, with the interface of the manifest."""
    import onnx
    from conftest import DATA

    from nash_hw.graph.model import Model
    from nash_hw.verify.execute import Executor

    out, result = built
    executor = Executor(Model(onnx.load(str(out / "dataflow.onnx"))))
    output = result["interface"]["output"]
    with np.load(DATA / "every-operation-v3" / "golden.npz") as golden:
        for picture, logits in zip(golden["input"][:2], golden["output"][:2], strict=True):
            integers = executor.run(picture[None].transpose(0, 2, 3, 1)).reshape(-1)
            np.testing.assert_allclose(integers * output["scale"] + output["bias"], logits, atol=1e-6)


def test_written_folding_is_that_of_the_graph(built, finn):
    import onnx

    from nash_hw.graph.model import custom_op

    out, result = built
    config = json.loads((out / "folding.json").read_text())
    for node in onnx.load(str(out / "dataflow.onnx")).graph.node:
        instance = custom_op(node)
        assert all(instance.get_nodeattr(name) == value for name, value in config[node.name].items())
    for layer in result["layers"]:
        assert config[layer["name"]].get("PE") == layer["PE"]
        assert config[layer["name"]].get("SIMD") == layer["SIMD"]


def test_finn_is_contained(model_json, tmp_path, capfd, monkeypatch):
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("FINN_BUILD_DIR", raising=False)
    level = logging.getLogger("finn_logger").level
    build(model_json, tmp_path / "hw")
    assert capfd.readouterr() == ("", "")
    assert list(temporary.iterdir()) == []
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "hw", "model", "tmp"]
    assert "FINN_BUILD_DIR" not in os.environ
    assert logging.getLogger("finn_logger").level == level


def test_building_twice_gives_the_same_files(model_json, tmp_path):
    first, second = (build(model_json, tmp_path / name, max_utilization=0.5) for name in ("a", "b"))
    for name in ("folding.json", "layers.csv", "dataflow.onnx", "dataflow.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first["layers"] == second["layers"]
    assert first["estimated"] == second["estimated"]


def test_a_new_build_replaces_the_old(model_json, tmp_path):
    slow = build(model_json, tmp_path / "hw", target_fps=1000)
    (tmp_path / "hw" / "mine.txt").write_text("kept")
    fast = build(model_json, tmp_path / "hw", target_fps=20_000)
    assert fast["estimated"]["ii_cycles"] < slow["estimated"]["ii_cycles"]
    assert manifest.load(tmp_path / "hw" / "hardware.json", "hardware") == fast
    assert (tmp_path / "hw" / "mine.txt").read_text() == "kept"


def test_progress_goes_to_stderr(model_json, tmp_path, capfd):
    build(model_json, tmp_path / "hw", quiet=False)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].startswith("[1/12] start FINN: ")
    assert len(captured.err.splitlines()) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_fps": 100.0, "max_utilization": 0.5}, "got both"),
        ({"target_fps": 0.0}, "--target-fps: got 0"),
        ({"max_utilization": 1.5}, "--max-utilization: got 1.5"),
        ({"clock_mhz": 2.0}, "--clock-mhz: got 2, expected 10..1000"),
        ({"until": "moon"}, "--until: got 'moon'"),
        ({"price": "DSPs=1"}, "--price: got 'DSPs', .*; did you mean DSP?"),
        ({"price": "LUT=0"}, "--price: LUT: got '0', expected a number above 0"),
        ({"price": "LUT"}, "--price: LUT: got '', expected a number above 0"),
        ({"price": "LUT=1,LUT=2"}, "--price: got LUT twice"),
        ({"price": "balance"}, "--price: got balance without --target-fps"),
    ],
)
def test_config_is_checked_at_birth(changes, message):
    from nash_hw.build.build import BuildConfig

    with pytest.raises(UsageError, match=message):
        BuildConfig(**{"board": "U250", "clock_mhz": 200.0, "out": Path("x")} | changes)


def test_all_problems_of_a_config_are_told_at_once():
    from nash_hw.build.build import BuildConfig

    with pytest.raises(UsageError, match=r"--clock-mhz.*--max-utilization"):
        BuildConfig(board="U250", clock_mhz=1.0, out=Path("x"), max_utilization=7.0)
