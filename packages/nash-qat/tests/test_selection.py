from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from test_train import Setup

from nash_qat.base import manifest
from nash_qat.base.errors import IntegrityError, UsageError
from nash_qat.data import splits
from nash_qat.data.datasets import Split
from nash_qat.export import evaluate
from nash_qat.network import calibrate, weights
from nash_qat.network.network import Network
from nash_qat.train import checkpoint, runs, selection
from nash_qat.train import trainer as train


def _with_validation(folder: Path, **changes: Any) -> Setup:
    setup = Setup(folder, **changes)
    left, held = splits.hold_out(setup.inputs.train, 0.2)
    setup.inputs = train.Inputs(train=left, validation=held, test=setup.inputs.test)
    return setup


def _pretend(monkeypatch: pytest.MonkeyPatch, **accuracies: list[float]) -> list[str]:
    """Let the epochs of a run have these accuracies on "validation" and "test"; return what is asked for."""
    asked: list[str] = []
    left = {name: iter(values) for name, values in accuracies.items()}

    def top1(_network: torch.nn.Module, split: Split, *_: object) -> float:
        name = "validation" if "held out" in split.name else "test"
        asked.append(name)
        return next(left[name])

    monkeypatch.setattr(train, "top1", top1)
    return asked


def _run(setup: Setup, out: Path) -> train.Trainer:
    trainer = setup.trainer(out)
    trainer.start(setup.path)
    trainer.train()
    return trainer


def test_best_epoch_is_that_of_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = _with_validation(tmp_path, epochs=4, float_fraction=0.25)
    asked = _pretend(monkeypatch, validation=[99.0, 10.0, 30.0, 20.0], test=[99.0, 80.0, 10.0, 20.0])
    trainer = _run(setup, tmp_path / "run")
    assert asked == ["validation"] * 4  # the float epoch, then the quantized ones
    model = trainer.finish()
    assert model["training"]["selection"] == {"rule": "last", "split": None, "epoch": 4, "top1": None}
    best = runs.export_run(tmp_path / "run", tmp_path / "best", best=True)
    assert best["training"]["selection"] == {"rule": "best", "split": "validation", "epoch": 3, "top1": 30.0}
    assert best["onnx"]["sha256"] != model["onnx"]["sha256"]
    found = {"split": "validation", "epoch": 3, "top1": 30.0, "test_top1": best["accuracy"]["top1"]}
    assert (model["training"]["best"], best["training"]["best"]) == (found, found)
    manifest.save(tmp_path / "best" / "model.json", best, "model")
    _, again = evaluate.evaluate(tmp_path / "best" / "model.json", dataset="digits", data_dir=None)
    assert best["accuracy"] == {**again.to_dict(), "float_top1": model["accuracy"]["float_top1"]}
    assert best["accuracy"]["split"] == "test"


def test_best_of_a_run_without_validation_is_of_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tmp_path, epochs=3, float_fraction=0.0)
    _pretend(monkeypatch, test=[10.0, 30.0, 20.0])
    trainer = _run(setup, tmp_path / "run")
    best = runs.export_run(tmp_path / "run", tmp_path / "best", best=True)
    assert best["accuracy"] is None  # not measured before the run has ended
    assert best["training"]["selection"] == {"rule": "best", "split": "test", "epoch": 2, "top1": 30.0}
    assert trainer.finish()["training"]["data"]["validation"] is None


def test_best_has_the_statistics_of_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = _with_validation(tmp_path, epochs=3, float_fraction=0.0)
    _pretend(monkeypatch, validation=[10.0, 20.0, 30.0])
    trainer = _run(setup, tmp_path / "run")
    last = runs.export_run(tmp_path / "run", tmp_path / "last")
    best = runs.export_run(tmp_path / "run", tmp_path / "best", best=True)
    assert best["onnx"]["sha256"] == last["onnx"]["sha256"]
    model = trainer.finish()
    again = runs.export_run(tmp_path / "run", tmp_path / "again", best=True)
    assert again["accuracy"] == model["accuracy"]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_statistics_of_an_earlier_best_are_measured_with_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema_decay: float | None
) -> None:
    setup = _with_validation(tmp_path, epochs=2, float_fraction=0.0, ema_decay=ema_decay)
    _pretend(monkeypatch, validation=[20.0, 10.0])
    trainer = _run(setup, tmp_path / "run")
    network = Network(setup.genotype, setup.settings.quantization)
    selection.load_best(tmp_path / "run" / runs.BEST, network)
    network.to(memory_format=torch.channels_last)  # as it was measured: another layout's noise may flip a value
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pictures = trainer._training_pictures(setup.settings.recipe.statistics_batches * 64)
    calibrate.estimate_statistics(network, pictures.split(64))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-4, atol=1e-5, msg=name)
    last = trainer.network.state_dict()
    assert not torch.equal(before["stem.bn.running_mean"], last["stem.bn.running_mean"])


def test_watching_changes_nothing_that_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = _with_validation(tmp_path, epochs=2, float_fraction=0.0)
    _run(setup, tmp_path / "run")
    watched = load_file(str(tmp_path / "run" / runs.CHECKPOINT))
    _pretend(monkeypatch, validation=[0.0, 0.0])
    monkeypatch.setattr(train.Trainer, "_keep_best", lambda *_: None)
    _run(setup, tmp_path / "other")
    other = load_file(str(tmp_path / "other" / runs.CHECKPOINT))
    assert watched.keys() == other.keys()
    assert [name for name in watched if not torch.equal(watched[name], other[name])] == []


class _Counted:
    """Pictures that count how often they are read."""

    def __init__(self, images: Any) -> None:
        self.images, self.num_read = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.num_read += len(indices)
        return self.images[indices]


def test_test_split_is_read_at_the_end_alone(tmp_path: Path) -> None:
    setup = _with_validation(tmp_path)
    counted = _Counted(setup.inputs.test.images)
    setup.inputs = dataclasses.replace(setup.inputs, test=dataclasses.replace(setup.inputs.test, images=counted))
    trainer = setup.trainer(tmp_path / "run")
    assert counted.num_read == 360  # for the digest
    trainer.start(setup.path)
    trainer.train()
    assert counted.num_read == 360
    trainer.finish()
    assert counted.num_read == 3 * 360  # the exported network, which is the best one, and the float one
    again = setup.trainer(tmp_path / "run")
    again.resume()
    again.finish()
    assert counted.num_read == 4 * 360  # the digest again, no accuracy


def test_data_is_recorded_and_may_not_change(tmp_path: Path) -> None:
    setup = _with_validation(tmp_path, epochs=1)
    model = _run(setup, tmp_path / "run").finish()
    manifest.save(tmp_path / "run" / "model.json", model, "model")
    data = manifest.load(tmp_path / "run" / "model.json", "model")["training"]["data"]
    counts = {name: split["count"] for name, split in data.items()}
    assert counts == {name: len(getattr(setup.inputs, name)) for name in ("train", "validation", "test")}
    assert len({split["digest"] for split in data.values()}) == 3
    labels = setup.inputs.train.labels.copy()
    labels[0] = (labels[0] + 1) % 10
    setup.inputs = dataclasses.replace(setup.inputs, train=dataclasses.replace(setup.inputs.train, labels=labels))
    with pytest.raises(UsageError, match=r"data\.train\.digest: got '\w+', expected '\w+' as the run has"):
        setup.trainer(tmp_path / "run").resume()


def test_best_file_says_itself_which_epoch_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = _with_validation(tmp_path, epochs=2, float_fraction=0.0)
    _pretend(monkeypatch, validation=[10.0, 20.0])
    trainer = setup.trainer(tmp_path / "run")
    trainer.start(setup.path)
    save, num_saves = checkpoint.save, 0

    def killed(*arguments: Any, **options: Any) -> None:
        nonlocal num_saves
        if trainer.state.epoch == 2:
            raise KeyboardInterrupt  # behind best.safetensors, before the checkpoint
        num_saves += 1
        save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monkeypatch.setattr(checkpoint, "save", save)
    assert num_saves > 1
    saved = checkpoint.load(tmp_path / "run" / runs.CHECKPOINT).state["run"]
    assert saved["best_epoch"] == 1
    network = Network(setup.genotype, setup.settings.quantization)
    found = selection.load_best(tmp_path / "run" / runs.BEST, network)
    assert (found.epoch, found.top1) == (2, 20.0)


def test_best_without_a_word_about_its_choice_is_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    network = Network(setup.genotype, setup.settings.quantization)
    with pytest.raises(UsageError, match="no whole quantized epoch; leave out --best"):
        selection.load_best(tmp_path / "best.safetensors", network)
    weights.write(tmp_path / "best.safetensors", network)
    with pytest.raises(IntegrityError, match="does not say how it was chosen"):
        selection.load_best(tmp_path / "best.safetensors", network)


def test_history_names_the_split(tmp_path: Path) -> None:
    setup = _with_validation(tmp_path, epochs=2)
    trainer = _run(setup, tmp_path / "run")
    history = [json.loads(line) for line in (tmp_path / "run" / runs.HISTORY).read_text().splitlines()]
    assert [entry["split"] for entry in history] == ["validation", "validation"]
    network = trainer.network  # the last epoch's, with the statistics of an export
    assert history[-1]["top1"] == selection.top1(network, setup.inputs.watched[1])


def test_golden_samples_are_not_of_the_test_split(tmp_path: Path) -> None:
    setup = _with_validation(tmp_path)
    trainer = setup.trainer(tmp_path / "run")
    held = setup.inputs.watched[1].images
    assert torch.equal(trainer._golden[0], torch.from_numpy(held[np.array([0])])[0])
    assert len(trainer._golden) == 32
