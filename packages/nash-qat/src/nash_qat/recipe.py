"""Training recipes as data: files in the package's folder recipes/, or the user's own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from .errors import ManifestError, UsageError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training picture.

    flip: mirror every second one. shift: move it by up to this share of its side. min_area: cut a window of at least
    this share of its area (aspect 3/4 to 4/3) and stretch it to full size; 1 cuts nothing.
    """

    flip: bool = False
    shift: float = 0.0
    min_area: float = 1.0

    @property
    def is_identity(self) -> bool:
        """Say whether pictures stay as they are."""
        return not self.flip and self.shift == 0 and self.min_area == 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    epochs: passes over the training split, of which the first `float_fraction` run without quantizers. schedule:
    'step' multiplies the learning rate by step_factor every step_epochs, 'cosine' lets it fall to zero, in each of
    the two phases. calibration_pictures: to set the first activation scales. statistics_batches: to measure batch
    normalization anew at the end. checkpoint_steps: between checkpoints, besides the end of every epoch.
    augmentation: by dataset, 'default' for those that are not named.
    """

    epochs: int
    float_fraction: float
    batch_size: int
    learning_rate: float
    schedule: Literal["step", "cosine"]
    step_epochs: int | None
    step_factor: float | None
    weight_decay: float
    gradient_clip: float | None
    label_smoothing: float
    calibration_pictures: int
    statistics_batches: int
    checkpoint_steps: int
    augmentation: dict[str, Augmentation]

    def augmentation_of(self, dataset: str) -> Augmentation:
        """Return the augmentation for a dataset."""
        return self.augmentation.get(dataset, self.augmentation["default"])

    def num_float_epochs(self, epochs: int) -> int:
        """Return how many of `epochs` run without quantizers; at least one runs with them."""
        return min(round(epochs * self.float_fraction), epochs - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


# key: (type, lowest, highest, may be null); a bound of None is open
_BOUNDS: dict[str, tuple[type, float, float | None, bool]] = {
    "epochs": (int, 1, None, False),
    "float_fraction": (float, 0, 1, False),
    "batch_size": (int, 2, None, False),
    "learning_rate": (float, 1e-12, None, False),
    "step_epochs": (int, 1, None, True),
    "step_factor": (float, 0, 1, True),
    "weight_decay": (float, 0, None, False),
    "gradient_clip": (float, 1e-12, None, True),
    "label_smoothing": (float, 0, 1, False),
    "calibration_pictures": (int, 1, None, False),
    "statistics_batches": (int, 0, None, False),
    "checkpoint_steps": (int, 1, None, False),
}
_AUGMENTATION_BOUNDS: dict[str, tuple[type, float, float | None, bool]] = {
    "flip": (bool, 0, 1, False),
    "shift": (float, 0, 1, False),
    "min_area": (float, 0.01, 1, False),
}


def load(name: str) -> Recipe:
    """Return a shipped recipe ('paper', 'quick') or the one of a JSON file.

    Raises:
        UsageError: no such recipe.
        ManifestError: the file is not JSON or has a wrong field; all problems are named.
    """
    if name.endswith(".json"):
        return parse(_read(Path(name)), where=name)
    folder = resources.files(__package__).joinpath("recipes")
    shipped = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if name not in shipped:
        hint = _did_you_mean(name, shipped)
        raise UsageError(f"--recipe: got '{name}', expected one of {', '.join(shipped)} or a .json file{hint}")
    return parse(json.loads(folder.joinpath(f"{name}.json").read_text("utf-8")), where=name)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check --recipe") from error
    except ValueError as error:
        raise ManifestError(f"{path}: not valid JSON ({error}); mend the recipe") from error


def parse(values: Any, *, where: str) -> Recipe:
    """Return the recipe of a JSON object.

    Raises:
        ManifestError: a missing, unknown or wrong field; all problems are named.
    """
    if not isinstance(values, Mapping):
        raise ManifestError(f"{where}: got {type(values).__name__}, expected an object; mend the recipe")
    known = [field.name for field in fields(Recipe)]
    problems = [f"{key}: unknown field{_did_you_mean(key, known)}" for key in values if key not in known]
    problems += [f"{key}: missing" for key in known if key not in values]
    problems += _out_of_bounds("", values, _BOUNDS)
    if values.get("schedule") not in ("step", "cosine", None):
        problems.append(f"schedule: got {values['schedule']!r}, expected step or cosine")
    if values.get("schedule") == "step" and None in (values.get("step_epochs"), values.get("step_factor")):
        problems.append("schedule: got step, expected step_epochs and step_factor beside it")
    problems += _augmentation_problems(values.get("augmentation"))
    if problems:
        raise ManifestError(f"{where}: {' | '.join(problems)}; mend the recipe")
    augmentation = {dataset: Augmentation(**entry) for dataset, entry in values["augmentation"].items()}
    return Recipe(**{**values, "augmentation": augmentation})


def _augmentation_problems(augmentation: Any) -> list[str]:
    if not isinstance(augmentation, Mapping) or "default" not in augmentation:
        return ["augmentation: expected an object with the key 'default'"]
    known = [field.name for field in fields(Augmentation)]
    problems = []
    for dataset, entry in augmentation.items():
        where = f"augmentation.{dataset}"
        if not isinstance(entry, Mapping):
            problems.append(f"{where}: got {type(entry).__name__}, expected an object")
            continue
        problems += [f"{where}.{key}: unknown field{_did_you_mean(key, known)}" for key in entry if key not in known]
        problems += _out_of_bounds(f"{where}.", entry, _AUGMENTATION_BOUNDS)
    return problems


def _out_of_bounds(
    prefix: str, values: Mapping[str, Any], bounds: Mapping[str, tuple[type, float, float | None, bool]]
) -> list[str]:
    problems = []
    for key in bounds.keys() & values.keys():
        kind, lowest, highest, may_be_null = bounds[key]
        value = values[key]
        if value is None and may_be_null:
            continue
        kinds = (int, float) if kind is float else (kind,)
        fits = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
        if not fits or value < lowest or (highest is not None and value > highest):
            expected = f"at least {lowest:g}" if highest is None else f"{lowest:g}..{highest:g}"
            problems.append(f"{prefix}{key}: got {json.dumps(value)}, expected {kind.__name__} {expected}")
    return sorted(problems)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""
