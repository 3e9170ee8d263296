"""What the options of `run` ask for, and those that `pareto` shares with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .genotype.genotype import Genotype
    from .search.settings import Finish, Settings

_OF_RUN_ALONE = ("sweep_cost", "finish", "finish_epochs", "finish_random")  # pareto writes many genotypes of one search


class VariantName(StrEnum):
    """The variants of the search strategy."""

    V1 = "v1"
    V2 = "v2"
    V3 = "v3"
    V4 = "v4"


class RelaxationName(StrEnum):
    """What one softmax chooses among."""

    LAYER = "layer"
    EDGE = "edge"


class GradientName(StrEnum):
    """The ways to the alphas' gradient."""

    TWO_PATH = "two-path"
    FULL = "full"
    SWAP = "swap"


class Precision(StrEnum):
    """The numbers that a search computes in."""

    MIXED = "mixed"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class DeviceName(StrEnum):
    """Where a search computes."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class CostResource(StrEnum):
    """What --cost-weight weighs."""

    SUM = "sum"
    SCARCEST = "scarcest"
    LUT = "lut"
    FF = "ff"
    BRAM = "bram"
    URAM = "uram"
    DSP = "dsp"
    CYCLES = "cycles"


def _finish(num_networks: int | None, epochs: int | None, num_random: int | None) -> Finish | None:
    from .base.errors import UsageError
    from .search.settings import Finish

    if not num_networks:
        for option, value in {"--finish-epochs": epochs, "--finish-random": num_random}.items():
            if value is not None:
                advice = "pass how many networks to score, or leave it out"
                raise UsageError(f"{option}: got {value} without --finish; {advice}")
        return None
    num_random = num_networks if num_random is None else num_random
    return Finish(num_networks=num_networks, epochs=epochs or Finish.epochs, num_random=num_random)


def settings_of(asked: SimpleNamespace) -> tuple[Settings, dict[str, Any]]:
    """Return what determines the search that options of `run` ask for, and the options of `search.run`."""
    import torch

    from .base.errors import UsageError
    from .cost import penalty
    from .layers import devices
    from .search import recipe as recipes
    from .search.architect import DEFAULTS
    from .search.settings import Settings

    for name in ("cost_weight", "budget", "total_budget", "sweep_cost"):
        value = getattr(asked, name, None)
        if value and asked.costs is None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option}: got {value} without --costs; pass what 'nash-hw costs' wrote")
    found, backbone_file = backbone_of(asked.backbone, asked.width, asked.input_size)
    budget, total_budget = asked.budget, asked.total_budget
    settings = Settings(
        backbone=found,
        variant=asked.variant.value,
        dataset=asked.dataset,
        recipe=recipes.load(asked.recipe or recipes.default(asked.preset), epochs=asked.epochs),
        relaxation=asked.relaxation.value,
        gradient=DEFAULTS[asked.relaxation.value] if asked.gradient is None else asked.gradient.value,
        seed=asked.seed,
        threads=torch.get_num_threads() if asked.threads is None else asked.threads,
        num_images=asked.num_images,
        val_fraction=asked.val_fraction,
        device=devices.resolve(asked.device.value),
        precision=asked.precision.value,
        primitives=None if asked.primitives is None else tuple(asked.primitives.split(",")),
        costs_file=asked.costs,
        price=penalty.Price(
            weight=asked.cost_weight,
            metric=asked.cost_resource.value,
            budget={} if budget is None else penalty.parse_budget(budget),
            total_budget={} if total_budget is None else penalty.parse_budget(total_budget, "--total-budget"),
        ),
        init_weights=asked.init_weights,
        discard_below=asked.discard_below,
        discard_after=asked.discard_after,
        finish=_finish(*(getattr(asked, name, None) for name in ("finish", "finish_epochs", "finish_random"))),
        preset=asked.preset,
    )
    options = {"data_dir": asked.data, "backbone_file": backbone_file}
    return settings, options | {"resume": asked.resume, "tensorboard": asked.tensorboard}


def with_options_of(run: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that lets a command take the options of `run` but a few before its own: it searches, too."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        of_run, own = (inspect.signature(function, eval_str=True).parameters for function in (run, command))
        shared = [found for name, found in of_run.items() if name not in (*_OF_RUN_ALONE, *own)]
        taken = [found for found in own.values() if found.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters = [found.replace(kind=inspect.Parameter.KEYWORD_ONLY) for found in (*shared, *taken)]
        command.__signature__ = inspect.Signature(parameters)
        command.__annotations__ = {found.name: found.annotation for found in parameters}
        return command

    return decorate


def backbone_of(
    name: str, width: int | None, input_size: int | None, num_classes: int | None = None
) -> tuple[Genotype, Path | None]:
    """Return a named backbone, or that of a genotype file and the file.

    Raises:
        UsageError: a file, and an option beside it that it has a value of its own for.
    """
    from .base.errors import UsageError
    from .genotype import backbones, genotype

    if not name.endswith(".json"):
        input_size, num_classes = 32 if input_size is None else input_size, num_classes or 10
        return backbones.build(name, width=width, input_size=input_size, num_classes=num_classes), None
    for option, value in (("--width", width), ("--input-size", input_size), ("--num-classes", num_classes)):
        if value is not None:
            raise UsageError(f"{option}: got a value beside --backbone {name}, which has its own; leave it out")
    return genotype.load(Path(name)), Path(name)
