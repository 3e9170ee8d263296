"""What a sweep is made of: the settings of its file, the cells of its grid, and the jobs that the cells share.

A cell is one network (see networks.py) with one seed, preset and join on one board. Its files, beside the genotype:

    runs/resnet8-v3-width4-seed0/w4a4-seed0/model/model.json                of `nash-qat train`; shared by all boards
    runs/resnet8-v3-width4-seed0/w4a4-seed0/benchmark.json                  of `nash-bench evaluate`
    runs/resnet8-v3-width4-seed0/w4a4-seed0/hardware/U250/hardware.json     of `nash-hw build`

`join` stands behind the preset in the folder of the trained network: `w4a4_aligned-seed0`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any

from ..base import json_file, manifest
from ..base.errors import ManifestError, UsageError
from ..base.quoting import brief
from .networks import Job, Network, has_operations, is_file, networks

AXES = (
    "backbone", "variant", "genotype", "width", "baseline_width", "relaxation", "cost_weight", "budget",
    "total_budget", "seed", "preset", "join", "board",
)  # fmt: skip
STAGES = ("space", "costs", "search", "plain", "random", "train", "build", "evaluate")
_QUICK = ("space", "plain", "random")  # they run where the sweep itself does
_WEIGHT_ACT = re.compile(r"w([1-8])a([1-8])")
_NUM_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
_PRICED = ("cost_weight", "budget", "total_budget", "random")
_RECIPES = ("search_recipe", "qat_recipe")
_RESOURCES = {"threads": 1, "mem_mb": 4000}
_SCALARS = ("dataset", "num_classes", "input_size", "search_recipe", "search_epochs", "search_images",
            "val_fraction", "quantized_search", "finish", "finish_epochs", "finish_random", "qat_recipe", "qat_epochs",
            "clock_mhz", "target_fps", "max_utilization", "cost_resource")  # fmt: skip
_MAX_PROBLEMS = 8


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network of the grid, trained with one seed and bits, on one board."""

    network: Network
    seed: int
    preset: str
    board: str
    join: str | None = None

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Return the jobs that this cell needs, each behind those whose files it reads."""
        bits = self.preset if self.join is None else f"{self.preset}_{self.join}"
        run = f"runs/{self.network.name}/{bits}-seed{self.seed}"
        model = f"{run}/model/model.json"
        genotype = (self.network.genotype,) if self.network.jobs else ()
        return (
            *self.network.jobs,
            Job(stage="train", target=model, sources=genotype),
            Job(stage="build", target=f"{run}/hardware/{self.board}/hardware.json", sources=(model,)),
            Job(stage="evaluate", target=f"{run}/benchmark.json", sources=(model,)),
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
    _resolve_files(settings, path)
    for key in _PRICED:
        if any(settings[key] if isinstance(settings[key], list) else [settings[key]]):
            _require_prices(settings, path, key)
    return Plan(settings=settings, cells=tuple(_cells(settings)))


def _resolve_files(settings: dict[str, Any], path: Path) -> None:
    """Make the files that a sweep names absolute, from the folder of the sweep's own."""
    folder = path.resolve().parent

    def resolved(key: str, name: str) -> str:
        if not is_file(name):
            return name
        if not (folder / name).is_file():
            raise UsageError(f"{path}: {key}: {folder / name} is not there; correct the path, or take a name")
        return str(folder / name)

    for key in _RECIPES:
        settings[key] = resolved(key, settings[key])
    for key in ("backbone", "genotype"):
        settings[key] = [resolved(key, name) for name in settings[key]]
    if "none" in settings["variant"]:
        for name in filter(is_file, settings["backbone"]):
            if has_operations(Path(name)):
                raise UsageError(
                    f"{path}: variant: got none beside backbone {name}, which has NAS operations, expected it "
                    "alone; name it under genotype, too, or leave none out"
                )
    if "data" in settings:
        settings["data"] = str(folder / settings["data"])


def _require_prices(settings: Mapping[str, Any], path: Path, key: str) -> None:
    """Check that operations can be priced: at a frame rate, and with bits that a preset's name tells."""
    if "target_fps" not in settings:
        raise UsageError(f"{path}: {key}: got no target_fps, expected the frame rate to price operations at")
    other = next((preset for preset in settings["preset"] if _WEIGHT_ACT.fullmatch(preset) is None), None)
    if other is not None:
        raise UsageError(f"{path}: {key}: got the preset '{other}', expected wNaM; search that one without costs")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(json_file.text(path))
        json_file.check(content)
    except json_file.Unreadable as error:
        raise ManifestError(f"{path}: {error}; check the path, or mend it") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
    schema = manifest.schema("sweep")
    yield from _unknown_keys(settings, schema["properties"], "")
    resources = settings.get("resources")
    if isinstance(resources, dict):
        yield from _unknown_keys(resources, schema["properties"]["resources"]["properties"], "resources.")
    for error in islice(manifest.validator("sweep").iter_errors(settings), _MAX_PROBLEMS):
        key = error.json_path.removeprefix("$").removeprefix(".")
        if error.validator == "not":
            yield "target_fps, max_utilization: got both, expected one"
        elif error.validator == "anyOf":
            yield "backbone: got none, expected one to search around, or a genotype"
        elif error.validator != "additionalProperties":
            problem = brief(error.message, 200, is_text=True)
            yield f"{key}: {problem}" if key else problem


def _unknown_keys(found: Mapping[Any, Any], known: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in found:
        if key not in known:
            close = difflib.get_close_matches(str(key)[:100], known, n=1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"expected one of {', '.join(known)}"
            yield f"{prefix}{brief(key, is_text=True)}: unknown key, {hint}"


def _cells(settings: Mapping[str, Any]) -> Iterator[Cell]:
    known = {network.name: network for network in networks(settings)}
    axes = [settings[key] for key in ("seed", "preset", "join", "board")]
    for network, (seed, preset, join, board) in product(known.values(), product(*axes)):
        if network.is_for(preset, board, seed):
            yield Cell(network=network, seed=seed, preset=preset, board=board, join=join)


def engine_config(plan: Plan, commands: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what the Snakefile reads: targets, networks, commands, their options and the resources of each rule."""
    settings = plan.settings
    data = {"dataset": settings["dataset"], "data": settings.get("data")}
    folding = {key: settings.get(key) for key in ("clock_mhz", "target_fps", "max_utilization")}
    finish = {key: settings.get(key) for key in ("finish", "finish_epochs", "finish_random")}
    searching = {"recipe": settings["search_recipe"], "epochs": settings.get("search_epochs")}
    held = {"val_fraction": settings.get("val_fraction")}
    options = {
        "search": data | searching | held | {"num-images": settings.get("search_images")} | finish,
        "costs": {key: folding[key] for key in ("clock_mhz", "target_fps")},
        "train": data | held | {"recipe": settings["qat_recipe"], "epochs": settings.get("qat_epochs")},
        "build": folding,
        "evaluate": data,
    }
    stated = settings.get("resources", {})
    found = {cell.network.name: cell.network for cell in plan.cells}
    spaces = {network.space.name: network.space for network in found.values() if network.space is not None}
    num_classes = ("--num-classes", str(settings["num_classes"]))
    return {
        "targets": [job.target for job in plan.jobs if job.stage in ("build", "evaluate")],
        "networks": {
            name: {
                "stage": network.stage,
                "genotype": network.genotype,
                "sources": list(network.jobs[-1].sources) if network.jobs else [],
                "options": list(network.options),
            }
            for name, network in found.items()
        },
        "spaces": {name: [*space.options, *(() if space.is_file else num_classes)] for name, space in spaces.items()},
        "commands": dict(commands),
        "options": {stage: _arguments(known) for stage, known in options.items()},
        "resources": {stage: _RESOURCES | stated.get(stage, {}) for stage in STAGES if stage not in _QUICK},
        "bound": bound_settings(plan),
    }


def _arguments(options: Mapping[str, Any]) -> list[str]:
    asked = {key.replace("_", "-"): value for key, value in options.items() if value is not None}
    return [part for key, value in asked.items() for part in (f"--{key}", str(value))]


def bound_settings(plan: Plan) -> dict[str, Any]:
    """Return what must stay as it is while a sweep goes on in its folder, the content of recipe files included."""
    found = {key: plan.settings.get(key) for key in _SCALARS}
    for key in _RECIPES:
        if is_file(found[key]):
            found[key] = {"file": Path(found[key]).name, "sha256": manifest.file_sha256(Path(found[key]))}
    return found
