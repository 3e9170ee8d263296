"""What a full disk, a lost folder, a second process and a killed one do to each command that writes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Outcome

from nash_bench.base import lock
from nash_bench.report import files
from nash_bench.sweep import engine

Run = Callable[..., Outcome]
FULL = (0, 300, 3000)  # bytes that the disk takes of each file


@contextmanager
def disk_full_after(num_bytes: int) -> Iterator[None]:
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


def refused(outcome: Outcome) -> str:
    """Return the one line of a command that could not write."""
    assert outcome.exit_code == 10, outcome
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def killed_in(folder: Path) -> None:
    """Let a process be killed that works in a folder."""
    child = os.fork()
    if child == 0:
        with lock.held(folder):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("num_bytes", FULL)
def test_full_disk_leaves_a_report_as_it_was(
    run_cli: Run, run_folder: Path, shared_report: Path, tmp_path: Path, num_bytes: int
) -> None:
    out = tmp_path / "report"
    shutil.copytree(shared_report, out)
    before = tree(out)
    with disk_full_after(num_bytes):
        outcome = run_cli("report", run_folder, "--out", out, "--title", "Another")
    assert "cannot be written (File too large)" in refused(outcome)
    assert tree(out) == before


@pytest.mark.parametrize("num_bytes", FULL[:2])
def test_full_disk_leaves_a_benchmark_as_it_was(
    run_cli: Run, shared_model: Path, tmp_path: Path, num_bytes: int
) -> None:
    for name in ("b.json", "b.outcomes.json"):
        (tmp_path / name).write_text("before")
    before = tree(tmp_path)
    with disk_full_after(num_bytes):
        outcome = run_cli("evaluate", shared_model, "--dataset", "digits", "--repeats", 1, "--out", tmp_path / "b.json")
    assert "cannot be written (File too large); what stood there before is kept" in refused(outcome)
    assert tree(tmp_path) == before


def test_full_disk_leaves_measurements_as_they_were(run_cli: Run, templates: Path, tmp_path: Path) -> None:
    out = tmp_path / "hardware.json"
    out.write_text("before")
    with disk_full_after(300):
        outcome = run_cli("import", templates / "hardware.json", "--power-w", 2, "--out", out)
    refused(outcome)
    assert tree(tmp_path) == {"hardware.json": b"before"}


@pytest.mark.parametrize("command", ["report", "sweep", "explore"])
def test_second_process_in_a_folder_is_refused(
    run_cli: Run, stages: Path, grid: Callable[..., Path], run_folder: Path, tmp_path: Path, command: str
) -> None:
    arguments = {
        "report": ("report", run_folder),
        "sweep": ("sweep", grid()),
        "explore": ("explore", "resnet8", "--board", "U250", "--target-fps", 1000),
    }[command]
    out = tmp_path / "out"
    with lock.held(out):
        line = refused(run_cli(*arguments, "--out", out))
        assert os.listdir(out) == []
    assert f"{out}: " in line
    assert " works in this folder; wait until it is done, or choose another --out" in line
    assert f"process {os.getpid()} (" in line or "another process" in line


def test_killed_process_does_not_block_the_next(run_cli: Run, run_folder: Path, tmp_path: Path) -> None:
    killed_in(tmp_path / "report")
    assert run_cli("report", run_folder, "--out", tmp_path / "report").exit_code == 0


def test_report_whose_folder_is_removed_meanwhile(
    run_cli: Run, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, draw = tmp_path / "report", files.write_plots

    def draw_and_remove(*arguments: object) -> object:
        found = draw(*arguments)
        shutil.rmtree(out)
        return found

    monkeypatch.setattr(files, "write_plots", draw_and_remove)
    assert "was removed while this command worked in it" in refused(run_cli("report", run_folder, "--out", out))
    assert not out.exists()


def test_benchmark_in_a_folder_that_takes_no_files(run_cli: Run, shared_model: Path) -> None:
    out = Path("/proc/nash/b.json")
    outcome = run_cli("evaluate", shared_model, "--dataset", "digits", "--repeats", 1, "--out", out)
    assert "b.outcomes.json: cannot be written (No such file or directory); choose another --out" in refused(outcome)


def test_sweep_whose_engine_finds_the_disk_full_says_so(
    run_cli: Run, stages: Path, grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(command: object, out: Path, *_: object, **__: object) -> int:
        (out / "logs").mkdir()
        (out / engine.ENGINE_LOG).write_text("OSError: [Errno 28] No space left on device\n")
        return 1

    monkeypatch.setattr(engine, "_run_engine", full)
    outcome = run_cli("sweep", grid(), "--out", tmp_path / "out")
    assert "No space left on device" in refused(outcome)
