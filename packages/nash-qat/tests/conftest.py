from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networks
import pytest
import torch

from nash_qat import cli

torch.set_num_threads(1)

TINY_RECIPE: dict[str, Any] = {
    "epochs": 2,
    "float_fraction": 0.5,
    "batch_size": 64,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "step_epochs": None,
    "step_factor": None,
    "weight_decay": 0.0,
    "gradient_clip": 5.0,
    "label_smoothing": 0.0,
    "calibration_pictures": 64,
    "statistics_batches": 2,
    "checkpoint_steps": 5,
    "augmentation": {"default": {"flip": False, "shift": 0.05, "min_area": 1.0}},
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Return a function that runs the command line in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nash-qat", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(TINY_RECIPE), "utf-8")
    return path


@pytest.fixture
def nash_path(tmp_path: Path) -> Path:
    return networks.written(networks.NASH, tmp_path)
