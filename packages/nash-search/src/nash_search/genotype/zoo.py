"""The zoo: the published genotypes, and the plain baseline of every backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from ..base.errors import UsageError
from ..base.suggest import one_of
from . import backbones
from .genotype import Genotype, NasOp


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the zoo's list."""

    name: str
    backbone: str
    variant: str | None
    num_layers: int
    width: int  # unless told otherwise


@cache
def _published() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("published_genotypes.json").read_text("utf-8")
    return json.loads(text)


def entries() -> Iterator[Entry]:
    """Yield what the zoo holds: published genotypes (arXiv 2403.01845) first, then the baselines."""
    variants = {name: (found["backbone"], found["variant"]) for name, found in _published().items()}
    baselines = {name: (name, None) for name in backbones.BACKBONES}
    for name, (backbone, variant) in (variants | baselines).items():
        plan = backbones.BACKBONES[backbone]
        yield Entry(name=name, backbone=backbone, variant=variant, num_layers=plan.num_layers, width=plan.width)


def build(
    name: str, *, width: int | None = None, input_size: int = 32, num_classes: int = 10, channels: int = 3
) -> Genotype:
    """Return a genotype of the zoo at this width (by default its backbone's own) and input shape.

    Raises:
        UsageError: the zoo holds nothing of that name.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise UsageError(f"zoo: got '{name}', expected {one_of(name, known)}")
    entry = known[name]
    backbone = backbones.build(
        entry.backbone, width=width, input_size=input_size, num_classes=num_classes, channels=channels
    )
    if entry.variant is None:
        return backbone
    nas_ops = [NasOp(**nas_op) for cell in _published()[name]["cells"] for nas_op in cell]
    return replace(backbone.with_nas_ops(nas_ops), name=name, variant=entry.variant)
