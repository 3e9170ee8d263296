from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from nash_search.genotype import zoo
from nash_search.genotype.genotype import Genotype
from nash_search.view import draw


@pytest.mark.parametrize("name", [entry.name for entry in zoo.entries()])
def test_drawing_is_well_formed_and_shows_every_operation(name: str) -> None:
    network = zoo.build(name)
    root = ET.fromstring(draw.svg(network))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    num_layers = sum(len(cell.layers) for cell in network.cells)
    assert sum(text.startswith("state ") for text in texts if text) == num_layers + len(network.cells)
    arcs = list(root.iter("{http://www.w3.org/2000/svg}path"))
    num_residuals = sum(layer.residual_from is not None for cell in network.cells for layer in cell.layers)
    num_nas_ops = num_layers if network.variant else 0
    num_arrow_heads = 7
    assert len(arcs) == num_residuals + num_nas_ops + num_arrow_heads


def test_drawing_escapes_names(odd_network: Genotype) -> None:
    from dataclasses import replace

    root = ET.fromstring(draw.svg(replace(odd_network, name="<a & 'b'>")))
    assert "<a & 'b'>" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_table_names_each_layer() -> None:
    lines = draw.table(zoo.build("resnet18-v3")).splitlines()
    assert len(lines) == 3 + 16
    assert lines[0] == "resnet18-v3: 3 x 32 x 32 in, 10 classes out"
    assert " ".join(lines[7].split()) == "1 1 128 x 16 x 16 3x3 /2 - conv_5x5 of state 0 /2"


def test_sizes_round_up(odd_network: Genotype) -> None:
    table = draw.table(odd_network)
    assert "8 x 4 x 3" in table  # 13 x 9, halved by the stem's pool to 7 x 5, and again
    assert "2 groups" in table
