from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nash_search.base.errors import UsageError
from nash_search.search import recipe


def test_paper_recipe_has_the_published_numbers() -> None:
    paper = recipe.load("paper")
    assert (paper.epochs, paper.batch_size) == (200, 64)
    assert paper.weights == recipe.WeightRecipe(lr=0.025, lr_min=0.0, momentum=0.9, weight_decay=3e-4, clip_norm=5.0)
    assert paper.alphas == recipe.AlphaRecipe(lr=3e-4, betas=(0.0, 0.999), weight_decay=1e-3, std=1e-3)
    assert recipe.load("paper-resnet34").alphas.lr == 6e-3
    assert recipe.load("paper-resnet34").epochs == 100


@pytest.mark.parametrize("name", recipe.names())
def test_shipped_recipe_fits_the_schema_and_leaves_digits_as_they_are(name: str) -> None:
    found = recipe.load(name)
    assert found.name == name
    assert found.augmentation_of("digits") == recipe.Augmentation(crop_padding=0, flip=False)
    assert found.augmentation_of("cifar10") == recipe.Augmentation(crop_padding=4, flip=True)


def test_epochs_override_the_recipe() -> None:
    assert recipe.load("paper", epochs=3).epochs == 3


def _content() -> dict[str, Any]:
    return {
        "epochs": 1,
        "batch_size": 8,
        "checkpoint_steps": 5,
        "weights": {"lr": 0.1, "lr_min": 0, "momentum": 0.9, "weight_decay": 0, "clip_norm": 5},
        "alphas": {"lr": 0.1, "betas": [0, 0.9], "weight_decay": 0, "std": 0},
        "augmentation": {"default": {"crop_padding": 0, "flip": False}},
    }


def test_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(_content()))
    found = recipe.load(str(tmp_path / "mine.json"))
    assert found.name == "mine"
    assert found.alphas.betas == (0, 0.9)
    assert found.alphas.multiplier_lr == 0.01
    assert found.augmentation_of("digits").cutout == 0
    assert found.warmup_epochs == 0


def test_optional_numbers_of_a_recipe_are_read(tmp_path: Path) -> None:
    content = _content()
    content["alphas"]["multiplier_lr"] = 0.5
    content |= {"epochs": 4, "warmup_epochs": 3}
    content["augmentation"]["cifar10"] = {"crop_padding": 4, "flip": True, "cutout": 16}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    found = recipe.load(str(tmp_path / "mine.json"))
    assert found.alphas.multiplier_lr == 0.5
    assert found.warmup_epochs == 3
    assert [recipe.load(str(tmp_path / "mine.json"), epochs=epochs).warmup_epochs for epochs in (1, 2, 8)] == [0, 1, 6]
    (tmp_path / "mine.json").write_text(json.dumps(content | {"epochs": 3}))
    with pytest.raises(UsageError, match=r"mine: warmup_epochs: got 3, expected fewer than the 3 epochs"):
        recipe.load(str(tmp_path / "mine.json"), epochs=8)
    assert found.augmentation_of("cifar10") == recipe.Augmentation(crop_padding=4, flip=True, cutout=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, r"epoch: unknown key, .*did you mean epochs\?"),
        ({"weights": {"lrate": 1}}, r"weights\.lr: missing .*|weights\.lrate: unknown key"),
        ({"batch_size": 1}, r"batch_size: got 1, expected at least 2"),
        ({"warmup_epochs": -1}, r"warmup_epochs: got -1, expected at least 0"),
        ({"epochs": "many"}, r'epochs: got "many", expected a JSON integer'),
        ({"augmentation": {}}, r"augmentation\.default: missing"),
        ({"alphas": 3}, r"alphas: got 3, expected a JSON object"),
    ],
)
def test_wrong_recipe_names_the_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_content() | change))
    with pytest.raises(UsageError, match=message) as raised:
        recipe.load(str(path))
    assert "nash-search schema recipe" in str(raised.value)


def test_all_problems_of_a_recipe_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_content() | {"batch_size": 0, "epochs": 0}))
    with pytest.raises(UsageError, match=r"epochs.*batch_size|batch_size.*epochs"):
        recipe.load(str(path))


@pytest.mark.parametrize("text", ["{", "[NaN]", '{"epochs": NaN}', "\xff"])
def test_recipe_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="recipe"):
        recipe.load(str(tmp_path / "mine.json"))


def test_unknown_recipe_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean quick\?"):
        recipe.load("quik")
    with pytest.raises(UsageError, match="cannot be read"):
        recipe.load(str(tmp_path / "absent.json"))
