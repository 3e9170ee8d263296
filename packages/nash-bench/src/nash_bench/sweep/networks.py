"""The networks of a sweep: the folder, the job and the options by which each genotype comes about.

    runs/resnet8-v3-width4-seed0/genotype.json                              of `nash-search run`
    runs/resnet8-v3-width4-cost0.1_w4a4_U250-seed0/genotype.json            of `nash-search run --costs`
    runs/resnet8-v3-width4-cost0.1_w4a4_U250-seed0-random1/genotype.json    of `nash-search random --like` the one above
    runs/resnet8-width4/genotype.json                                       of `nash-search zoo`
    runs/mine-3fa1b2c4/                                                     a genotype file of the user's, where it lies

A search that heeds hardware costs is one for each preset and board, by prices that all of them share:

    costs/resnet8-v3-width4/space.json                                      of `nash-search space`
    costs/resnet8-v3-width4/w4a4_U250.json                                  of `nash-hw costs`
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from ..base import json_file
from ..base.manifest import file_sha256

Settings = Mapping[str, Any]
_DIGITS_OF_HASH, _LONGEST_NAME = 8, 60


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of a command line: the file it makes, the files it reads, and where its output goes."""

    stage: str
    target: str
    sources: tuple[str, ...] = ()

    @property
    def log(self) -> str:
        """Return the log, relative to the sweep's folder."""
        made = Path(self.target)
        name = made.with_suffix("") if made.parts[0] == "costs" else made.parent
        return f"logs/{self.stage}/{Path(*name.parts[1:])}.log"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a variant may find around a backbone, and the options that tell `nash-search` of it."""

    name: str
    options: tuple[str, ...]
    is_file: bool = False

    @property
    def job(self) -> Job:
        """Return the job that writes it."""
        return Job(stage="space", target=f"costs/{self.name}/space.json")

    def costs(self, preset: str, board: str) -> Job:
        """Return the job that prices it."""
        return Job(stage="costs", target=f"costs/{self.name}/{preset}_{board}.json", sources=(self.job.target,))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a search is asked for, beside its space and its seed."""

    relaxation: str = "layer"
    cost_weight: float = 0.0
    budget: str | None = None
    total_budget: str | None = None
    is_quantized: bool = False

    @property
    def heeds_costs(self) -> bool:
        """Say whether it needs prices."""
        return bool(self.cost_weight or self.budget or self.total_budget)

    @property
    def label(self) -> str:
        """Return the part of a folder's name that tells it from other searches of its space."""
        parts = [self.relaxation] if self.relaxation != "layer" else []
        parts += [f"cost{self.cost_weight:g}"] if self.cost_weight else []
        limits = {"budget": self.budget, "total": self.total_budget}
        parts += [name + _slug(limit, "") for name, limit in limits.items() if limit]
        parts += ["quantized"] if self.is_quantized else []
        return "".join(f"-{part}" for part in parts)

    def options(self, preset: str | None) -> list[str]:
        """Return the options of `nash-search run`; the preset is that of a quantized supernet."""
        asked = {
            "--relaxation": None if self.relaxation == "layer" else self.relaxation,
            "--cost-weight": self.cost_weight or None,
            "--budget": self.budget,
            "--total-budget": self.total_budget,
            "--preset": preset if self.is_quantized else None,
        }
        return [part for key, value in asked.items() if value is not None for part in (key, str(value))]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A genotype to be trained; `file` is where it lies already, `jobs` make it otherwise, the last of them the file.

    preset, board: those that it is for, None if for any. seed: that of its search, None if it has none.
    """

    name: str
    options: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()
    file: str | None = None
    space: Space | None = None
    preset: str | None = None
    board: str | None = None
    seed: int | None = None

    @property
    def stage(self) -> str:
        """Return the stage that makes it."""
        return self.jobs[-1].stage if self.jobs else "given"

    @cached_property
    def genotype(self) -> str:
        """Return the path of its genotype, from the sweep's folder."""
        return self.file or f"runs/{self.name}/genotype.json"

    def is_for(self, preset: str, board: str, seed: int) -> bool:
        """Say whether a cell of the grid trains it."""
        own = ((self.preset, preset), (self.board, board), (self.seed, seed))
        return all(stated is None or stated == asked for stated, asked in own)


def networks(settings: Settings) -> Iterator[Network]:
    """Yield the networks of a sweep; those of equal names are the same."""
    for backbone, variant in product(settings["backbone"], settings["variant"]):
        if variant == "none":
            widths = settings.get("baseline_width", settings["width"])
            yield from _plain(backbone, widths, settings)
            continue
        for space in _spaces(backbone, variant, settings):
            for found in _searched(space, settings):
                yield found
                yield from _random(found, settings)
    for name in settings.get("genotype", []):
        yield from _plain(name, settings["width"], settings)


def is_file(name: str) -> bool:
    """Say whether a backbone or genotype is a file, not a name of the zoo."""
    return name.endswith(".json")


def has_operations(path: Path) -> bool:
    """Say whether a genotype file has NAS operations; of one that is no genotype, nash-search or nash-qat will tell."""
    try:
        cells = json_file.read(path)["cells"]
        return any(layer.get("nas_op") is not None for cell in cells for layer in cell["layers"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _plain(name: str, widths: list[int], settings: Settings) -> Iterator[Network]:
    if is_file(name):
        yield Network(name=_name_of(Path(name)), file=name)
        return
    for width in widths:
        folder = f"{name}-width{width}"
        job = Job(stage="plain", target=f"runs/{folder}/genotype.json")
        options = (name, "--width", str(width), *_shape(settings), "--num-classes", str(settings["num_classes"]))
        yield Network(name=folder, options=options, jobs=(job,))


def _spaces(backbone: str, variant: str, settings: Settings) -> Iterator[Space]:
    options = ("--backbone", backbone, "--variant", variant)
    if is_file(backbone):
        yield Space(name=f"{_name_of(Path(backbone))}-{variant}", options=options, is_file=True)
        return
    for width in settings["width"]:
        known = (*options, "--width", str(width), *_shape(settings))
        yield Space(name=f"{backbone}-{variant}-width{width}", options=known)


def _searched(space: Space, settings: Settings) -> Iterator[Network]:
    """Yield the networks that are searched in a space, for each of the terms and each seed."""
    for terms, seed in product(_terms(settings), settings["seed"]):
        for preset, board in _places(terms, settings):
            own = "".join(f"_{place}" for place in (preset, board) if place)
            name = f"{space.name}{terms.label}{own}-seed{seed}"
            options, priced = ["--seed", str(seed), *terms.options(preset)], []
            if terms.heeds_costs:
                priced = [space.job, space.costs(preset, board)]
                options += ["--costs", priced[-1].target, "--cost-resource", settings["cost_resource"]]
            sources = tuple(job.target for job in priced[-1:])
            yield Network(
                name=name,
                options=(*space.options, *options),
                jobs=(*priced, Job(stage="search", target=f"runs/{name}/genotype.json", sources=sources)),
                space=space,
                preset=preset,
                board=board,
                seed=seed,
            )


def _terms(settings: Settings) -> Iterator[Terms]:
    axes = (settings[key] for key in ("relaxation", "cost_weight", "budget", "total_budget"))
    for relaxation, weight, budget, total in product(*axes):
        yield Terms(
            relaxation=relaxation,
            cost_weight=weight,
            budget=budget,
            total_budget=total,
            is_quantized=settings["quantized_search"],
        )


def _places(terms: Terms, settings: Settings) -> Iterator[tuple[str, str | None] | tuple[None, None]]:
    """Yield the preset and the board that a search is for, as far as it depends on them."""
    if terms.heeds_costs:
        yield from product(settings["preset"], settings["board"])
    elif terms.is_quantized:
        yield from ((preset, None) for preset in settings["preset"])
    else:
        yield None, None


def _random(like: Network, settings: Settings) -> Iterator[Network]:
    """Yield random networks that cost what a searched one does."""
    presets = settings["preset"] if like.preset is None else [like.preset]
    boards = settings["board"] if like.board is None else [like.board]
    for preset, board, number in product(presets, boards, range(settings["random"])):
        own = "".join(f"_{one}" for one, known in ((preset, like.preset), (board, like.board)) if known is None)
        name = f"{like.name}-random{number}{own}"
        priced = [like.space.job, like.space.costs(preset, board)]
        sources = (like.genotype, priced[-1].target)
        resource = (
            "sum" if settings["cost_resource"] == "scarcest" else settings["cost_resource"]
        )  # no cost of operations
        options = ("--like", sources[0], "--costs", sources[1], "--cost-resource", resource)
        yield Network(
            name=name,
            options=(*options, "--seed", str(number)),
            jobs=(
                *dict.fromkeys([*like.jobs, *priced]),
                Job(stage="random", target=f"runs/{name}/genotype.json", sources=sources),
            ),
            preset=preset,
            board=board,
            seed=like.seed,
        )


def _shape(settings: Settings) -> tuple[str, str]:
    return "--input-size", str(settings["input_size"])


def _name_of(path: Path) -> str:
    """Return a name for a genotype file that differs where its content does."""
    try:
        stated = json_file.read(path)["name"]
    except (ValueError, KeyError, TypeError):
        stated = path.stem  # nash-search or nash-qat will say what is wrong with it
    return f"{_slug(str(stated), '-')[:_LONGEST_NAME]}-{file_sha256(path)[:_DIGITS_OF_HASH]}"


def _slug(text: str, separator: str) -> str:
    """Return a part of a folder's name: letters, digits and dots, what is between them as a separator."""
    return re.sub(r"[^A-Za-z0-9.]+", separator, text.replace("%", "pct"))
