"""Recipes: everything about a search's training that is a number, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from ..base import json_file, manifest
from ..base.errors import UsageError
from ..base.manifest import ROOT
from ..base.quoting import brief
from ..base.suggest import one_of

_MAX_PROBLEMS = 8


@dataclass(frozen=True, kw_only=True)
class WeightRecipe:
    """SGD on the weights, its rate falling from lr to lr_min along a cosine."""

    lr: float
    lr_min: float
    momentum: float
    weight_decay: float
    clip_norm: float


@dataclass(frozen=True, kw_only=True)
class AlphaRecipe:
    """Adam on the alphas, which start normally distributed with standard deviation `std`.

    multiplier_lr: the rate of the multipliers of a budget.
    """

    lr: float
    betas: tuple[float, float]
    weight_decay: float
    std: float
    multiplier_lr: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A random crop after padding by `crop_padding` pixels, a random mirror image, a black square of `cutout` pixels.

    The square (Cutout, arXiv 1708.04552) lies anywhere around a random pixel, so part of it may be outside.
    """

    crop_padding: int
    flip: bool
    cutout: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a search trains.

    warmup_epochs: so many of the epochs, the first, train the weights alone.
    """

    name: str
    epochs: int
    batch_size: int
    checkpoint_steps: int
    weights: WeightRecipe
    alphas: AlphaRecipe
    augmentation: Mapping[str, Augmentation]
    warmup_epochs: int = 0

    def augmentation_of(self, dataset: str) -> Augmentation:
        """Return the augmentation for a dataset."""
        return self.augmentation.get(dataset, self.augmentation["default"])


def names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    files = resources.files(ROOT).joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def default(preset: str | None) -> str:
    """Return the recipe of a search that is given none: a quantized supernet warms up before its alphas move."""
    return "quick" if preset is None else "quick-quantized"


def load(name: str, *, epochs: int | None = None) -> Recipe:
    """Return a recipe by its name, or from a file if the name ends in .json.

    epochs: overrides its own; those of warming up follow in proportion, rounded down.

    Raises:
        UsageError: there is no such recipe, or it is not valid; every problem is named.
    """
    if name.endswith(".json"):
        path = Path(name)
        return _build(path.stem, _parse(name, _read(path)), epochs)
    if name not in names():
        raise UsageError(f"--recipe: got '{name}', expected {one_of(name, names())}, or a file (.json)")
    text = resources.files(ROOT).joinpath(f"recipes/{name}.json").read_text("utf-8")
    return _build(name, _parse(name, text), epochs)


def _read(path: Path) -> str:
    try:
        return json_file.text(path)
    except json_file.Unreadable as error:
        raise UsageError(f"{path}: {error}; check --recipe") from error


def _parse(source: str, text: str) -> dict[str, Any]:
    try:
        content = json_file.parse(text)
    except json_file.Unreadable as error:
        raise UsageError(f"{source}: {error}; correct the recipe") from error
    errors = islice(manifest.validator("recipe").iter_errors(content), _MAX_PROBLEMS)
    problems = list(dict.fromkeys(problem for error in errors for problem in _problems(error)))
    if problems:
        raise UsageError(f"{source}: {' | '.join(problems[:_MAX_PROBLEMS])}; compare with 'nash-search schema recipe'")
    return content


def _problems(error: Any) -> Iterator[str]:
    """Yield what one error of the validator says: where, what was got, what was expected."""
    where = error.json_path.removeprefix("$").removeprefix(".")
    prefix = f"{where}." if where else ""
    match error.validator:
        case "additionalProperties":
            known = list(error.schema["properties"])
            for key in sorted(error.instance.keys() - set(known)):
                yield f"{prefix}{brief(key, is_text=True)}: unknown key, expected {one_of(key, known)}"
        case "required":
            yield from (f"{prefix}{key}: missing" for key in error.validator_value if key not in error.instance)
        case _:
            limits = {
                "minimum": "at least",
                "maximum": "at most",
                "exclusiveMinimum": "more than",
                "exclusiveMaximum": "less than",
                "type": "a JSON",
            }
            expected = f"{limits.get(error.validator, error.validator)} {error.validator_value}"
            yield f"{where or 'the recipe'}: got {brief(error.instance)}, expected {expected}"


def _build(name: str, content: Mapping[str, Any], epochs: int | None) -> Recipe:
    alphas = content["alphas"]
    own, warmup_epochs = int(content["epochs"]), int(content.get("warmup_epochs", 0))
    if warmup_epochs >= own:
        raise UsageError(f"{name}: warmup_epochs: got {warmup_epochs}, expected fewer than the {own} epochs")
    if epochs is None:
        epochs = own
    return Recipe(
        name=name,
        epochs=epochs,
        warmup_epochs=warmup_epochs * epochs // own,
        batch_size=int(content["batch_size"]),
        checkpoint_steps=int(content["checkpoint_steps"]),
        weights=WeightRecipe(**content["weights"]),
        alphas=AlphaRecipe(**(alphas | {"betas": tuple(alphas["betas"])})),
        augmentation={
            dataset: Augmentation(
                crop_padding=int(found["crop_padding"]), flip=found["flip"], cutout=int(found.get("cutout", 0))
            )
            for dataset, found in content["augmentation"].items()
        },
    )
