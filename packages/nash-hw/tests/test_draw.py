from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from test_build import build

from nash_hw.base import manifest
from nash_hw.build.draw import layout

_TAG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    from conftest import DATA

    out = tmp_path_factory.mktemp("drawn") / "hw"
    result = build(DATA / "every-operation-v3" / "model.json", out, target_fps=5000)
    return result, ET.parse(out / "dataflow.svg").getroot()


def boxes(root) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Return the texts and the rectangle of each layer's box."""
    found = {}
    for group in root.findall(f"{_TAG}g"):
        texts = [text.text for text in group.findall(f"{_TAG}text")]
        found[texts[0]] = (texts, group.find(f"{_TAG}rect").attrib)
    return found


def test_every_layer_has_a_box_with_its_figures(drawn):
    result, root = drawn
    found = boxes(root)
    assert list(found) == [layer["name"] for layer in result["layers"]]
    for layer in result["layers"]:
        texts = " ".join(found[layer["name"]][0])
        assert f"{layer['cycles']:,} cycles" in texts
        assert layer["PE"] is None or f"PE {layer['PE']}" in texts
        assert not layer["resources"]["DSP"] or f"{layer['resources']['DSP']:,.0f} DSP" in texts


def test_only_the_bottleneck_is_framed(drawn):
    result, root = drawn
    thick = [name for name, (texts, box) in boxes(root).items() if "bottleneck" in texts and box["stroke-width"] == "4"]
    assert thick == [result["estimated"]["bottleneck"]]


def test_no_two_boxes_overlap_and_all_are_inside(drawn):
    _, root = drawn
    _, _, width, height = (float(value) for value in root.attrib["viewBox"].split())
    corners = []
    for _, box in boxes(root).values():
        x, y, w, h = (float(box[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= width
        assert y + h <= height
        corners.append((x, y, w, h))
    for position, (x, y, w, h) in enumerate(corners):
        for other_x, other_y, *_ in corners[position + 1 :]:
            assert abs(x - other_x) >= w or abs(y - other_y) >= h


def test_it_is_an_artifact_and_loads_nothing(drawn, tmp_path):
    result, root = drawn
    assert [artifact["path"] for artifact in result["artifacts"] if artifact["role"] == "drawing"] == ["dataflow.svg"]
    text = ET.tostring(root, encoding="unicode")
    assert "href" not in text
    assert "<script" not in text


def test_streams_lie_in_lanes_of_their_own():
    """A fork whose branches are 0, 1 and 3 layers long, and a stream from the first layer to the last."""
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (5, 4), (0, 4), (4, 6), (0, 6)]
    order = {0: 0, 1: 1, 2: 2, 3: 3, 5: 4, 4: 5, 6: 6}
    plan = layout([(order[source], order[reader]) for source, reader in edges], 7)
    rows = [row for row, _ in plan.places]
    used: dict[int, list[tuple[int, int]]] = {}
    for node, (row, lane) in enumerate(plan.places):
        used.setdefault(lane, []).append((row, row))
        assert all(rows[source] < row for source, reader, _ in plan.streams if reader == node)
    for source, reader, lane in plan.streams:
        if rows[reader] - rows[source] > 1:
            used.setdefault(lane, []).append((rows[source] + 1, rows[reader] - 1))
    for spans in used.values():
        for (_, end), (start, _) in pairwise(sorted(spans)):
            assert end < start
    assert len(plan.streams) == len(edges)


def test_names_are_escaped(model_json, tmp_path):
    content = model_json.read_text().replace("every-operation-v3", "a<b>&'c", 1)
    Path(model_json).write_text(content)
    build(model_json, tmp_path / "hw", target_fps=1000)
    name = manifest.load(tmp_path / "hw" / "hardware.json", "hardware")["name"]
    root = ET.parse(tmp_path / "hw" / "dataflow.svg").getroot()
    assert root.find(f"{_TAG}title").text == f"{name} on ZCU104"
