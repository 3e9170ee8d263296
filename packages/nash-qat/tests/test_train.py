from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE
from safetensors.torch import load_file

from nash_qat import checkpoint, evaluate, interrupt, manifest, presets, recipe, runs, train
from nash_qat.errors import DivergedError, IntegrityError, Interrupted, OutputError, UsageError
from nash_qat.genotype import Genotype


class Setup:
    """A small run on digits at their own size."""

    def __init__(self, folder: Path, tree: dict[str, Any] = networks.NASH, **changes: Any) -> None:
        self.path = networks.written(tree, folder)
        self.genotype: Genotype = networks.parsed(tree)
        seed = changes.pop("seed", 0)
        plan = recipe.parse({**TINY_RECIPE, **changes}, where="test")
        self.settings = runs.Settings(
            genotype_sha256=manifest.file_sha256(self.path),
            quantization=presets.preset("w4a4"),
            dataset="digits",
            recipe_name="test",
            recipe=plan,
            epochs=plan.epochs,
            seed=seed,
        )
        train_split, test_split = (
            evaluate.load_split("digits", name, self.genotype.input_shape, 10, None) for name in ("train", "test")
        )
        few = np.arange(0, len(train_split), 2)
        small = dataclasses.replace(train_split, images=train_split.images[few], labels=train_split.labels[few])
        self.splits = train.Splits(train=small, test=test_split)

    def trainer(self, out: Path) -> train.Trainer:
        return train.Trainer(self.genotype, self.settings, self.splits, out)

    def run(self, out: Path) -> train.Trainer:
        trainer = self.trainer(out)
        trainer.start(self.path)
        trainer.train()
        return trainer


def _tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(str(out / runs.CHECKPOINT))


def _history(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / runs.HISTORY).read_text().splitlines()]


def test_training_learns_and_exports(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=4)
    trainer = setup.run(tmp_path / "run")
    history = _history(tmp_path / "run")
    assert [entry["phase"] for entry in history] == ["float", "float", "quantized", "quantized"]
    assert history[-1]["loss"] < history[0]["loss"]
    model = trainer.finish()
    manifest.save(tmp_path / "run" / "model.json", model, "model")
    assert model["accuracy"]["top1"] > 40
    assert model["accuracy"]["float_top1"] == history[1]["top1"]
    assert model["training"]["epochs"] == 4
    assert model["class_names"] == list("0123456789")
    again, accuracy = evaluate.evaluate(tmp_path / "run" / "model.json", dataset="digits", data_dir=None)
    assert again == model["name"]
    assert accuracy.top1 == model["accuracy"]["top1"]
    assert abs(accuracy.top1 - train.top1(trainer.network, setup.splits.test)) < 1.0


@pytest.mark.parametrize("stop_after", [1, 5, 12, 13, 23])  # mid-epoch, at a checkpoint, at the end of an epoch ...
def test_resumed_run_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, whole_run: Path
) -> None:
    setup = Setup(tmp_path)
    trainer, steps = setup.trainer(tmp_path / "run"), 0
    trainer.start(setup.path)
    original = interrupt.StopRequest

    class StopsLater(original):
        @property
        def signal_name(self) -> str | None:  # type: ignore[override]
            return "SIGTERM" if steps >= stop_after else None

        @signal_name.setter
        def signal_name(self, value: str | None) -> None:
            pass

    take_step = trainer._train_step

    def counted(*arguments: Any) -> float:
        nonlocal steps
        steps += 1
        return take_step(*arguments)

    monkeypatch.setattr(trainer, "_train_step", counted)
    monkeypatch.setattr(interrupt, "StopRequest", StopsLater)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM.*--resume"):
        trainer.train()
    assert steps == stop_after
    monkeypatch.setattr(interrupt, "StopRequest", original)

    resumed = Setup(tmp_path).trainer(tmp_path / "run")
    torch.manual_seed(99)  # nothing may depend on the global generator
    resumed.resume()
    resumed.train()
    expected, got = _tensors(whole_run), _tensors(tmp_path / "run")
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert _history(whole_run) == _history(tmp_path / "run")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Setup(folder).run(folder / "run")
    return folder / "run"


def test_run_depends_on_the_seed(tmp_path: Path, whole_run: Path) -> None:
    Setup(tmp_path, seed=1).run(tmp_path / "run")
    assert _history(tmp_path / "run") != _history(whole_run)


def test_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=1)
    first = setup.run(tmp_path / "run").finish()
    trainer = setup.trainer(tmp_path / "run")
    trainer.resume()
    trainer.train()
    again = trainer.finish()
    assert again["onnx"]["sha256"] == first["onnx"]["sha256"]
    assert again["accuracy"] == first["accuracy"]


def test_resume_refuses_other_settings(tmp_path: Path, whole_run: Path) -> None:
    other = Setup(tmp_path, seed=7, learning_rate=0.5).trainer(whole_run)
    with pytest.raises(UsageError) as caught:
        other.resume()
    message = str(caught.value)
    assert "seed: got 7, expected 0 as the run has" in message
    assert "recipe.learning_rate: got 0.5, expected 0.01 as the run has" in message


def test_folder_with_a_run_is_not_overwritten(tmp_path: Path, whole_run: Path) -> None:
    setup = Setup(tmp_path)
    with pytest.raises(OutputError, match="already holds a training run; pass --resume"):
        setup.trainer(whole_run).start(setup.path)


def test_infinite_loss_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    setup = Setup(tmp_path, learning_rate=1e30, gradient_clip=None, float_fraction=0.0)
    trainer = setup.trainer(tmp_path / "run")
    trainer.start(setup.path)
    with pytest.raises(DivergedError, match=r"loss: got (nan|inf) in epoch 1, step \d+"):
        trainer.train()
    assert all(
        torch.isfinite(tensor).all() for tensor in _tensors(tmp_path / "run").values() if tensor.is_floating_point()
    )


def test_schedules_follow_the_phases(tmp_path: Path) -> None:
    cosine = Setup(tmp_path, epochs=4).trainer(tmp_path / "a")
    rates = []
    for epoch in range(4):
        cosine.state.epoch, cosine.state.is_calibrated = epoch, epoch >= 2
        rates.append(cosine._learning_rate())
    assert rates == pytest.approx([0.01, 0.005, 0.01, 0.005])
    steps = {"schedule": "step", "step_epochs": 2, "step_factor": 0.1, "float_fraction": 0.0, "epochs": 6}
    step = Setup(tmp_path, **steps).trainer(tmp_path / "b")
    rates = []
    for epoch in range(6):
        step.state.epoch, step.state.is_calibrated = epoch, True
        rates.append(step._learning_rate())
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])


def test_checkpoint_survives_a_round_trip_and_notices_damage(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    tensors = {"x": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "n": torch.tensor(3)}
    checkpoint.save(path, parts={"network": tensors}, state={"a": [1, 0.1]})
    loaded = checkpoint.load(path)
    assert loaded.state == {"a": [1, 0.1]}
    assert all(torch.equal(loaded.part("network")[name], tensor) for name, tensor in tensors.items())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="damaged checkpoint"):
        checkpoint.load(path)
    with pytest.raises(IntegrityError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none")


def test_float_run_cannot_be_exported_yet(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.trainer(tmp_path / "run").start(setup.path)
    with pytest.raises(UsageError, match="before its first quantized step"):
        runs.export_run(tmp_path / "run", tmp_path / "out")


def test_run_with_another_genotype_is_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path, float_fraction=0.0)
    trainer = setup.trainer(tmp_path / "run")
    trainer.start(setup.path)
    trainer._begin_quantized()
    trainer._save()
    (tmp_path / "run" / runs.GENOTYPE).write_text(json.dumps(networks.BASELINE))
    with pytest.raises(IntegrityError, match="is not the genotype that was trained"):
        runs.export_run(tmp_path / "run", tmp_path / "out")


def test_last_batch_of_one_is_left_out() -> None:
    assert train._batch_starts(129, 64) == [0, 64]
    assert train._batch_starts(130, 64) == [0, 64, 128]
    assert train._batch_starts(10, 64) == [0]
