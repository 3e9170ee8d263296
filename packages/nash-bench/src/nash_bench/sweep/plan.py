"""What a sweep is made of: the settings of its file, the cells of its grid, and the jobs that the cells share.

A cell is one network on one board: backbone, variant, width, cost weight, seed, preset, join, board. Its files:

    runs/resnet8-v3-width4-seed0/genotype.json                              of `nash-search run`; shared by all presets
    runs/resnet8-width4/genotype.json                                       of `nash-search zoo`; shared by all seeds
    runs/resnet8-v3-width4-seed0/w4a4-seed0/model/model.json                of `nash-qat train`; shared by all boards
    runs/resnet8-v3-width4-seed0/w4a4-seed0/benchmark.json                  of `nash-bench evaluate`
    runs/resnet8-v3-width4-seed0/w4a4-seed0/hardware/U250/hardware.json     of `nash-hw build`

A search that heeds what operations cost is one for each preset and board, by prices that all its cost weights share:

    costs/resnet8-v3-width4/space.json                                      of `nash-search space`
    costs/resnet8-v3-width4/w4a4_U250.json                                  of `nash-hw costs`
    runs/resnet8-v3-width4-cost0.1_w4a4_U250-seed0/genotype.json            of `nash-search run --costs`

`join` stands behind the preset in the folder of the trained network: `w4a4_aligned-seed0`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from .. import manifest
from ..errors import ManifestError, UsageError

AXES = ("backbone", "variant", "width", "baseline_width", "cost_weight", "seed", "preset", "join", "board")
STAGES = ("space", "costs", "search", "plain", "train", "build", "evaluate")
_QUICK = ("space", "plain")  # they run where the sweep itself does
_WEIGHT_ACT = re.compile(r"w([1-8])a([1-8])")
_NUM_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
_FILES = ("search_recipe", "qat_recipe")
_RESOURCES = {"threads": 1, "mem_mb": 4000}
_BOUND = ("dataset", "num_classes", "input_size", "search_recipe", "search_epochs", "qat_recipe", "qat_epochs",
          "clock_mhz", "target_fps", "max_utilization", "cost_resource")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a command line: the file it makes, the file it reads, and where its output goes."""

    stage: str
    target: str
    source: str | None

    @property
    def log(self) -> str:
        """Return the log, relative to the sweep's folder."""
        made = Path(self.target)
        name = made.with_suffix("") if made.parts[0] == "costs" else made.parent
        return f"logs/{self.stage}/{Path(*name.parts[1:])}.log"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of the grid on one board; a cost weight of 0 is a search that heeds no costs."""

    backbone: str
    variant: str
    width: int
    seed: int
    preset: str
    board: str
    cost_weight: float = 0.0
    join: str | None = None

    @property
    def network(self) -> str:
        """Return the folder of the genotype: a baseline's does not depend on the seed."""
        if self.variant == "none":
            return f"{self.backbone}-width{self.width}"
        costs = f"-cost{self.cost_weight:g}_{self.preset}_{self.board}" if self.cost_weight else ""
        return f"{self._space}{costs}-seed{self.seed}"

    @property
    def _space(self) -> str:
        return f"{self.backbone}-{self.variant}-width{self.width}"

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Return the jobs that this cell needs, each behind those whose files it reads."""
        genotype = f"runs/{self.network}/genotype.json"
        bits = self.preset if self.join is None else f"{self.preset}_{self.join}"
        run = f"runs/{self.network}/{bits}-seed{self.seed}"
        model = f"{run}/model/model.json"
        return (
            *self._jobs_to(genotype),
            Job(stage="train", target=model, source=genotype),
            Job(stage="build", target=f"{run}/hardware/{self.board}/hardware.json", source=model),
            Job(stage="evaluate", target=f"{run}/benchmark.json", source=model),
        )

    def _jobs_to(self, genotype: str) -> tuple[Job, ...]:
        if self.variant == "none":
            return (Job(stage="plain", target=genotype, source=None),)
        if not self.cost_weight:
            return (Job(stage="search", target=genotype, source=None),)
        space = f"costs/{self._space}/space.json"
        costs = f"costs/{self._space}/{self.preset}_{self.board}.json"
        return (
            Job(stage="space", target=space, source=None),
            Job(stage="costs", target=costs, source=space),
            Job(stage="search", target=genotype, source=costs),
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The validated settings of a sweep and its cells."""

    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Return every job once, in the order of the stages."""
        found = {job.target: job for cell in self.cells for job in cell.jobs}
        return tuple(sorted(found.values(), key=lambda job: STAGES.index(job.stage)))

    def num_jobs(self) -> dict[str, int]:
        """Return the number of jobs of each stage that has any."""
        stages = [job.stage for job in self.jobs]
        return {stage: stages.count(stage) for stage in STAGES if stage in stages}


def read_plan(path: Path) -> Plan:
    """Read a sweep file and lay out its cells.

    Raises:
        ManifestError: the file cannot be read, is not YAML, or breaks the schema; all its problems in one message.
        UsageError: it needs another key, or a file that is not there.
    """
    settings = _with_defaults(_read_yaml(path))
    problems = list(_problems(settings))
    if problems:
        raise ManifestError(f"{path}: {' | '.join(problems)}; compare with 'nash-bench schema sweep'")
    if "num_classes" not in settings:
        if settings["dataset"] not in _NUM_CLASSES:
            raise UsageError(
                f"{path}: num_classes: missing, expected the number of classes of the {settings['dataset']}"
            )
        settings["num_classes"] = _NUM_CLASSES[settings["dataset"]]
    folder = path.resolve().parent
    for key in _FILES:
        if settings[key].endswith(".json"):
            settings[key] = str(folder / settings[key])
            if not Path(settings[key]).is_file():
                raise UsageError(f"{path}: {key}: {settings[key]} is not there; name a recipe or a file of one")
    if "data" in settings:
        settings["data"] = str(folder / settings["data"])
    if any(settings["cost_weight"]):
        _require_prices(settings, path)
    return Plan(settings=settings, cells=tuple(_cells(settings)))


def _require_prices(settings: Mapping[str, Any], path: Path) -> None:
    """Check that operations can be priced: at a frame rate, and with bits that a preset's name tells."""
    if "target_fps" not in settings:
        raise UsageError(f"{path}: cost_weight: got no target_fps, expected the frame rate to price operations at")
    other = next((preset for preset in settings["preset"] if _WEIGHT_ACT.fullmatch(preset) is None), None)
    if other is not None:
        raise UsageError(f"{path}: cost_weight: got the preset '{other}', expected wNaM; search that one without costs")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not valid YAML ({error}); mend it") from error
    if not isinstance(content, dict):
        got = type(content).__name__
        raise ManifestError(f"{path}: got a YAML {got}, expected keys such as 'backbone: [resnet18]'; mend it")
    return content


def _with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the file leaves out; an axis of one value may stand without its list."""
    properties = manifest.schema("sweep")["properties"]
    settings = {key: found["default"] for key, found in properties.items() if "default" in found} | content
    settings |= {key: [settings[key]] for key in AXES if key in settings and not isinstance(settings[key], list)}
    if "target_fps" not in settings:
        settings.setdefault("max_utilization", 0.7)
    return settings


def _problems(settings: dict[str, Any]) -> Iterator[str]:
    from jsonschema import Draft202012Validator

    schema = manifest.schema("sweep")
    yield from _unknown_keys(settings, schema["properties"], "")
    resources = settings.get("resources")
    if isinstance(resources, dict):
        yield from _unknown_keys(resources, schema["properties"]["resources"]["properties"], "resources.")
    for error in Draft202012Validator(schema).iter_errors(settings):
        key = error.json_path.removeprefix("$").removeprefix(".")
        if error.validator == "not":
            yield "target_fps, max_utilization: got both, expected one"
        elif error.validator != "additionalProperties":
            yield f"{key}: {error.message}" if key else error.message


def _unknown_keys(found: Mapping[Any, Any], known: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in found:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"expected one of {', '.join(known)}"
            yield f"{prefix}{key}: unknown key, {hint}"


def _cells(settings: Mapping[str, Any]) -> Iterator[Cell]:
    for backbone, variant in product(settings["backbone"], settings["variant"]):
        is_baseline = variant == "none"
        widths = settings.get("baseline_width", settings["width"]) if is_baseline else settings["width"]
        weights = [0.0] if is_baseline else settings["cost_weight"]
        axes = (widths, weights, settings["seed"], settings["preset"], settings.get("join", [None]), settings["board"])
        for width, weight, seed, preset, join, board in product(*axes):
            yield Cell(
                backbone=backbone,
                variant=variant,
                width=width,
                seed=seed,
                preset=preset,
                board=board,
                cost_weight=weight,
                join=join,
            )


def engine_config(plan: Plan, commands: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what the Snakefile reads: targets, commands, their options and the resources of each rule."""
    settings = plan.settings
    data = {"dataset": settings["dataset"], "data": settings.get("data")}
    network = {"input-size": settings["input_size"]}
    options = {
        "search": data | network | {"recipe": settings["search_recipe"], "epochs": settings.get("search_epochs")},
        "search_with_costs": {"cost-resource": settings["cost_resource"]},
        "space": network | {"num-classes": settings["num_classes"]},
        "costs": {key.replace("_", "-"): settings.get(key) for key in ("clock_mhz", "target_fps")},
        "plain": network | {"num-classes": settings["num_classes"]},
        "train": data | {"recipe": settings["qat_recipe"], "epochs": settings.get("qat_epochs")},
        "build": {key.replace("_", "-"): settings.get(key) for key in ("clock_mhz", "target_fps", "max_utilization")},
        "evaluate": data,
    }
    stated = settings.get("resources", {})
    return {
        "targets": [job.target for job in plan.jobs if job.stage in ("build", "evaluate")],
        "commands": dict(commands),
        "options": {stage: _arguments(known) for stage, known in options.items()},
        "resources": {stage: _RESOURCES | stated.get(stage, {}) for stage in STAGES if stage not in _QUICK},
        "bound": bound_settings(plan),
    }


def _arguments(options: Mapping[str, Any]) -> list[str]:
    return [part for key, value in options.items() if value is not None for part in (f"--{key}", str(value))]


def bound_settings(plan: Plan) -> dict[str, Any]:
    """Return what must stay as it is while a sweep goes on in its folder, the content of recipe files included."""
    found = {key: plan.settings.get(key) for key in _BOUND}
    for key in _FILES:
        if found[key].endswith(".json"):
            found[key] = {"file": Path(found[key]).name, "sha256": manifest.file_sha256(Path(found[key]))}
    return found
