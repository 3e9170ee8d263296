from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_RECIPE, Outcome

from nash_qat import recipe
from nash_qat.base.errors import ManifestError, UsageError


@pytest.mark.parametrize("name", ["paper", "quick", "cifar", "imagenet", "lsq"])
def test_shipped_recipes_are_valid(name: str) -> None:
    plan = recipe.load(name)
    assert recipe.parse(plan.to_dict(), where=name) == plan
    assert not plan.augmentation_of("digits").flip
    assert plan.augmentation_of("imagefolder").flip


def test_paper_is_the_references() -> None:
    plan = recipe.load("paper")
    assert (plan.epochs, plan.batch_size, plan.learning_rate, plan.weight_decay) == (100, 256, 1e-3, 0.0)
    assert (plan.schedule, plan.step_epochs, plan.step_factor, plan.float_fraction) == ("step", 30, 0.1, 0.0)


def test_lsq_is_the_articles() -> None:
    plan = recipe.load("lsq")
    assert (plan.epochs, plan.optimizer, plan.momentum, plan.schedule) == (90, "sgd", 0.9, "cosine")
    assert (plan.learning_rate, plan.fine_tuning_factor) == (0.01, 1.0)
    assert [plan.weight_decay_at(bits) for bits in (None, 8, 4, 3, 2)] == [1e-4, 1e-4, 1e-4, 5e-5, 2.5e-5]
    assert plan.needs_float_start


def test_imagenet_regularizes_as_the_literature_does() -> None:
    plan = recipe.load("imagenet")
    assert (plan.optimizer, plan.learning_rate, plan.batch_size, plan.weight_decay) == ("sgd", 0.1, 256, 1e-4)
    assert (plan.label_smoothing, plan.mixup, plan.cutmix, plan.distill_weight, plan.ema_decay) == (0, 0, 0, 0, None)
    assert plan.num_float_epochs(plan.epochs) == 90
    assert plan.augmentation_of("imagefolder") == recipe.Augmentation(flip=True, min_area=0.08)


def test_lsq_refuses_random_weights(run: Callable[..., Outcome], nash_path: Path, tmp_path: Path) -> None:
    refused = run("train", nash_path, "--recipe", "lsq", "--out", tmp_path / "run")
    assert refused.code == 2
    assert "pass --init-weights FILE, or --float-epochs N" in refused.err
    assert not (tmp_path / "run").exists()


def test_at_least_one_epoch_is_quantized() -> None:
    plan = recipe.parse({**TINY_RECIPE, "float_fraction": 1.0}, where="x")
    assert [plan.num_float_epochs(epochs) for epochs in (1, 2, 10)] == [0, 1, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learningrate": 1}, "learningrate: unknown field, did you mean 'learning_rate'?"),
        ({"batch_size": 1}, "batch_size: got 1, expected int at least 2"),
        ({"batch_size": 2.5}, "batch_size: got 2.5, expected int"),
        ({"float_fraction": 1.5}, "float_fraction: got 1.5, expected float 0..1"),
        ({"epochs": True}, "epochs: got true"),
        ({"learning_rate": None}, "learning_rate: got null"),
        ({"schedule": "linear"}, 'schedule: got "linear", expected one of step, cosine, one_cycle'),
        ({"schedule": "step"}, "schedule: got step, expected step_epochs and step_factor"),
        ({"augmentation": {}}, "augmentation: expected an object with the key 'default'"),
        (
            {"augmentation": {"default": {"flop": True}}},
            "augmentation.default.flop: unknown field, did you mean 'flip'",
        ),
        ({"augmentation": {"default": {"shift": 2}}}, "augmentation.default.shift: got 2"),
        ({"augmentation": {"default": 3}}, "augmentation.default: got int"),
        ({"needs_float_start": 1}, "needs_float_start: got 1, expected bool"),
        ({"weight_decay_by_bit": {}}, "weight_decay_by_bit: unknown field, did you mean 'weight_decay_by_bits'?"),
        (
            {"weight_decay_by_bits": 1e-4},
            "weight_decay_by_bits: got float, expected an object of decays by weight bits",
        ),
        ({"weight_decay_by_bits": {"w2": 0}}, "weight_decay_by_bits.w2: unknown bits, did you mean '2'?, expected one"),
        ({"weight_decay_by_bits": {"9": 0}}, "weight_decay_by_bits.9: unknown bits, expected one of 1, 2, 3"),
        ({"weight_decay_by_bits": {"2": -1}}, "weight_decay_by_bits.2: got -1, expected float at least 0"),
        ({"weight_decay_by_bits": {"2": None}}, "weight_decay_by_bits.2: got null"),
    ],
)
def test_wrong_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        recipe.parse({**TINY_RECIPE, **changes}, where="mine.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("mine.json: ")


def test_missing_field_is_named() -> None:
    without = {key: value for key, value in TINY_RECIPE.items() if key != "epochs"}
    with pytest.raises(ManifestError, match="epochs: missing"):
        recipe.parse(without, where="mine.json")


def test_unknown_recipe_gets_a_hint() -> None:
    with pytest.raises(UsageError, match=r"--recipe: got 'quikc'.*did you mean 'quick'"):
        recipe.load("quikc")


def test_recipe_file_errors(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.load(str(path))
    path.write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        recipe.load(str(path))
    path.write_text("[]")
    with pytest.raises(ManifestError, match="expected an object"):
        recipe.load(str(path))
    path.write_text(json.dumps(TINY_RECIPE))
    assert recipe.load(str(path)).epochs == 2
