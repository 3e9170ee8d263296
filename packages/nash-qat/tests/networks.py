"""Small genotypes, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nash_qat.network import genotype as genotypes
from nash_qat.network.genotype import Genotype


def layer(
    channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    residual_from: int | None = None,
    projection: bool = False,
    nas: tuple[str, int] | None = None,
) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "channels": channels,
        "stride": stride,
        "groups": groups,
        "residual_from": residual_from,
        "projection": projection,
        "nas_op": None if nas is None else {"op": nas[0], "input": nas[1], "probability": None},
    }


def cell(in_channels: int, *layers: dict[str, Any]) -> dict[str, Any]:
    return {"in_channels": in_channels, "layers": list(layers)}


def manifest(
    *cells: dict[str, Any],
    size: int = 8,
    channels: int = 1,
    num_classes: int = 10,
    stem: dict[str, Any] | None = None,
    name: str = "tiny",
) -> dict[str, Any]:
    return {
        "schema": "nash.genotype/1.0",
        "created_by": {"package": "nash-search", "version": "0.1.0"},
        "inputs": [],
        "artifacts": [],
        "name": name,
        "backbone": None,
        "variant": None,
        "num_classes": num_classes,
        "input": {"channels": channels, "height": size, "width": size},
        "stem": stem or {"channels": cells[0]["in_channels"], "kernel": 3, "stride": 1, "max_pool": False},
        "cells": list(cells),
        "head": {"pool": "global_avg"},
        "search": None,
    }


def parsed(tree: dict[str, Any]) -> Genotype:
    return genotypes.parse(tree, Path("genotype.json"))


def written(tree: dict[str, Any], folder: Path) -> Path:
    path = folder / "genotype.json"
    path.write_text(json.dumps(tree), "utf-8")
    return path


BASELINE = manifest(
    cell(4, layer(4), layer(4, residual_from=0)),
    cell(4, layer(8, stride=2), layer(8, residual_from=0, projection=True)),
    name="baseline",
)
NASH = manifest(
    cell(4, layer(4, nas=("skip_connect", 0)), layer(4, residual_from=0, nas=("max_pool_3x3", 1))),
    cell(
        4,
        layer(8, stride=2, nas=("conv_5x5", 0)),
        layer(8, residual_from=0, projection=True, nas=("conv_1x1", 0)),
        layer(8, nas=("conv_3x3", 2)),
    ),
    name="nash",
)
STRIDED_SIDE_OPS = manifest(
    cell(4, layer(8, stride=2, nas=("skip_connect", 0)), layer(8, residual_from=0, projection=True)),
    cell(8, layer(16, stride=2, nas=("max_pool_3x3", 0)), layer(16, nas=("max_pool_3x3", 0))),
    cell(16, layer(24, nas=("skip_connect", 0))),
    size=9,
    channels=3,
    name="strided",
)
BOTTLENECK = manifest(
    cell(
        8,
        layer(4, kernel=1),
        layer(4, groups=4, nas=("skip_connect", 1)),
        layer(16, kernel=1, residual_from=0, projection=True, nas=("max_pool_3x3", 0)),
    ),
    cell(16, layer(16, kernel=5, stride=2, groups=16), layer(12, kernel=1, nas=("conv_3x3", 0))),
    size=32,
    channels=3,
    stem={"channels": 8, "kernel": 7, "stride": 2, "max_pool": True},
    name="bottleneck",
)
ALL = {tree["name"]: tree for tree in (BASELINE, NASH, STRIDED_SIDE_OPS, BOTTLENECK)}
