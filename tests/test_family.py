"""Every network of the family, at several bits and sizes, becomes one accelerator that computes what its model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Nash

PUBLISHED = ["resnet18-v1", "resnet18-v2", "resnet18-v3", "resnet18-v4", "resnet34-v3"]
OWN = {"resnet18-v1": "v1", "resnet18-v2": "v2", "resnet18-v3": "v3", "resnet18-v4": "v4", "resnet34-v3": "resnet34-v3"}
EXACT = ("w4a4", "w1a2", "w2a2")  # at most 4 bits; the variants' own have 8-bit states
CASES = [
    *((name, preset) for name in [*PUBLISHED, "resnet18", "resnet34"] for preset in ("w4a4", "w1a2")),
    *OWN.items(),
    *(("resnet18-v3", preset) for preset in ("w2a2", "w8a8")),
    ("resnet34-v3", "w8a8"),
    ("vgg11", "w4a4"),
    ("resnet50", "w2a2"),  # bottlenecks
    ("mobilenetv1", "w4a4"),  # depthwise layers
]
FORMS = {  # of resnet18-v3: the 7x7 stem and the max-pool, sizes that no stride divides
    "imagenet": ("--width", "4", "--input-size", "224", "--num-classes", "10"),
    "odd": ("--width", "4", "--input-size", "45"),
}


@pytest.mark.parametrize(("name", "preset"), CASES, ids=["-".join(case) for case in CASES])
def test_network_converts_and_computes_the_same(name: str, preset: str, nash: Nash, tmp_path: Path) -> None:
    genotype = tmp_path / "genotype.json"
    nash("search", "zoo", name, "--width", "8", "--input-size", "32", "--out", genotype)
    hardware = _build(genotype, preset, nash, tmp_path)
    if name == "mobilenetv1":
        assert [layer["op_type"] for layer in hardware["layers"]].count("VVAU_hls") == 13


@pytest.mark.parametrize("form", FORMS)
def test_size_converts_and_computes_the_same(form: str, nash: Nash, tmp_path: Path) -> None:
    genotype = tmp_path / "genotype.json"
    nash("search", "zoo", "resnet18-v3", *FORMS[form], "--out", genotype)
    _build(genotype, "w4a4", nash, tmp_path, target_fps=100)


def test_hand_written_channel_counts_convert_and_compute_the_same(nash: Nash, tmp_path: Path) -> None:
    genotype = tmp_path / "genotype.json"
    nash("search", "zoo", "resnet18", "--width", "8", "--input-size", "32", "--out", genotype)
    content = json.loads(genotype.read_text())
    content |= {"name": "uneven", "backbone": None, "cells": [_cell(24, 24, 1), _cell(24, 36, 2)]}
    content["stem"]["channels"] = 24
    genotype.write_text(json.dumps(content))
    hardware = _build(genotype, "w4a4", nash, tmp_path)
    folded = {layer["PE"] for layer in hardware["layers"]} | {layer["SIMD"] for layer in hardware["layers"]}
    assert folded - {None, 1, 2, 4, 8, 16, 32, 64}  # a divisor of 24 or 36 that is no power of two


def _cell(in_channels: int, channels: int, stride: int) -> dict[str, Any]:
    def layer(stride: int, op: str, **others: Any) -> dict[str, Any]:
        nas_op = {"op": op, "input": 0, "probability": None}
        plain = {"kernel": 3, "channels": channels, "groups": 1, "residual_from": None, "projection": False}
        return plain | {"stride": stride, "nas_op": nas_op} | others

    second = layer(1, "conv_5x5", residual_from=0, projection=in_channels != channels)
    return {"in_channels": in_channels, "layers": [layer(stride, "skip_connect"), second]}


def _build(genotype: Path, preset: str, nash: Nash, folder: Path, *, target_fps: int = 1000) -> dict[str, Any]:
    """Export a genotype, build its accelerator and check what both manifests say."""
    nash("qat", "export", genotype, "--preset", preset, "--seed", "0", "--out", folder / "model")
    target = ("--board", "U250", "--clock-mhz", "200", "--target-fps", str(target_fps))
    nash("hw", "build", folder / "model" / "model.json", *target, "--out", folder / "hardware")

    hardware = json.loads((folder / "hardware" / "hardware.json").read_text())
    assert {layer["backend"] for layer in hardware["layers"]} == {"hls", "rtl"}
    assert hardware["estimated"]["throughput_fps"] >= target_fps
    assert [record["stage"] for record in hardware["verification"]] == ["streamlined", "lowered", "hardware", "folded"]
    for record in hardware["verification"]:
        if preset in EXACT:
            assert record["num_flips"] == 0
            assert record["max_abs_error"] < 1e-5
        else:
            assert record["num_flips"] <= record["num_samples"] // 2
    return hardware
