from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nash_search.base import manifest
from nash_search.base.errors import IntegrityError, ManifestError, UsageError
from nash_search.genotype import genotype, zoo
from nash_search.genotype.genotype import Genotype, NasOp
from nash_search.view import heatmap

SVG = "{http://www.w3.org/2000/svg}"
PRIMITIVES = ["none", "max_pool_3x3", "conv_3x3"]
PROBS = [0.25, 0.0, 0.75]
Content = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture
def found() -> Genotype:
    """Return a network that keeps a 3x3 convolution of the state before at each layer: 9 edges, 6 layers."""
    backbone = zoo.build("resnet8", width=4, input_size=16)
    states = [state for cell in backbone.cells for state in range(len(cell.layers))]
    return backbone.with_nas_ops([NasOp(op="conv_3x3", input=state, probability=0.75) for state in states])


@pytest.fixture
def content(found: Genotype) -> Content:
    """Return what alphas.json holds: at each edge the max-pool is discarded."""
    edges = [asdict(edge) | {"alphas": [0.0, 0.0, 1.1], "probabilities": list(PROBS)} for edge in found.edges()]
    return {"primitives": list(PRIMITIVES), "edges": edges}


@pytest.fixture
def write(found: Genotype, tmp_path: Path) -> Write:
    """Write genotype.json with its alphas.json, and return the former's path."""

    def write(content: object, network: Genotype = found) -> Path:
        file = tmp_path / "alphas.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        record = manifest.artifact_record(file, tmp_path, "alphas")
        genotype.save(network, tmp_path / "genotype.json", artifacts=[record])
        return tmp_path / "genotype.json"

    return write


def _draw(path: Path) -> ET.Element:
    found = genotype.load(path)
    return ET.fromstring(heatmap.svg(found, heatmap.load(path, found)))


def _of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if element.get("class") == name]


def _texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_alphas_are_read_in_the_order_of_the_edges(found: Genotype, content: Content, write: Write) -> None:
    content["edges"][4]["probabilities"] = [1, 0, 0]
    alphas = heatmap.load(write(content), found)
    assert alphas.primitives == tuple(PRIMITIVES)
    assert alphas.probs == (*[tuple(PROBS)] * 4, (1.0, 0.0, 0.0), *[tuple(PROBS)] * 4)


def test_heatmap_has_a_square_for_each_edge_and_primitive(content: Content, write: Write) -> None:
    root = _draw(write(content))
    assert len(_of_class(root, "square")) == 9 * 3
    assert root.findtext(f"{SVG}title") == "resnet8"
    texts = _texts(root)
    assert (texts.count("1 ← 0"), texts.count("1 ← 0 /2"), texts.count("2 ← 1")) == (1, 2, 3)
    assert (texts.count("max-pool"), texts.count("none"), texts.count("conv")) == (3, 3, 3)


def test_heatmap_outlines_what_each_layer_kept(found: Genotype, content: Content, write: Write) -> None:
    kept = [(rect.get("x"), rect.get("y")) for rect in _of_class(_draw(write(content)), "kept")]
    assert len(kept) == 6
    assert kept == [("174", "66"), ("174", "122")] * 3  # third column; first and last row
    assert _of_class(_draw(write(content, found.without_nas_ops())), "kept") == []


def test_layer_has_one_square_for_nothing(found: Genotype, content: Content, write: Write) -> None:
    content["relaxation"] = "layer"
    root = _draw(write(content, replace(found, cells=(found.without_nas_ops().cells[0], *found.cells[1:]))))
    squares = [square.find(f"{SVG}rect") for square in _of_class(root, "square")]
    assert len(squares) == 6 * 1 + 9 * 2  # of the three cells the first layer has one edge, the second two
    assert [rect.get("height") for rect in squares].count("44") == 3
    kept = [(rect.get("x"), rect.get("y"), rect.get("height")) for rect in _of_class(root, "kept")]
    assert kept[:2] == [("78", "66", "24"), ("78", "98", "48")]  # nothing, of one edge and of two
    assert kept[2:] == [("174", "66", "24"), ("174", "122", "24")] * 2
    assert any("of all of its layer" in text for text in _texts(root))


def test_discarded_operation_is_blank(content: Content, write: Write) -> None:
    squares = _of_class(_draw(write(content)), "square")
    seen = [(square.findtext(f"{SVG}text"), square.find(f"{SVG}rect").get("fill")) for square in squares]
    assert [text for text, _ in seen[:3]] == ["0.25", "–", "0.75"]  # noqa: RUF001 - a dash is drawn
    assert {fill for text, fill in seen if text == "–"} == {"url(#blank)"}  # noqa: RUF001
    assert "url(#blank)" not in {fill for text, fill in seen if text != "–"}  # noqa: RUF001


def test_scale_ends_at_the_largest_probability_in_the_darkest_colour(content: Content, write: Write) -> None:
    root = _draw(write(content))
    assert [text for text in _texts(root) if text in ("0.00", "0.38", "0.75")][:3] == ["0.00", "0.38", "0.75"]
    fills = [square.find(f"{SVG}rect").get("fill") for square in _of_class(root, "square")]
    assert fills[2] == "#003840"


def _luminance(colour: str) -> float:
    parts = [part / 255 for part in bytes.fromhex(colour[1:])]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_probabilities_are_legible_and_darken_evenly(found: Genotype) -> None:
    names = tuple(f"op{number}" for number in range(1, 101))
    alphas = heatmap.Alphas(primitives=names, probs=(tuple(number / 100 for number in range(1, 101)),) * 9)
    root = ET.fromstring(heatmap.svg(found.without_nas_ops(), alphas))
    lightness = []
    for square in _of_class(root, "square")[:100]:
        fill = _luminance(square.find(f"{SVG}rect").get("fill"))
        ink = 1.0 if square.find(f"{SVG}text").get("fill") == "#fff" else 0.0
        assert (max(fill, ink) + 0.05) / (min(fill, ink) + 0.05) >= 4.5
        lightness.append(116 * fill ** (1 / 3) - 16)  # CIELAB
    assert lightness == sorted(lightness, reverse=True)
    assert lightness[49] == pytest.approx((lightness[0] + lightness[-1]) / 2, abs=1.5)


@pytest.mark.parametrize(("name", "width"), [("resnet8", 1194), ("resnet18", 800), ("resnet34", 1194)])
def test_panels_stand_in_even_rows_within_the_width(name: str, width: int) -> None:
    network = zoo.build(name)
    probs = ((1 / 6,) * 6,) * sum(1 for _ in network.edges())
    names = ("none", "max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3", "conv_5x5")
    root = ET.fromstring(heatmap.svg(network, heatmap.Alphas(primitives=names, probs=probs)))
    assert root.get("width") == str(width)


def test_hostile_names_are_escaped(found: Genotype, content: Content, write: Write) -> None:
    content["primitives"][0] = "</text><script>\u0001"
    content["primitives"][1] = "x" * 5000
    root = _draw(write(content, replace(found, name="<a & 'b'>\u0000")))
    assert root.findtext(f"{SVG}title") == "<a & 'b'>\ufffd"
    assert _texts(root).count("</text><script>\ufffd") == 3
    assert _texts(root).count("x" * 23 + "…") == 3
    assert list(root.iter(f"{SVG}script")) == []


def test_genotype_without_alphas_is_refused(found: Genotype, tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    genotype.save(found, path)
    with pytest.raises(UsageError, match=r"--heatmap: got .*genotype\.json, which has no alphas, expected a genotype"):
        heatmap.load(path, found)


def test_missing_or_changed_alphas_are_refused(found: Genotype, content: Content, write: Write) -> None:
    path = write(content)
    (path.parent / "alphas.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"alphas\.json: sha256: got "):
        heatmap.load(path, found)
    (path.parent / "alphas.json").unlink()
    with pytest.raises(IntegrityError, match=r"alphas\.json: cannot be read"):
        heatmap.load(path, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primitives": None}, r"primitives: got null, expected a list of names, each once"),
        ({"primitives": []}, r"primitives: got a list of 0, expected a list of names"),
        ({"primitives": ["none", "none", "conv_3x3"]}, r"primitives: got a list of 3, expected a list of names"),
        ({"primitives": ["none", "skip_connect", "conv_5x5"]}, r"primitives: misses conv_3x3, which the"),
        ({"edges": []}, r"edges: got a list of 0, expected 9 objects"),
        ({"edges": [3] * 9}, r"edges: got a list of 9, expected 9 objects"),
        ({"relaxation": "node"}, r"relaxation: got \"node\", expected layer or edge"),
        ({"edges": {"0": 1}}, r"edges: got a dict of 1, expected 9 objects"),
    ],
)
def test_malformed_alphas_name_their_key(
    changes: Content, message: str, found: Genotype, content: Content, write: Write
) -> None:
    with pytest.raises(ManifestError, match=r"alphas\.json: " + message):
        heatmap.load(write(content | changes), found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 2}, r"edges\[1\]\.stride: got 2, expected 1 as in the genotype"),
        ({"input": [[]]}, r"edges\[1\]\.input: got a list of 1, expected 0 as in the genotype"),
        ({"probabilities": [0.5, 0.5]}, r"edges\[1\]\.probabilities: got a list of 2, expected 3 numbers"),
        ({"probabilities": [True, 0, 0]}, r"edges\[1\]\.probabilities: got a list of 3, expected 3 numbers"),
        ({"probabilities": [-1, 10**18, 0]}, r"probabilities: got -1, expected 0\.\.1 \| .*: got 10+, expected"),
        ({"cell": 7, "probabilities": None}, r"edges\[1\]\.cell: got 7.* \| edges\[1\]\.probabilities: got null"),
    ],
)
def test_malformed_edge_names_its_key(
    changes: Content, message: str, found: Genotype, content: Content, write: Write
) -> None:
    content["edges"][1] |= changes
    with pytest.raises(ManifestError, match=message):
        heatmap.load(write(content), found)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"edges": NaN}', "[" * 100_000, "9" * 5000])
def test_alphas_that_are_no_json_object_are_refused(text: str, found: Genotype, write: Write) -> None:
    with pytest.raises(ManifestError, match=r"json: (not valid JSON|got a JSON list|NaN is|nested|the number)"):
        heatmap.load(write(text), found)
