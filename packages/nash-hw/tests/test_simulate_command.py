"""A build that is simulated: what it writes, and what going on from there keeps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml
from conftest import DATA
from test_build import build
from test_cli import run  # noqa: F401 - a fixture

from nash_hw.base import manifest

MODEL = DATA / "every-operation-v3"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, compiled_layers):
    """Every NAS operation at both strides, built and simulated: the folder, and the manifest."""
    from nash_hw.simulate.command import SimulateConfig, simulate

    out = tmp_path_factory.mktemp("simulated") / "hw"
    build(MODEL / "model.json", out, target_fps=5000, until="hdl")
    config = SimulateConfig(
        folder=out, frames=3, golden=MODEL / "golden.npz", trials=4, cache=compiled_layers, quiet=True
    )
    return out, simulate(config)


def test_manifest_has_what_was_found(simulated):
    out, result = simulated
    assert manifest.load(out / "hardware.json", "hardware") == result
    found = result["simulated"]
    assert found["pictures"] == "golden"
    assert found["frames_compared"] >= 6
    assert all(check["is_exact"] for check in found["checks"])
    assert [check["name"] for check in found["checks"]] == ["back to back", "under back-pressure"]
    assert found["is_steady"]
    assert found["throughput_fps"] == pytest.approx(100e6 / found["ii_cycles"])
    assert found["latency_us"] == pytest.approx(found["latency_cycles"] / 100)
    assert found["ii_cycles"] == pytest.approx(result["estimated"]["ii_cycles"], rel=0.01)
    assert {fifo["origin"] for fifo in found["fifos"]} == {"simulated"}
    assert all(fifo["fill"] <= max(fifo["depth"], 5) for fifo in found["fifos"] if fifo["depth"] < 257)
    assert [layer["name"] for layer in found["layers"]][: len(result["layers"])] == [
        layer["name"] for layer in result["layers"]
    ]
    assert all(sum(layer[key] for key in ("busy", "waits", "stalls")) == pytest.approx(1) for layer in found["layers"])


def test_artifacts_are_the_files(simulated):
    out, result = simulated
    for artifact in result["artifacts"]:
        manifest.resolve(out / "hardware.json", artifact["path"], artifact["sha256"])
    paths = [artifact["path"] for artifact in result["artifacts"]]
    assert len(set(paths)) == len(paths)
    assert {"fifos.json", "folding.json", "simulation/streams.csv", "simulation/timeline.svg"} <= set(paths)


def test_depths_are_where_finn_reads_them(simulated):
    out, result = simulated
    fifos = result["simulated"]["fifos"]
    deep = sorted(fifo["depth"] for fifo in fifos if fifo["depth"] > 2)
    config = json.loads((out / "fifos.json").read_text())
    assert sorted(depth for depth in config["fifo_depths"].values() if depth > 2) == deep
    assert len(config["fifo_depths"]) == len(config["ram_style"]) > len(fifos)
    folding = json.loads((out / "folding.json").read_text())
    for fifo in fifos:
        assert folding[fifo["consumer"]]["inFIFODepths"][fifo["input"]] == fifo["depth"]


def test_resources_are_of_the_depths(simulated):
    """Those of the streams, their sums, and what of the board they are."""
    from nash_hw.estimate.streams import fifo_figures

    _, result = simulated
    fifos = [stream for stream in result["streams"] if stream["kind"] == "fifo"]
    found = result["simulated"]["fifos"]
    assert {(one["origin"]) for one in fifos} == {"simulated"}
    assert sorted(one["depth"] for one in fifos) == sorted(max(one["depth"], 5) for one in found)
    assert any(one["depth"] < one["written_depth"] for one in found)
    for one in fifos:
        figures = fifo_figures(one["out_width_bits"], one["depth"], result["fpga_part"])
        assert one["resources"] == figures.resources
    for name, total in result["estimated"]["resources"].items():
        parts = [part["resources"][name] for part in (*result["layers"], *result["streams"])]
        assert total == pytest.approx(sum(part for part in parts if part is not None))
        used = result["estimated"]["utilization"][name]
        assert used == pytest.approx(total / max(result["board_resources"][name], 1))


def test_depths_are_never_dearer_than_written(simulated):
    _, result = simulated
    assert result["simulated"]["fifo_bits"] <= result["simulated"]["as_written"]["fifo_bits"]


def test_timeline_has_a_row_for_each_layer(simulated):
    out, result = simulated
    text = (out / "simulation" / "timeline.svg").read_text()
    words = [element.text for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert all(layer["name"] in words for layer in result["layers"])
    assert sum("#b3261e" in line and "<path" in line for line in text.splitlines()) == 1


def test_again_it_is_the_same_and_takes_no_run(run, simulated, compiled_layers, monkeypatch):  # noqa: F811
    from nash_hw.simulate.run import Simulation

    out, result = simulated
    monkeypatch.setattr(Simulation, "_call", lambda *_: pytest.fail("runs anew"))
    options = ("--golden", MODEL / "golden.npz", "--frames", 3, "--trials", 4, "--cache", compiled_layers)
    code, stdout, stderr = run("simulate", out, *options)
    assert code == 0, stderr
    assert "every integer the same" in stdout
    assert "FIFOs as simulated: one frame every" in stdout
    assert json.loads((out / "hardware.json").read_text()) == result


def test_out_gets_a_build_of_its_own(run, simulated, compiled_layers, tmp_path):  # noqa: F811
    folder, result = simulated
    options = ("--golden", MODEL / "golden.npz", "--frames", 3, "--trials", 4, "--cache", compiled_layers)
    code, _, stderr = run("simulate", folder, *options, "--out", tmp_path / "new")
    assert code == 0, stderr
    assert json.loads((tmp_path / "new" / "hardware.json").read_text()) == result
    assert not (tmp_path / "new" / ".simulate").exists()
    for artifact in result["artifacts"]:
        manifest.resolve(tmp_path / "new" / "hardware.json", artifact["path"], artifact["sha256"])
    code, _, stderr = run("simulate", folder, *options, "--out", tmp_path / "new")
    assert code == 10
    assert "is there already; choose another --out" in stderr


def test_depths_that_were_found_stay_without_sizing(run, simulated, compiled_layers, tmp_path):  # noqa: F811
    folder, result = simulated
    options = ("--golden", MODEL / "golden.npz", "--frames", 3, "--no-size-fifos", "--cache", compiled_layers)
    code, _, stderr = run("simulate", folder, *options, "--out", tmp_path / "new")
    assert code == 0, stderr
    again = json.loads((tmp_path / "new" / "hardware.json").read_text())
    assert again["simulated"]["fifos"] == result["simulated"]["fifos"]
    assert (tmp_path / "new" / "fifos.json").read_bytes() == (folder / "fifos.json").read_bytes()


def test_bitfile_goes_on_with_the_depths(simulated, tmp_path):
    import shutil

    out, result = simulated
    shutil.copytree(out, tmp_path / "hw")
    after = build(MODEL / "model.json", tmp_path / "hw", target_fps=5000, until="bitfile", resume=True)
    config = yaml.safe_load((tmp_path / "hw" / "finn" / "build.yaml").read_text())
    assert (config["auto_fifo_depths"], config["fifo_config_file"]) == (False, "fifos.json")
    for name in ("fifos.json", "finn/fifos.json"):
        assert (tmp_path / "hw" / name).read_bytes() == (out / "fifos.json").read_bytes()
    assert after["simulated"] == result["simulated"]
    assert (after["streams"], after["estimated"]) == (result["streams"], result["estimated"])
    assert (tmp_path / "hw" / "folding.json").read_bytes() == (out / "folding.json").read_bytes()
    for artifact in after["artifacts"]:
        manifest.resolve(tmp_path / "hw" / "hardware.json", artifact["path"], artifact["sha256"])


def test_another_folding_forgets_the_simulation(simulated, tmp_path):
    import shutil

    out, _ = simulated
    shutil.copytree(out, tmp_path / "hw")
    after = build(MODEL / "model.json", tmp_path / "hw", target_fps=1000)
    assert "simulated" not in after
    assert {fifo["origin"] for fifo in after["streams"] if "depth" in fifo} == {"estimated"}
    assert "fifos.json" not in [artifact["path"] for artifact in after["artifacts"]]
    assert not (tmp_path / "hw" / "fifos.json").exists()
    assert not (tmp_path / "hw" / "simulation").exists()


def test_killed_simulation_goes_on(simulated, compiled_layers, tmp_path):
    """Killed in a run of the kernel, its leftovers are swept, and it ends as an uninterrupted one."""
    folder, result = simulated
    out = tmp_path / "hw"
    build(MODEL / "model.json", out, target_fps=5000, until="hdl")
    options = ["--golden", MODEL / "golden.npz", "--frames", "3", "--trials", "4", "--cache", compiled_layers]
    command = [sys.executable, "-c", "from nash_hw.cli import main; main()", "simulate", out, *options]
    runs = out / ".simulate" / "runs"
    before = (out / "hardware.json").read_bytes()
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(runs.glob("[!.]*.json"))) < 2:
            pass
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (out / "hardware.json").read_bytes() == before
    kept = {path.name: path.stat().st_mtime_ns for path in runs.glob("[!.]*.json")}
    for name in (".left.json.x.run", ".left.json.x.out", ".left.json.x.json"):
        (runs / name).write_text("")
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert {path.suffix for path in runs.iterdir()} == {".json"}
    assert {path.name for path in runs.iterdir() if path.name.startswith(".")} == set()
    assert {name: (runs / name).stat().st_mtime_ns for name in kept} == kept
    again = manifest.load(out / "hardware.json", "hardware")
    assert (again["simulated"], again["streams"]) == (result["simulated"], result["streams"])
    assert (out / "fifos.json").read_bytes() == (folder / "fifos.json").read_bytes()
