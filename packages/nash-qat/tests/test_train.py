from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE
from safetensors.torch import load_file

from nash_qat import recipe
from nash_qat.base import interrupt, manifest
from nash_qat.base.errors import DivergedError, IntegrityError, Interrupted, OutputError, UsageError
from nash_qat.data import pictures
from nash_qat.export import evaluate
from nash_qat.network import weights
from nash_qat.network.genotype import Genotype
from nash_qat.quant import presets
from nash_qat.train import board, checkpoint, runs, selection
from nash_qat.train import trainer as train
from nash_qat.train.watch import Watch


class Setup:
    """A small run on digits at their own size."""

    def __init__(self, folder: Path, tree: dict[str, Any] = networks.NASH, **changes: Any) -> None:
        self.path = networks.written(tree, folder)
        self.genotype: Genotype = networks.parsed(tree)
        own = {key: value for key, value in changes.items() if key not in ("seed", "join")}
        plan = recipe.parse({**TINY_RECIPE, **own}, where="test")
        self.settings = runs.Settings(
            genotype_sha256=manifest.file_sha256(self.path),
            quantization=dataclasses.replace(presets.preset("w4a4"), join=changes.get("join", "quantized")),
            dataset="digits",
            recipe_name="test",
            recipe=plan,
            epochs=plan.epochs,
            float_epochs=plan.num_float_epochs(plan.epochs),
            seed=changes.get("seed", 0),
        )
        train_split, test_split = (
            pictures.load("digits", name, self.genotype.input_shape, 10, None) for name in ("train", "test")
        )
        few = np.arange(0, len(train_split), 2)
        small = dataclasses.replace(train_split, images=train_split.images[few], labels=train_split.labels[few])
        self.inputs = train.Inputs(train=small, test=test_split)

    def trainer(self, out: Path) -> train.Trainer:
        return train.Trainer(self.genotype, self.settings, self.inputs, out)

    def run(self, out: Path) -> train.Trainer:
        trainer = self.trainer(out)
        trainer.start(self.path)
        trainer.train()
        return trainer


def _tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(str(out / runs.CHECKPOINT))


def _history(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / runs.HISTORY).read_text().splitlines()]


@pytest.mark.parametrize("join", ["quantized", "fused"])
def test_training_learns_and_exports(join: str, tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=4, join=join)
    trainer = setup.run(tmp_path / "run")
    history = _history(tmp_path / "run")
    assert [entry["phase"] for entry in history] == ["float", "float", "quantized", "quantized"]
    assert history[-1]["loss"] < history[0]["loss"]
    model = trainer.finish()
    manifest.save(tmp_path / "run" / "model.json", model, "model")
    assert model["accuracy"]["top1"] > 40
    assert {entry["split"] for entry in history} == {"test"}  # these inputs have no validation split
    assert model["accuracy"]["float_top1"] == history[1]["top1"]
    assert model["training"]["epochs"] == 4
    assert model["class_names"] == list("0123456789")
    again, accuracy = evaluate.evaluate(tmp_path / "run" / "model.json", dataset="digits", data_dir=None)
    assert again == model["name"]
    assert accuracy.top1 == model["accuracy"]["top1"]
    assert abs(accuracy.top1 - selection.top1(trainer.network, setup.inputs.test)) < 1.0


EVERYTHING: dict[str, Any] = {
    "optimizer": "sgd",
    "schedule": "one_cycle",
    "warmup_epochs": 0.5,
    "fine_tuning_factor": 0.5,
    "accumulation": 2,
    "weight_decay": 0.01,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    "mixup": 0.3,
    "cutmix": 1.0,
    "distill_weight": 0.4,
    "augmentation": {"default": {"flip": True, "min_area": 0.5, "rand_ops": 1}},
    "join": "aligned",
}


@pytest.mark.parametrize("stop_after", [1, 5, 12, 13, 23])  # mid-epoch, at a checkpoint, at the end of an epoch ...
def test_resumed_run_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, whole_run: Path
) -> None:
    _assert_resumes_to(whole_run, tmp_path, monkeypatch, stop_after, {})


@pytest.mark.parametrize("stop_after", [4, 17])  # in the float epoch, in the quantized one
def test_resumed_run_with_every_feature_is_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, run_with_everything: Path
) -> None:
    _assert_resumes_to(run_with_everything, tmp_path, monkeypatch, stop_after, EVERYTHING)


def _assert_resumes_to(
    whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int, changes: dict[str, Any]
) -> None:
    setup = Setup(tmp_path, **changes)
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

    def counted(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        take_step(*arguments)

    monkeypatch.setattr(trainer, "_train_step", counted)
    monkeypatch.setattr(interrupt, "StopRequest", StopsLater)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM.*--resume"):
        trainer.train()
    assert steps == stop_after
    monkeypatch.setattr(interrupt, "StopRequest", original)

    resumed = Setup(tmp_path, **changes).trainer(tmp_path / "run")
    torch.manual_seed(99)  # nothing may depend on the global generator
    resumed.resume()
    resumed.train()
    _assert_same_run(whole_run, tmp_path / "run")


def _assert_same_run(whole: Path, other: Path) -> None:
    expected, got = _tensors(whole), _tensors(other)
    assert expected.keys() == got.keys()
    assert [name for name in expected if not torch.equal(expected[name], got[name])] == []
    assert _history(whole) == _history(other)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Setup(folder).run(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run_with_everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("torchvision") is None:
        EVERYTHING["augmentation"]["default"].pop("rand_ops")
    folder = tmp_path_factory.mktemp("everything")
    Setup(folder, **EVERYTHING).run(folder / "run")
    return folder / "run"


def test_every_feature_is_at_work(run_with_everything: Path) -> None:
    parts = {name.partition("/")[0] for name in _tensors(run_with_everything)}
    assert parts == {"network", "optimizer", "golden", "average", "teacher"}
    tensors = _tensors(run_with_everything)
    name = "cells.1.layers.0.main.conv.weight"
    teacher, average, network = (tensors[f"{part}/{name}"] for part in ("teacher", "average", "network"))
    assert torch.equal(network, average)
    assert not torch.equal(teacher, average)
    assert any("momentum_buffer" in name for name in tensors)
    rates = [entry["learning_rate"] for entry in _history(run_with_everything)]
    assert rates[1] == pytest.approx(rates[0] / 2)
    float_weights = load_file(str(run_with_everything / runs.FLOAT))
    assert torch.equal(float_weights[name], teacher)


def test_quantized_weights_decay_by_their_bits(tmp_path: Path) -> None:
    setup = Setup(tmp_path, weight_decay=0.1, weight_decay_by_bits={"4": 0.02, "2": 0.01})
    trainer = setup.trainer(tmp_path / "run")
    trainer.start(setup.path)
    assert [group["weight_decay"] for group in trainer._optimizer.param_groups] == [0.1, 0.0]
    trainer._begin_quantized()
    assert [group["weight_decay"] for group in trainer._optimizer.param_groups] == [0.02, 0.0]


def test_batch_in_parts_takes_less_at_a_time(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=1, float_fraction=0.0, accumulation=4)
    trainer, sizes = setup.trainer(tmp_path / "run"), []
    trainer.start(setup.path)
    trainer._begin_quantized()
    hook = trainer.network.register_forward_pre_hook(
        lambda network, inputs: sizes.append(len(inputs[0])) if network.training else None
    )
    trainer.train()
    hook.remove()
    training = sizes[: 4 * len(trainer._starts)]
    assert max(training) == 16
    assert sum(training) == len(setup.inputs.train)
    assert trainer._optimizer.state[trainer.network.classifier.weight]["step"] == len(trainer._starts)
    assert _history(tmp_path / "run")[0]["loss"] < 2.3


def test_bfloat16_is_for_training_alone(tmp_path: Path) -> None:
    setup = Setup(tmp_path, epochs=2, precision="bfloat16")
    trainer, kinds = setup.trainer(tmp_path / "run"), {True: set(), False: set()}
    trainer.start(setup.path)
    for layer in (trainer.network.stem.conv, trainer.network.classifier):
        layer.register_forward_hook(lambda _layer, _x, y: kinds[trainer.network.training].add(y.dtype))
    trainer._measure_statistics()  # keeps float32, though in training mode
    assert kinds[True] == {torch.float32}
    kinds[True].clear()
    trainer.train()
    assert torch.bfloat16 in kinds[True]
    assert kinds[False] == {torch.float32}
    history = _history(tmp_path / "run")
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(tensor.dtype != torch.bfloat16 for tensor in _tensors(tmp_path / "run").values())


def test_full_disk_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tmp_path)
    trainer = setup.trainer(tmp_path / "run")
    trainer.start(setup.path)
    before = (tmp_path / "run" / runs.CHECKPOINT).read_bytes()
    write_bytes = Path.write_bytes

    def fill_disk(path: Path, data: bytes) -> int:
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OutputError, match=r"checkpoint\.safetensors: cannot be written \(No space left on device\)"):
        trainer.train()
    monkeypatch.undo()
    assert (tmp_path / "run" / runs.CHECKPOINT).read_bytes() == before
    assert [entry.name for entry in (tmp_path / "run").iterdir() if entry.name.startswith(".")] == []
    again = setup.trainer(tmp_path / "run")
    again.resume()
    assert (again.state.epoch, again.state.step) == (0, 0)


def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, whole_run: Path) -> None:
    setup, random = Setup(tmp_path, checkpoint_steps=1), np.random.default_rng(0)
    folder = tmp_path / "run"
    setup.trainer(folder).start(setup.path)
    num_kills = 0
    while num_kills < 10:
        process = os.fork()
        if process == 0:
            _resume_in_child(setup, folder)
        _wait_for_progress(folder, process, num_saves=int(random.integers(0, 2)))
        time.sleep(random.uniform(0, 0.04))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        num_kills += 1
    assert num_kills >= 1, "the machine is so fast that the run ended before it was killed"
    (folder / ".checkpoint.safetensors.writing-killed.safetensors").write_bytes(b"half")
    last = setup.trainer(folder)
    last.resume()
    last.train()
    assert [entry.name for entry in folder.iterdir() if entry.name.startswith(".")] == []
    _assert_same_run(whole_run, folder)


def _resume_in_child(setup: Setup, folder: Path) -> None:
    """Go on with a run and leave the process."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        trainer = setup.trainer(folder)
        trainer.resume()
        trainer.train()
        code = 0
    finally:
        os._exit(code)


def _wait_for_progress(folder: Path, process: int, *, num_saves: int) -> None:
    """Wait until a process has saved so often, or has ended."""
    path, seen = folder / runs.CHECKPOINT, set()
    while len(seen) <= num_saves:
        seen.add(path.stat().st_ino)
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


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


def test_gradient_or_weight_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    setup = Setup(tmp_path, gradient_clip=None)
    trainer = setup.trainer(tmp_path / "run")
    trainer.start(setup.path)
    before = (tmp_path / "run" / runs.CHECKPOINT).read_bytes()
    hook = trainer.network.classifier.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(DivergedError, match=r"gradient: got (nan|inf) in epoch 1, step 1"):
        trainer.train()
    hook.remove()
    with torch.no_grad():
        trainer.network.classifier.weight[3, 1] = torch.inf
    with pytest.raises(DivergedError, match="weights: got inf"):
        trainer._save()
    assert (tmp_path / "run" / runs.CHECKPOINT).read_bytes() == before


def test_losses_read_a_few_steps_at_a_time_change_nothing(tmp_path: Path, whole_run: Path) -> None:
    setup = Setup(tmp_path)
    trainer = setup.trainer(tmp_path / "run")
    trainer._watch = Watch(4)  # checkpoints come every 5 steps
    trainer.start(setup.path)
    trainer.train()
    _assert_same_run(whole_run, tmp_path / "run")


def test_step_that_diverged_is_named_and_never_saved_when_losses_are_read_later(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    trainer = setup.trainer(tmp_path / "run")
    trainer._watch, weight, num_steps = Watch(100), trainer.network.classifier.weight, 0
    trainer.start(setup.path)

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal num_steps
        num_steps += 1
        return gradient * torch.inf if num_steps == 8 else gradient

    weight.register_hook(spoiled)
    with pytest.raises(DivergedError, match=r"gradient: got (nan|inf) in epoch 1, step 8, expected"):
        trainer.train()
    assert num_steps == 10  # the next checkpoint was due
    saved = checkpoint.load(tmp_path / "run" / runs.CHECKPOINT)
    assert saved.state["run"]["step"] == 5
    assert all(torch.isfinite(tensor).all() for tensor in saved.part("network").values())


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


@pytest.mark.parametrize(("is_whole", "factor"), [(True, 0.5), (False, 1.0)])
def test_quantized_epochs_from_trained_weights_are_fine_tuning(tmp_path: Path, is_whole: bool, factor: float) -> None:
    setup = Setup(tmp_path, float_fraction=0.0, fine_tuning_factor=0.5)
    new = setup.trainer(tmp_path / "new")
    new.state.is_calibrated = True
    assert new._learning_rate() == 0.01
    state = new.network.state_dict()
    if not is_whole:  # as from a supernet, whose operations are others
        state = {name: tensor for name, tensor in state.items() if ".nas_op." not in name}
    init = weights.Weights(path=tmp_path / "floats", sha256="0" * 64, tensors=state)
    trainer = train.Trainer(setup.genotype, setup.settings, dataclasses.replace(setup.inputs, init=init), tmp_path)
    trainer.state.is_calibrated = True
    assert trainer._learning_rate() == pytest.approx(0.01 * factor)


def test_checkpoint_survives_a_round_trip_and_notices_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    tensors = {"x": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), "n": torch.tensor(3)}
    checkpoint.save(path, parts={"network": tensors}, state={"a": [1, 0.1]})
    loaded = checkpoint.load(path)
    assert loaded.state == {"a": [1, 0.1]}
    assert all(torch.equal(loaded.part("network")[name], tensor) for name, tensor in tensors.items())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="damaged checkpoint"):
        checkpoint.load(path)
    monkeypatch.setattr(checkpoint, "FORMAT", "nash-qat.checkpoint/2")  # watched on the test split, crops of crops
    checkpoint.save(path, parts={"network": tensors}, state={})
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match=r"got format 'nash-qat\.checkpoint/2', expected 'nash-qat\.checkpoint/3'"):
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


def test_history_is_written_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(board, "write", lambda out, history: written.append(len(history)))
    setup = Setup(tmp_path)
    trainer = train.Trainer(setup.genotype, setup.settings, setup.inputs, tmp_path / "run", has_board=True)
    trainer.start(setup.path)
    trainer.train()
    assert written == [1, 2]
