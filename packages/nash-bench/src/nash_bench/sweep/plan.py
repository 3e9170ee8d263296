"""What a sweep is made of: the settings of its file, the cells of its grid, and the jobs that the cells share.

A cell is one network on one board: backbone, variant, width, seed, preset, board. Its files lie under `runs/`:

    runs/resnet8-v3-width4-seed0/genotype.json                              of `nash-search run`; shared by all presets
    runs/resnet8-width4/genotype.json                                       of `nash-search zoo`; shared by all seeds
    runs/resnet8-v3-width4-seed0/w4a4-seed0/model/model.json                of `nash-qat train`; shared by all boards
    runs/resnet8-v3-width4-seed0/w4a4-seed0/benchmark.json                  of `nash-bench evaluate`
    runs/resnet8-v3-width4-seed0/w4a4-seed0/hardware/U250/hardware.json     of `nash-hw build`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from .. import manifest
from ..errors import ManifestError, UsageError

AXES = ("backbone", "variant", "width", "baseline_width", "seed", "preset", "board")
STAGES = ("search", "plain", "train", "build", "evaluate")
_NUM_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
_FILES = ("search_recipe", "qat_recipe")
_RESOURCES = {"threads": 1, "mem_mb": 4000}
_BOUND = ("dataset", "num_classes", "input_size", "search_recipe", "search_epochs", "qat_recipe", "qat_epochs",
          "clock_mhz", "target_fps", "max_utilization")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of the grid on one board."""

    backbone: str
    variant: str
    width: int
    seed: int
    preset: str
    board: str

    @property
    def network(self) -> str:
        """Return the folder of the genotype: a baseline's does not depend on the seed."""
        if self.variant == "none":
            return f"{self.backbone}-width{self.width}"
        return f"{self.backbone}-{self.variant}-width{self.width}-seed{self.seed}"

    @property
    def files(self) -> dict[str, str]:
        """Return the file that each stage makes for this cell, relative to the sweep's folder."""
        run = f"runs/{self.network}/{self.preset}-seed{self.seed}"
        return {
            "plain" if self.variant == "none" else "search": f"runs/{self.network}/genotype.json",
            "train": f"{run}/model/model.json",
            "build": f"{run}/hardware/{self.board}/hardware.json",
            "evaluate": f"{run}/benchmark.json",
        }


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a command line: the file it makes, the file it reads, and where its output goes."""

    stage: str
    target: str
    source: str | None

    @property
    def log(self) -> str:
        """Return the log, relative to the sweep's folder."""
        return f"logs/{self.stage}/{Path(self.target).parent.relative_to('runs')}.log"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The validated settings of a sweep and its cells."""

    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Return every job once, in the order of the stages."""
        found: dict[str, Job] = {}
        for cell in self.cells:
            (first, genotype), (_, model) = list(cell.files.items())[:2]
            sources = {first: None, "train": genotype, "build": model, "evaluate": model}
            for stage, target in cell.files.items():
                found.setdefault(target, Job(stage=stage, target=target, source=sources[stage]))
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
    return Plan(settings=settings, cells=tuple(_cells(settings)))


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
        axes = (widths, settings["seed"], settings["preset"], settings["board"])
        for width, seed, preset, board in product(*axes):
            yield Cell(backbone=backbone, variant=variant, width=width, seed=seed, preset=preset, board=board)


def engine_config(plan: Plan, commands: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what the Snakefile reads: targets, commands, their options and the resources of each rule."""
    settings = plan.settings
    data = {"dataset": settings["dataset"], "data": settings.get("data")}
    network = {"input-size": settings["input_size"]}
    options = {
        "search": data | network | {"recipe": settings["search_recipe"], "epochs": settings.get("search_epochs")},
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
        "resources": {stage: _RESOURCES | stated.get(stage, {}) for stage in STAGES if stage != "plain"},
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
