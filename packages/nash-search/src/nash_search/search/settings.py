"""What determines a search, and what must not change while it is interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base import manifest, parallel
from ..cost.penalty import Price
from ..data import datasets as data
from ..genotype import genotype
from ..genotype.genotype import Genotype
from ..genotype.variants import VARIANTS, Variant, narrow
from ..layers.devices import Device
from ..supernet import quantization
from ..supernet.quantization import Quantization
from ..supernet.relaxation import Relaxation
from .architect import Gradient
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How many networks are scored when the alphas are done, and how long the last of them train.

    num_networks: those by the alphas, the search's own first choice among them; num_random: those beside them.
    epochs: of the last rung, over the half of the weights.
    """

    num_networks: int
    epochs: int = 4
    num_random: int = 0

    def rungs(self) -> list[int]:
        """Return the epochs of each rung: halved from the last one back, as often as the networks can be, down to 1.

        >>> Finish(num_networks=8).rungs(), Finish(num_networks=3, epochs=5).rungs()
        ([1, 2, 4], [2, 5])
        """
        num_halvings = max(1, (self.num_networks - 1).bit_length())
        return [self.epochs >> back for back in reversed(range(num_halvings)) if self.epochs >> back]


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
    relaxation: Relaxation = "layer"
    num_images: int | None = None  # at most so many of the training pictures
    val_fraction: float = 0.0  # of the training pictures, left alone for the validation of what is trained afterwards
    precision: str = "mixed"
    primitives: tuple[str, ...] | None = None  # None: the variant's own
    costs_file: Path | None = None
    price: Price | None = None  # what is asked of costs_file
    init_weights: Path | None = None
    discard_below: float | None = None
    discard_after: int = 1
    finish: Finish | None = None  # None: the alphas alone choose
    device: Device = "cpu"
    preset: str | None = None  # None: the supernet of the variant, not quantized

    def strategy(self) -> Variant:
        """Return the variant with the primitives that were asked for.

        Raises:
            UsageError: they do not fit it.
        """
        variant = VARIANTS[self.variant]
        return variant if self.primitives is None else narrow(variant, self.primitives)

    def quantization(self) -> Quantization | None:
        """Return the quantization of the supernet, None for none.

        Raises:
            UsageError: an unknown preset.
        """
        return None if self.preset is None else quantization.preset(self.preset)

    def flat(self, split: data.Split) -> dict[str, Any]:
        """Return the settings as they are compared before a search goes on, the pictures' labels included."""
        shape, cells = self.backbone.input, genotype.to_manifest(self.backbone.without_nas_ops())
        flat = {
            "backbone": self.backbone.backbone or self.backbone.name,
            "variant": self.variant,
            "primitives": ",".join(self.strategy().primitives),
            "dataset": self.dataset,
            "width": self.backbone.stem.channels,
            "input": f"{shape.channels}x{shape.height}x{shape.width}",
            "seed": self.seed,
            "relaxation": self.relaxation,
            "gradient": self.gradient,
            "threads": self.threads,
            "processes": parallel.size(),
            "precision": self.precision,
            "num_images": min(len(split), self.num_images or len(split)),
            "labels": hashlib.sha256(split.labels.tobytes()).hexdigest()[:12],
            "cells": hashlib.sha256(json.dumps([cells["stem"], cells["cells"]]).encode()).hexdigest()[:12],
        }
        if self.costs_file is not None and self.price is not None:
            flat["costs"] = manifest.file_sha256(self.costs_file)[:12]
            flat |= {"cost_weight": self.price.weight, "cost_resource": self.price.metric}
            flat["budget"] = _joined(self.price.budget)
            if self.price.total_budget:
                flat["total_budget"] = _joined(self.price.total_budget)
        if self.init_weights is not None:
            flat["init_weights"] = manifest.file_sha256(self.init_weights)[:12]
        if self.discard_below is not None:
            flat |= {"discard_below": self.discard_below, "discard_after": self.discard_after}
        if self.finish is not None:
            flat |= {
                "finish": self.finish.num_networks,
                "finish_epochs": self.finish.epochs,
                "finish_random": self.finish.num_random,
            }
        if self.device != "cpu":
            flat["device"] = self.device
        if self.val_fraction:
            flat["val_fraction"] = self.val_fraction
        if self.preset is not None:
            flat["preset"] = self.preset
        return flat | {f"recipe.{key}": value for key, value in _flatten(asdict(self.recipe))}


def _joined(budget: Mapping[str, str]) -> str:
    return ",".join(f"{name}={limit}" for name, limit in budget.items())


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((prefix + key, list(value) if isinstance(value, tuple) else value))
    return pairs
