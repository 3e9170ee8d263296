"""What a full disk, a lost folder, a second process and a killed one do to each command that writes."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from conftest import DATA
from test_cli import run  # noqa: F401 - a fixture
from test_foreign import cnv

from nash_hw.base import lock, manifest
from nash_hw.build.flow import Flow
from nash_hw.graph.model import Model

MODEL = DATA / "every-operation-v3" / "model.json"
BUILD = ("build", MODEL, "--board", "ZCU104", "--clock-mhz", "100")


@contextmanager
def disk_full_after(num_bytes: int):
    """Let every write beyond `num_bytes` of a file fail."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def refused(outcome) -> str:
    """Return the one line of a command that could not write."""
    code, _, err = outcome
    assert code == 10, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A build, to be copied."""
    from test_build import build

    out = tmp_path_factory.mktemp("first") / "hw"
    build(MODEL, out, target_fps=5000)
    return out


@pytest.fixture
def built(first, tmp_path) -> Path:
    shutil.copytree(first, tmp_path / "hw")
    return tmp_path / "hw"


def without_work(folder: Path) -> dict[str, bytes | None]:
    return {name: content for name, content in tree(folder).items() if not name.startswith(".steps")}


@pytest.mark.parametrize("num_bytes", [3000, 30_000])
def test_full_disk_leaves_a_build_as_it_was(run, built, num_bytes):  # noqa: F811
    before = without_work(built)
    with disk_full_after(num_bytes):
        outcome = run(*BUILD, "--target-fps", 6000, "--out", built)
    assert "File too large" in refused(outcome)
    assert without_work(built) == before
    assert os.listdir(built / ".steps") == ["state.json"]  # of the earlier build; this one came to its first step


def test_build_on_a_full_disk_goes_on_when_there_is_room(run, tmp_path, monkeypatch):  # noqa: F811
    out, flow_run = tmp_path / "hw", Flow.run

    def full(self, name, state):
        if name == Flow.NAMES[2]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return flow_run(self, name, state)

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "run", full)
        assert "No space left on device" in refused(run(*BUILD, "--target-fps", 5000, "--out", out))
    assert os.listdir(out) == [".steps"]
    code, _, said = run(*BUILD, "--target-fps", 5000, "--out", out, "--resume")
    assert (code, f"{Flow.NAMES[1]}: kept" in said) == (0, True)


@pytest.mark.parametrize("num_bytes", [1000, 5000])
def test_full_disk_leaves_an_import_as_it_was(run, tmp_path, num_bytes):  # noqa: F811
    onnx.save(cnv(1, 2), str(tmp_path / "cnv.onnx"))
    for name in ("m.json", "m.onnx", "m.npz"):
        (tmp_path / name).write_text("before")
    before = tree(tmp_path)
    with disk_full_after(num_bytes):
        outcome = run("import", tmp_path / "cnv.onnx", "--input-scale", 1 / 255, "--out", tmp_path / "m.json")
    assert "cannot be written (File too large)" in refused(outcome)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("command", ["build", "simulate", "collect"])
def test_second_process_in_a_folder_is_refused(run, built, command):  # noqa: F811
    before = tree(built)
    arguments = {
        "build": (*BUILD, "--target-fps", 5000, "--out", built),
        "simulate": ("simulate", built),
        "collect": ("collect", built),
    }[command]
    with lock.held(built):
        line = refused(run(*arguments))
    assert " works in this folder; wait until it is done, or choose another --out" in line
    assert f"process {os.getpid()} (" in line or "another process" in line
    assert tree(built) == before


def test_build_killed_between_its_files_is_finished_by_the_next_command(run, built, tmp_path):  # noqa: F811
    whole = tmp_path / "whole"
    assert run(*BUILD, "--target-fps", 6000, "--out", whole)[0] == 0
    child = os.fork()
    if child == 0:
        replace = os.replace

        def replace_all_but_one(source, target, **options):
            if Path(target) == built / "hardware.json":
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **options)

        os.replace = replace_all_but_one
        run(*BUILD, "--target-fps", 6000, "--out", built)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with lock.held(built):
        result = manifest.load(built / "hardware.json", "hardware")
    for artifact in result["artifacts"]:
        manifest.resolve(built / "hardware.json", artifact["path"], artifact["sha256"])
    assert result["target"]["target_fps"] == 6000
    for name in ("folding.json", "dataflow.onnx", "layers.csv"):
        assert (built / name).read_bytes() == (whole / name).read_bytes()


def test_build_whose_folder_is_removed_meanwhile(run, tmp_path, monkeypatch):  # noqa: F811
    out, save = tmp_path / "hw", Model.save

    def save_and_remove(self, path):
        save(self, path)
        if Path(path).name == "dataflow.onnx":
            shutil.rmtree(out)

    monkeypatch.setattr(Model, "save", save_and_remove)
    refused(run(*BUILD, "--target-fps", 5000, "--out", out))
    assert not out.exists()
