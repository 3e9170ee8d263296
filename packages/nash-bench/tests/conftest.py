from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import write_hardware, write_model, write_runs
from stages import FAKE, GRID

from nash_bench import cli
from nash_bench.base import manifest
from nash_bench.measure.evaluate import evaluate
from nash_bench.report.files import write_report


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the command line in this process, errors and exit codes included."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    show_warning = warnings.showwarning

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nash-bench", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            exit_code = 0
        except SystemExit as leaving:
            exit_code = leaving.code or 0
        finally:
            warnings.showwarning = show_warning
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Outcome(exit_code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A w4a4 baseline of digits with its files; tests that change it make their own."""
    return write_model(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Folders as a demo leaves them, to be changed by the test."""
    return write_runs(tmp_path / "runs")


@pytest.fixture(scope="session")
def shared_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of such folders, to be read only."""
    place = tmp_path_factory.mktemp("report")
    write_report([write_runs(place / "runs")], place / "out")
    return place / "out"


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory, shared_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    shutil.copy(shared_model, folder / "model.json")
    write_hardware(folder, write_model(folder / "other", has_files=False), resources={"FF": 50_000})
    manifest.save(folder / "benchmark.json", evaluate(shared_model, dataset="digits", num_repeats=1), "benchmark")
    return folder


@pytest.fixture
def stages(tmp_path: Path, templates: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins in the place of the four commands; return the folder that steers and lists them."""
    folder = tmp_path / "stages"
    shutil.copytree(templates, folder)
    monkeypatch.setenv("FAKE_FOLDER", str(folder))
    for package in ("search", "qat", "hw", "bench"):
        monkeypatch.setenv(f"NASH_{package.upper()}", shlex.join([sys.executable, "-S", str(FAKE), package]))
    return folder


@pytest.fixture
def grid(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(json.dumps(GRID | changes))  # JSON is YAML
        return path

    return write
