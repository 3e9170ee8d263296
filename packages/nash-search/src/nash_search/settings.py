"""What determines a search, and what must not change while it is interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from . import data, genotype
from .architect import Gradient
from .genotype import Genotype
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What determines a search, its data aside."""

    backbone: Genotype
    variant: str
    dataset: str
    recipe: Recipe
    gradient: Gradient
    seed: int
    threads: int
    num_images: int | None = None  # at most so many of the training pictures

    def flat(self, split: data.Split) -> dict[str, Any]:
        """Return the settings as they are compared before a search goes on, the pictures' labels included."""
        shape, cells = self.backbone.input, genotype.to_manifest(self.backbone.without_nas_ops())
        flat = {
            "backbone": self.backbone.backbone or self.backbone.name,
            "variant": self.variant,
            "dataset": self.dataset,
            "width": self.backbone.stem.channels,
            "input": f"{shape.channels}x{shape.height}x{shape.width}",
            "seed": self.seed,
            "gradient": self.gradient,
            "threads": self.threads,
            "num_images": min(len(split), self.num_images or len(split)),
            "labels": hashlib.sha256(split.labels.tobytes()).hexdigest()[:12],
            "cells": hashlib.sha256(json.dumps([cells["stem"], cells["cells"]]).encode()).hexdigest()[:12],
        }
        return flat | {f"recipe.{key}": value for key, value in _flatten(asdict(self.recipe))}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, list(value) if isinstance(value, tuple) else value))
    return pairs
