"""Bits of single tensors: measured, priced, assigned, trained or exported, and built as exactly as any others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import NETWORK, Nash

BASE = {"weight_bits": 4, "nas_weight_bits": 4, "act_bits": 4, "state_bits": 4}
MIXED = {
    "joins": {"cells.*.join": 4, "cells.0.layers.0.act": 2, "classifier": 3},
    "states": {"*.act": 3, "*.state": 4, "stem_act": 4, "stem_state": 2, "features": 4, "*.join": 3, "classifier": 5},
    "one-bit": {"*": 2, "*.join": 8, "cells.1*": 4, "stem*": 1, "classifier": 1, "features": 2},
}
TARGET = ("--board", "Pynq-Z1", "--clock-mhz", "100", "--target-fps", "1000")


@pytest.mark.parametrize("name", MIXED)
def test_mixed_network_becomes_one_that_computes_the_same(name: str, nash: Nash, tmp_path: Path) -> None:
    genotype, bits = tmp_path / "genotype.json", tmp_path / "bits.json"
    nash("search", "zoo", "resnet18-v3", "--width", "4", "--input-size", "16", "--out", genotype)
    bits.write_text(json.dumps(BASE | {"overrides": MIXED[name]}))
    nash("qat", "export", genotype, "--quantization", bits, "--seed", "0", "--out", tmp_path / "model")
    built = nash("hw", "build", tmp_path / "model" / "model.json", *TARGET, "--out", tmp_path / "hw", "--json").result
    assert [record["stage"] for record in built["verification"]] == ["streamlined", "lowered", "hardware", "folded"]
    assert [record["num_flips"] for record in built["verification"]] == [0, 0, 0, 0]


def test_assigned_bits_keep_their_budget_in_the_accelerator(nash: Nash, tmp_path: Path) -> None:
    genotype, run, out = tmp_path / "genotype.json", tmp_path / "run", tmp_path / "out"
    nash("search", "zoo", "resnet8", *NETWORK, "--channels", "1", "--out", genotype)
    budget = ("--dataset", "digits", "--preset", "w4a4", "--recipe", "quick", "--epochs", "2", "--seed", "0")
    nash("qat", "train", genotype, *budget, "--out", run)
    measured, priced, bits = (out / f"{name}.json" for name in ("sensitivity", "bitcosts", "quantization"))
    nash("qat", "sensitivity", run, "--bits", "3", "8", "--pictures", "64", "--out", measured)
    costs = nash("hw", "costs", run / "model.json", "--bits", "3", *TARGET, "--out", priced, "--json").result
    luts = costs["model_resources"]["LUT"]
    limits = ("--budget", f"LUT={0.95 * luts}", "--budget", f"DSP={costs['model_resources']['DSP']}")
    found = nash("qat", "assign", measured, priced, *limits, "--out", bits, "--json").result
    assert found["gap"] == 0
    assert found["resources"]["LUT"] <= 0.95 * luts
    nash("qat", "export", genotype, "--quantization", bits, "--out", out / "model")
    assert json.loads((out / "model" / "model.json").read_text())["quantization"]["resolved"] == found["bits"]
    built = nash("hw", "build", out / "model" / "model.json", *TARGET, "--out", out / "hw", "--json").result
    # FIFOs are predicted as wide as those of the model that was priced, so fewer bits come out cheaper
    assert 0.8 * found["resources"]["LUT"] < built["estimated"]["resources"]["LUT"] < 1.1 * found["resources"]["LUT"]
    nothing = nash("qat", "assign", measured, priced, "--budget", "LUT=1", "--out", out / "none.json", code=9)
    assert "the least that any bits take" in nothing.stderr
