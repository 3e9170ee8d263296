from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import ACCURACY, write_hardware, write_model

from nash_bench import cli


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
    """Folders as a demo leaves them: a baseline and a NASH network at two bit widths, built for one board."""
    root = tmp_path / "runs"
    accuracies = {(None, "w2a2"): 88.0, ("v3", "w2a2"): 90.0, (None, "w4a4"): 94.0, ("v3", "w4a4"): 95.5}
    for seed, ((variant, preset), top1) in enumerate(accuracies.items()):
        name = "-".join(filter(None, ("resnet18", variant, preset)))
        model = write_model(
            root / name / "qat",
            name=name,
            variant=variant,
            preset=preset,
            seed=seed,
            accuracy=ACCURACY | {"top1": top1},
            has_files=False,
        )
        luts = int(preset[1]) * 10_000 + (1_500 if variant else 0)
        write_hardware(root / name / "hw", model, resources={"LUT": luts, "DSP": None if variant else 8})
    return root
