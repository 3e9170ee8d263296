from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nash_search.base import manifest
from nash_search.base.errors import ManifestError
from nash_search.genotype import genotype, zoo
from nash_search.genotype.decoding import decode
from nash_search.genotype.genotype import Genotype, NasOp
from nash_search.genotype.primitives import NONE
from nash_search.genotype.variants import VARIANTS, Variant


@pytest.mark.parametrize("name", [entry.name for entry in zoo.entries()])
def test_manifest_round_trips(name: str, tmp_path: Path) -> None:
    network = zoo.build(name, width=16)
    genotype.save(network, tmp_path / "g.json")
    assert genotype.load(tmp_path / "g.json") == network


def test_odd_network_is_consistent(odd_network: Genotype) -> None:
    assert genotype.check(odd_network) == []


def test_edges_leave_out_strides_above_two(odd_network: Genotype) -> None:
    found = [(edge.cell, edge.layer, edge.input, edge.stride) for edge in odd_network.edges()]
    assert found == [(0, 1, 0, 2), (0, 2, 0, 2), (0, 2, 1, 1), (0, 3, 1, 2), (0, 3, 2, 2), (1, 1, 0, 1)]


def test_resnet18_has_forty_edges() -> None:
    assert len(list(zoo.build("resnet18").edges())) == 40


def _write(content: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    genotype.save(zoo.build("resnet18-v1", width=8), tmp_path / "whole.json")
    return json.loads((tmp_path / "whole.json").read_text())


@pytest.mark.parametrize(
    ("layer", "change", "key"),
    [
        (0, {"residual_from": 1}, r"cells\[1\]\.layers\[0\]\.residual_from: got 1, expected an earlier state"),
        (1, {"projection": False}, r"cells\[1\]\.layers\[1\]\.projection: got false from 8 to 16"),
        (0, {"projection": True}, r"cells\[1\]\.layers\[0\]\.projection: got true without a residual"),
        (0, {"groups": 3}, r"cells\[1\]\.layers\[0\]\.groups: got 3"),
        (1, {"nas_op": {"op": "conv_1x1", "input": 2}}, r"cells\[1\]\.layers\[1\]\.nas_op\.input: got 2"),
        (3, {"nas_op": {"op": "max_pool_3x3", "input": 0}, "channels": 20}, r"layers\[3\]\.nas_op: got max_pool_3x3"),
        (3, {"nas_op": {"op": "skip_connect", "input": 0}, "channels": 15}, r"layers\[3\]\.nas_op: got skip_connect"),
        (1, {"stride": 2, "nas_op": {"op": "conv_1x1", "input": 0}}, r"layers\[1\]\.nas_op: .* stride 4"),
        (1, {"stride": 2, "nas_op": None}, r"layers\[1\]\.residual_from: got stride 4 from state 0"),
        (3, {"channels": 24}, r"cells\[2\]\.in_channels: got 16, expected 24"),
    ],
)
def test_contradiction_names_its_key(
    layer: int, change: dict[str, Any], key: str, content: dict[str, Any], tmp_path: Path
) -> None:
    content["cells"][1]["layers"][layer] |= change
    with pytest.raises(ManifestError, match=key):
        genotype.load(_write(content, tmp_path / "g.json"))


def test_all_contradictions_are_reported_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    for cell in content["cells"][:2]:
        cell["layers"][0]["groups"] = 5
    with pytest.raises(ManifestError, match=r"cells\[0\].*cells\[1\]"):
        genotype.load(_write(content, tmp_path / "g.json"))


def test_newer_minor_version_and_unknown_keys_are_read(content: dict[str, Any], tmp_path: Path) -> None:
    content |= {"schema": "nash.genotype/1.7", "unknown": 1}
    content["cells"][0]["layers"][0]["unknown"] = [1]
    with pytest.warns(UserWarning, match="newer"):
        found = genotype.load(_write(content, tmp_path / "g.json"))
    assert found.num_classes == 10


def test_an_integer_with_a_point_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    content["stem"]["kernel"] = 3.0
    content["num_classes"] = 10.0
    with pytest.raises(ManifestError, match=r"num_classes: got 10\.0, expected integer \| stem\.kernel: got 3\.0, exp"):
        genotype.load(_write(content, tmp_path / "g.json"))


def test_what_is_written_fits_the_schema() -> None:
    written = manifest.header("genotype") | genotype.to_manifest(zoo.build("resnet34-v3"))
    json.dumps(written, allow_nan=False)
    assert written["cells"][0]["layers"][0]["nas_op"] == {"op": "conv_1x1", "input": 0, "probability": None}


def _literally(network: Genotype, probs: list[list[float]], variant: Variant) -> list[NasOp | None]:
    """Decode as the method tells it: layer by layer, edge by edge, dropping and drawing again.

    Nothing is kept where `none` is more probable, on every edge of the layer, than what would be.
    """
    edges, found = list(network.edges()), []
    for cell, layer in dict.fromkeys((edge.cell, edge.layer) for edge in edges):
        candidates = {
            (edge.input, op, edge.stride): p
            for edge, row in zip(edges, probs, strict=True)
            for op, p in zip(variant.primitives, row, strict=True)
            if (edge.cell, edge.layer) == (cell, layer) and op != NONE
        }
        if variant.name == "v2":  # convolutions only, on strided edges
            candidates = {key: p for key, p in candidates.items() if key[2] == 1 or key[1].startswith("conv")}
        while True:
            winner = max(candidates, key=candidates.__getitem__)
            is_forbidden = winner[2] == 2 and winner[1] in ("skip_connect", "max_pool_3x3")
            if variant.name != "v3" or not is_forbidden:
                break
            del candidates[winner]
        rows = [row for edge, row in zip(edges, probs, strict=True) if (edge.cell, edge.layer) == (cell, layer)]
        is_nothing = all(row[0] > candidates[winner] for row in rows)
        found.append(None if is_nothing else NasOp(op=winner[1], input=winner[0], probability=candidates[winner]))
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_decoding_follows_the_rule_of_the_variant(name: str) -> None:
    network, variant, rng = zoo.build("resnet18"), VARIANTS[name], random.Random(0)
    for _ in range(20):
        probs = [[rng.random() for _ in variant.primitives] for _ in network.edges()]
        decoded = decode(network, probs, variant)
        assert decoded.variant == name
        assert [layer.nas_op for cell in decoded.cells for layer in cell.layers] == _literally(network, probs, variant)


def _first_op(name: str, row: list[float]) -> NasOp | None:
    network = zoo.build("resnet8")
    probs = [[0.1] * len(row) for _ in network.edges()]
    probs[3] = row  # of the strided edge at the head of cell 1
    return decode(network, probs, VARIANTS[name]).cells[1].layers[0].nas_op


def test_none_is_decoded_where_it_wins_on_every_edge() -> None:
    assert _first_op("v1", [0.9, 0.01, 0.02, 0.03, 0.04, 0.0]) is None
    assert _first_op("v1", [0.3, 0.01, 0.02, 0.03, 0.4, 0.24]) == NasOp(op="conv_3x3", input=0, probability=0.4)
    assert _first_op("v3", [0.3, 0.01, 0.4, 0.03, 0.02, 0.24]) is None  # v3 may not keep the skip, the likeliest
    network = zoo.build("resnet8")
    probs = [[0.9, 0.02, 0.02, 0.02, 0.02, 0.02] for _ in network.edges()]
    probs[2] = [0.2, 0.02, 0.02, 0.02, 0.3, 0.44]  # the second edge of the second layer
    ops = [layer.nas_op for cell in decode(network, probs, VARIANTS["v1"]).cells for layer in cell.layers]
    assert ops == [None, NasOp(op="conv_5x5", input=1, probability=0.44), *[None] * 4]


@pytest.mark.parametrize(("name", "op"), [("v1", "skip_connect"), ("v2", "conv_5x5"), ("v3", "conv_5x5")])
def test_strided_edge_keeps_what_its_variant_admits(name: str, op: str) -> None:
    found = _first_op(name, [0.0, 0.3, 0.4, 0.05, 0.05, 0.2])
    assert found is not None
    assert found.op == op


def test_decoding_passes_over_what_an_edge_cannot_carry(odd_network: Genotype) -> None:
    # state 2 of the first cell has 6 channels, state 1 has 8: no max-pool leads there
    probs = [[0.0, 0.9, 0.02, 0.03, 0.04, 0.01] for _ in odd_network.edges()]
    decoded = decode(odd_network, probs, VARIANTS["v1"])
    assert genotype.check(decoded) == []
    assert decoded.cells[0].layers[1].nas_op == NasOp(op="conv_3x3", input=0, probability=0.04)


def test_plain_backbone_drops_nas_ops() -> None:
    assert zoo.build("resnet18-v3").without_nas_ops().cells == zoo.build("resnet18").cells


def test_decoding_needs_a_row_an_edge() -> None:
    with pytest.raises(ValueError, match="shorter"):
        decode(zoo.build("resnet8"), [[1.0] * 6], VARIANTS["v1"])


def test_genotype_is_immutable() -> None:
    network = zoo.build("resnet8")
    with pytest.raises(AttributeError):
        network.name = "other"  # type: ignore[misc]
    assert replace(network, name="other").cells is network.cells
