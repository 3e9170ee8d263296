from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY_RECIPE

from nash_qat import recipe
from nash_qat.errors import ManifestError, UsageError


@pytest.mark.parametrize("name", ["paper", "quick", "cifar", "imagenet"])
def test_shipped_recipes_are_valid(name: str) -> None:
    plan = recipe.load(name)
    assert recipe.parse(plan.to_dict(), where=name) == plan
    assert not plan.augmentation_of("digits").flip
    assert plan.augmentation_of("imagefolder").flip


def test_paper_is_the_references() -> None:
    plan = recipe.load("paper")
    assert (plan.epochs, plan.batch_size, plan.learning_rate, plan.weight_decay) == (100, 256, 1e-3, 0.0)
    assert (plan.schedule, plan.step_epochs, plan.step_factor, plan.float_fraction) == ("step", 30, 0.1, 0.0)


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
