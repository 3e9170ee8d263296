"""A new operation is one class: nothing else of the package has to know it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nash_search.base import manifest
from nash_search.cost.penalty import Price
from nash_search.genotype import genotype, zoo
from nash_search.genotype.primitives import PRIMITIVES, Convolution
from nash_search.search import search
from nash_search.search.settings import Settings
from nash_search.supernet import network
from nash_search.view import draw, heatmap


class Conv7x7(Convolution):
    name, label, colour, kernel = "conv_7x7", "conv 7\u00d77", "#3d0b37", 7


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIMITIVES, Conv7x7.name, Conv7x7())


@pytest.mark.parametrize("is_priced", [False, True])
def test_new_primitive_is_searched_priced_kept_and_drawn(
    is_priced: bool, settings: Settings, priced: Callable[..., Path], tmp_path: Path
) -> None:
    names = ("none", "conv_1x1", "conv_7x7")
    changes = {"recipe": replace(settings.recipe, epochs=1), "primitives": names}
    if is_priced:  # of its own making: a 7x7 that is cheaper than anything else
        costs = priced(settings.backbone, primitives=names)
        content = json.loads(costs.read_text())
        for candidate in content["candidates"]:
            if candidate["op"] == "conv_7x7":
                candidate["resources"]["LUT"] = 1
        costs.write_text(json.dumps(content))
        num_layers = sum(len(cell.layers) for cell in settings.backbone.cells)
        changes |= {"costs_file": costs, "price": Price(budget={"lut": str(num_layers)})}
    path = search.run(replace(settings, **changes), tmp_path / "out")
    found = genotype.load(path)
    ops = {layer.nas_op.op for cell in found.cells for layer in cell.layers if layer.nas_op}
    assert ops
    assert ops <= ({"conv_7x7"} if is_priced else set(names))
    ET.fromstring(draw.svg(found))
    assert "7\u00d77" in heatmap.svg(found, heatmap.load(path, found))
    assert network.build(found, seed=0)(torch.rand(2, 3, 8, 8)).isfinite().all()


def test_new_primitive_is_described_in_the_space(priced: Callable[..., Path]) -> None:
    backbone = zoo.build("resnet8", width=2, input_size=8)
    path = priced(backbone, primitives=("none", "conv_7x7"))
    candidates = manifest.load(path.parent / "space.json", "space")["candidates"]
    assert {(candidate["op"], candidate["kernel"]) for candidate in candidates} == {("conv_7x7", 7)}
    assert candidates[0]["num_weights"] == 2 * 2 * 49
