"""What is kept of a stopped build, and what going on makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_build import build

from nash_hw.base import manifest
from nash_hw.base.errors import CapacityError, IntegrityError, Interrupted, UsageError

_STEPS = (
    *("streamline", "verify streamlined", "lower", "verify lowered", "hardware layers", "verify hardware"),
    *("specialize", "fold", "verify folded"),
)


def stop_before(monkeypatch, name: str) -> None:
    """Let SIGINT come when a step begins."""
    from nash_hw.build.flow import Flow

    run = Flow.run

    def stopped(self, step, state):
        if step == name:
            raise Interrupted("stopped by SIGINT")
        return run(self, step, state)

    monkeypatch.setattr(Flow, "run", stopped)


def without_times(result: dict) -> dict:
    return result | {"steps": [step["name"] for step in result["steps"]]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".json"}


@pytest.mark.parametrize("step", _STEPS[1:])
def test_resumed_build_is_the_same(model_json, tmp_path, monkeypatch, capfd, step):
    whole = build(model_json, tmp_path / "whole", target_fps=5000)
    with monkeypatch.context() as patch:
        stop_before(patch, step)
        with pytest.raises(Interrupted):
            build(model_json, tmp_path / "hw", target_fps=5000)
    assert os.listdir(tmp_path / "hw") == [".steps"]
    capfd.readouterr()
    resumed = build(model_json, tmp_path / "hw", target_fps=5000, resume=True, quiet=False)
    told = capfd.readouterr().err
    done = _STEPS[: _STEPS.index(step)]
    assert [f"{name}: kept" in told for name in _STEPS] == [name in done for name in _STEPS]
    assert without_times(resumed) == without_times(whole)
    assert contents(tmp_path / "hw") == contents(tmp_path / "whole")
    assert os.listdir(tmp_path / "hw" / ".steps") == ["state.json"]


def test_without_resume_it_starts_anew(model_json, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        stop_before(patch, "fold")
        with pytest.raises(Interrupted):
            build(model_json, tmp_path / "hw", target_fps=5000)
    build(model_json, tmp_path / "hw", target_fps=5000, quiet=False)
    assert "kept" not in capfd.readouterr().err


def test_finished_build_goes_on_to_the_next_stage(model_json, tmp_path, capfd):
    first = build(model_json, tmp_path / "hw", target_fps=5000)
    second = build(model_json, tmp_path / "hw", target_fps=5000, resume=True, until="hdl", quiet=False)
    assert all(f"{name}: kept" in capfd.readouterr().err for name in _STEPS[:1])
    assert second["estimated"] == first["estimated"]
    assert second["hdl"]["rtl"]
    assert contents(tmp_path / "hw")["dataflow.svg"]


def test_nothing_to_resume_is_a_new_build(model_json, tmp_path):
    assert build(model_json, tmp_path / "hw", target_fps=5000, resume=True)["estimated"]["throughput_fps"] >= 5000


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"target_fps": 4000}, "target_fps 5000, got 4000"),
        ({"board": "U250"}, "board"),
        ({"clock_mhz": 150.0}, r"clock_mhz 100\.0, got 150"),
        ({"target_fps": None, "max_utilization": 0.5}, "max_utilization null, got 0.5"),
    ],
)
def test_checkpoint_of_another_build_is_refused_by_name(model_json, tmp_path, changes, name):
    build(model_json, tmp_path / "hw", target_fps=5000)
    before = contents(tmp_path / "hw")
    with pytest.raises(UsageError, match=f"--resume: .*{name}.*without --resume"):
        build(model_json, tmp_path / "hw", **({"target_fps": 5000} | changes), resume=True)
    assert contents(tmp_path / "hw") == before
    build(model_json, tmp_path / "hw", target_fps=5000, resume=True)  # it is still there


def test_checkpoint_of_another_model_is_refused(model_json, tmp_path):
    build(model_json, tmp_path / "hw", target_fps=5000)
    model_json.write_text(model_json.read_text() + " ")
    with pytest.raises(UsageError, match=r"--resume: .*made with model"):
        build(model_json, tmp_path / "hw", target_fps=5000, resume=True)


@pytest.mark.parametrize("damage", ["state.json", "dataflow.onnx"])
def test_damaged_checkpoint_is_4(model_json, tmp_path, damage):
    build(model_json, tmp_path / "hw", target_fps=5000)
    path = next((tmp_path / "hw").rglob(damage))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(IntegrityError, match=f"{damage}.*without --resume"):
        build(model_json, tmp_path / "hw", target_fps=5000, resume=True)


def test_failed_build_leaves_no_checkpoint(model_json, tmp_path):
    (tmp_path / "hw").mkdir()
    with pytest.raises(CapacityError):
        build(model_json, tmp_path / "hw", target_fps=1e9)
    assert os.listdir(tmp_path / "hw") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_build_leaves_a_valid_folder(model_json, tmp_path, number):
    """Kill a build over a finished one as soon as it has kept a step, then go on."""
    out = tmp_path / "hw"
    first = build(model_json, out, target_fps=5000)
    options = ("--board", "ZCU104", "--clock-mhz", "100", "--target-fps", "6000", "--out", str(out))
    command = [sys.executable, "-c", "from nash_hw.cli import main; main()", "build", str(model_json), *options]
    state = (out / ".steps" / "state.json").stat().st_ino
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and (out / ".steps" / "state.json").stat().st_ino == state:
            pass
        run.send_signal(number)
        run.communicate()
        assert run.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    assert manifest.load(out / "hardware.json", "hardware") == first
    for artifact in first["artifacts"]:
        manifest.resolve(out / "hardware.json", artifact["path"], artifact["sha256"])
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=True)
    assert "streamline: kept" in done.stderr
    assert json.loads(done.stdout)["estimated"]["throughput_fps"] >= 6000
    assert os.listdir(out / ".steps") == ["state.json"]
