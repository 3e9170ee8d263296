"""Every published network and both baselines become one accelerator that computes what the exported model does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Nash

PUBLISHED = ["resnet18-v1", "resnet18-v2", "resnet18-v3", "resnet18-v4", "resnet34-v3"]
OWN = {"resnet18-v1": "v1", "resnet18-v2": "v2", "resnet18-v3": "v3", "resnet18-v4": "v4", "resnet34-v3": "resnet34-v3"}
EXACT = ("w4a4", "w1a2")  # at most 4 bits; the variants' own have 8-bit states
CASES = [
    *((name, preset) for name in [*PUBLISHED, "resnet18", "resnet34"] for preset in EXACT),
    *OWN.items(),
]


@pytest.mark.parametrize(("name", "preset"), CASES, ids=["-".join(case) for case in CASES])
def test_network_converts_and_computes_the_same(name: str, preset: str, nash: Nash, tmp_path: Path) -> None:
    genotype, model = tmp_path / "genotype.json", tmp_path / "model"
    nash("search", "zoo", name, "--width", "16", "--input-size", "32", "--out", genotype)
    nash("qat", "export", genotype, "--preset", preset, "--seed", "0", "--out", model)
    target = ("--board", "U250", "--clock-mhz", "200", "--target-fps", "1000")
    nash("hw", "build", model / "model.json", *target, "--out", tmp_path / "hardware")

    hardware = json.loads((tmp_path / "hardware" / "hardware.json").read_text())
    assert {layer["backend"] for layer in hardware["layers"]} == {"hls", "rtl"}
    assert hardware["estimated"]["throughput_fps"] >= 1000
    assert [record["stage"] for record in hardware["verification"]] == ["streamlined", "lowered", "hardware", "folded"]
    for record in hardware["verification"]:
        if preset in EXACT:
            assert record["num_flips"] == 0
            assert record["max_abs_error"] < 1e-5
        else:
            assert record["num_flips"] <= record["num_samples"] // 2
