"""Training recipes as data: files in the package's folder recipes/, or the user's own."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from .base import json_file
from .base.errors import ManifestError, UsageError

Schedule = Literal["step", "cosine", "one_cycle"]
Optimizer = Literal["adam", "adamw", "sgd"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training picture.

    flip: mirror every second one. shift: move it by up to this share of its side. min_area: cut a window of at least
    this share of its area (aspect 3/4 to 4/3) and stretch it to full size; 1 cuts nothing. rand_ops: so many random
    changes of RandAugment (arXiv 1909.13719) before them, each of `rand_magnitude` out of 30; needs torchvision.
    """

    flip: bool = False
    shift: float = 0.0
    min_area: float = 1.0
    rand_ops: int = 0
    rand_magnitude: int = 9

    @property
    def moves(self) -> bool:
        """Say whether pictures are mirrored, moved or cut."""
        return self.flip or self.shift != 0 or self.min_area != 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    epochs: passes over the training split, of which the first `float_fraction` run without quantizers. accumulation:
    parts of a batch that run one after the other, to save memory. schedule: 'step' multiplies the learning rate by
    step_factor every step_epochs, 'cosine' lets it fall to zero, 'one_cycle' rises to it before (arXiv 1708.07120),
    in each of the two phases, after a linear warm-up of warmup_epochs. fine_tuning_factor: times the learning rate,
    in quantized epochs that start from trained weights: after float ones, or with --init-weights. needs_float_start:
    refuse quantized epochs that do not. weight_decay_by_bits: in place of weight_decay in quantized epochs, for
    backbone weights of so many bits ('1' to '8'). momentum: of sgd. ema_decay: of the exponential average of all
    weights, which is what is evaluated and exported. mixup, cutmix: alpha of their beta distributions (arXiv
    1710.09412, 1905.04899), 0 for none; with both, every batch has one of the two. distill_weight: share of the
    teacher's soft labels in the loss, at distill_temperature (arXiv 1503.02531), where a run has float epochs or
    --teacher. precision: of convolutions in training; quantizers and evaluations are float32. calibration_pictures:
    to set the first activation scales. statistics_batches: to measure batch normalization anew at the end.
    checkpoint_steps: between checkpoints, besides the end of every epoch. augmentation: by dataset, 'default' for
    those that are not named.
    """

    epochs: int
    float_fraction: float
    needs_float_start: bool = False
    batch_size: int
    accumulation: int = 1
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    learning_rate: float
    fine_tuning_factor: float = 1.0
    schedule: Schedule
    step_epochs: int | None = None
    step_factor: float | None = None
    warmup_epochs: float = 0.0
    weight_decay: float
    weight_decay_by_bits: dict[str, float] = field(default_factory=dict)
    gradient_clip: float | None = None
    label_smoothing: float
    ema_decay: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    precision: Precision = "float32"
    calibration_pictures: int
    statistics_batches: int
    checkpoint_steps: int
    augmentation: dict[str, Augmentation]

    def augmentation_of(self, dataset: str) -> Augmentation:
        """Return the augmentation for a dataset."""
        return self.augmentation.get(dataset, self.augmentation["default"])

    def num_float_epochs(self, epochs: int) -> int:
        """Return how many of `epochs` run without quantizers; at least one runs with them."""
        return max(min(round(epochs * self.float_fraction), epochs - 1), 0)

    def weight_decay_at(self, weight_bits: int | None) -> float:
        """Return the weight decay of quantized epochs with backbone weights of so many bits, of float ones for None."""
        return self.weight_decay_by_bits.get(str(weight_bits), self.weight_decay)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


# key: (type, lowest, highest, may be null); a bound of None is open
_BOUNDS: dict[str, tuple[type, float, float | None, bool]] = {
    "epochs": (int, 1, 1_000_000, False),
    "float_fraction": (float, 0, 1, False),
    "needs_float_start": (bool, 0, 1, False),
    "batch_size": (int, 2, 1_000_000, False),
    "accumulation": (int, 1, 1_000_000, False),
    "momentum": (float, 0, 1, False),
    "learning_rate": (float, 1e-12, 1e30, False),
    "fine_tuning_factor": (float, 1e-6, 1e30, False),
    "step_epochs": (int, 1, 1_000_000, True),
    "step_factor": (float, 0, 1, True),
    "warmup_epochs": (float, 0, 1_000_000, False),
    "weight_decay": (float, 0, 1e30, False),
    "gradient_clip": (float, 1e-12, 1e30, True),
    "label_smoothing": (float, 0, 1, False),
    "ema_decay": (float, 0, 1, True),
    "mixup": (float, 0, 1e30, False),
    "cutmix": (float, 0, 1e30, False),
    "distill_weight": (float, 0, 1, False),
    "distill_temperature": (float, 0.1, 1e30, False),
    "calibration_pictures": (int, 1, 10**9, False),
    "statistics_batches": (int, 0, 10**9, False),
    "checkpoint_steps": (int, 1, 10**12, False),
}
_FAR = 1_000_000  # a largest value that only nonsense is beyond
_BITS = tuple(str(bits) for bits in range(1, 9))
_AUGMENTATION_BOUNDS: dict[str, tuple[type, float, float | None, bool]] = {
    "flip": (bool, 0, 1, False),
    "shift": (float, 0, 1, False),
    "min_area": (float, 0.01, 1, False),
    "rand_ops": (int, 0, 100, False),
    "rand_magnitude": (int, 0, 30, False),
}
_CHOICES = {
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
}


def load(name: str) -> Recipe:
    """Return a shipped recipe ('quick', 'paper', 'cifar', 'imagenet', 'lsq') or the one of a JSON or TOML file.

    Raises:
        UsageError: no such recipe.
        ManifestError: the file cannot be parsed or has a wrong field; all problems are named.
    """
    if name.endswith((".json", ".toml")):
        return parse(_read(Path(name)), where=name)
    folder = resources.files(__package__).joinpath("recipes")
    shipped = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if name not in shipped:
        hint = _did_you_mean(name, shipped)
        choices = f"one of {', '.join(shipped)} or a .json or .toml file"
        raise UsageError(f"--recipe: got '{name}', expected {choices}{hint}")
    return parse(json.loads(folder.joinpath(f"{name}.json").read_text("utf-8")), where=name)


def _read(path: Path) -> Any:
    try:
        text = json_file.text(path)
    except json_file.Unreadable as error:
        raise UsageError(f"{path}: {error}; check --recipe") from error
    try:
        return _toml(text) if path.suffix == ".toml" else json_file.parse(text)
    except json_file.Unreadable as error:
        raise ManifestError(f"{path}: {error}; mend the recipe") from error


def _toml(text: str) -> Any:
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise json_file.Unreadable(f"not valid TOML ({error})") from error
    json_file.check(content)
    return content


def parse(values: Any, *, where: str) -> Recipe:
    """Return the recipe of a JSON object.

    Raises:
        ManifestError: a missing, unknown or wrong field; all problems are named.
    """
    if not isinstance(values, Mapping):
        raise ManifestError(f"{where}: got {type(values).__name__}, expected an object; mend the recipe")
    known = [entry.name for entry in fields(Recipe)]
    problems = [f"{key}: unknown field{_did_you_mean(key, known)}" for key in values if key not in known]
    optional = {entry.name for entry in fields(Recipe) if {entry.default, entry.default_factory} != {MISSING}}
    required = [name for name in known if name not in optional]
    problems += [f"{key}: missing" for key in required if key not in values]
    problems += _out_of_bounds("", values, _BOUNDS)
    for key, choices in _CHOICES.items():
        if key in values and values[key] not in choices:
            problems.append(f"{key}: got {json.dumps(values[key])}, expected one of {', '.join(choices)}")
    if values.get("schedule") == "step" and None in (values.get("step_epochs"), values.get("step_factor")):
        problems.append("schedule: got step, expected step_epochs and step_factor beside it")
    problems += _augmentation_problems(values.get("augmentation"))
    problems += _decay_problems(values.get("weight_decay_by_bits", {}))
    if problems:
        raise ManifestError(f"{where}: {' | '.join(problems)}; mend the recipe")
    augmentation = {dataset: Augmentation(**entry) for dataset, entry in values["augmentation"].items()}
    return Recipe(**{**values, "augmentation": augmentation})


def _augmentation_problems(augmentation: Any) -> list[str]:
    if not isinstance(augmentation, Mapping) or "default" not in augmentation:
        return ["augmentation: expected an object with the key 'default'"]
    known = [entry.name for entry in fields(Augmentation)]
    problems = []
    for dataset, settings in augmentation.items():
        where = f"augmentation.{dataset}"
        if not isinstance(settings, Mapping):
            problems.append(f"{where}: got {type(settings).__name__}, expected an object")
            continue
        problems += [f"{where}.{key}: unknown field{_did_you_mean(key, known)}" for key in settings if key not in known]
        problems += _out_of_bounds(f"{where}.", settings, _AUGMENTATION_BOUNDS)
    return problems


def _decay_problems(decays: Any) -> list[str]:
    where = "weight_decay_by_bits"
    if not isinstance(decays, Mapping):
        return [f"{where}: got {type(decays).__name__}, expected an object of decays by weight bits"]
    problems = [
        f"{where}.{bits}: unknown bits{_did_you_mean(bits, list(_BITS))}, expected one of {', '.join(_BITS)}"
        for bits in decays
        if bits not in _BITS
    ]
    return problems + _out_of_bounds(f"{where}.", decays, dict.fromkeys(_BITS, _BOUNDS["weight_decay"]))


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
            is_far = highest is None or (highest >= _FAR and not (fits and value > highest))
            expected = f"at least {lowest:g}" if is_far else f"{lowest:g}..{highest:g}"
            problems.append(f"{prefix}{key}: got {json.dumps(value)}, expected {kind.__name__} {expected}")
    return sorted(problems)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else ""
