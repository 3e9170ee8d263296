from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

from nash_qat.train import board


def test_resumed_history_overwrites_later_epochs(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("TensorBoard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = [
        {"epoch": epoch, "phase": "float", "loss": 1 / epoch, "top1": 10.0 * epoch, "learning_rate": 0.1}
        for epoch in (1, 2, 3)
    ]
    for epoch in (1, 2, 3, 2):  # killed after the third epoch, resumed from the first
        board.write(tmp_path, history[:epoch])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("float/top1")] == [(1, 10.0), (2, 20.0)]
    assert set(events.Tags()["scalars"]) == {"float/loss", "float/top1", "float/learning_rate"}


def test_missing_tensorboard_is_named(
    run: Callable[..., Outcome], nash_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    refused = run("train", nash_path, "--tensorboard", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "pip install 'nash-qat[tensorboard]'" in refused.err
    assert not (tmp_path / "run").exists()
