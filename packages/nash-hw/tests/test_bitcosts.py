from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from networks import run

from nash_hw.base import manifest
from nash_hw.base.errors import CapacityError, ManifestError, UnsupportedError, UsageError
from nash_hw.boards.board import RESOURCES
from nash_hw.boards.boards import find_board
from nash_hw.costs.bitcosts import BitCostsConfig, price_bits, summary
from nash_hw.costs.pieces import PIECE, Piece, PieceBits, write
from nash_hw.costs.places import places_of, tensors_of

CONFIG = BitCostsConfig(board="U250", bits=(4,), target_fps=1000, quiet=True)
_BITS = {"main": 4, "residual": 8, "nas_op": 1, "join": 8, "act": 4, "state": 8}
_LAYERS = {  # of every-operation-v3: what each has beside its convolution and its activation
    "0.0": "nas_op join state",
    "0.1": "join",
    "0.2": "join state",
    "1.0": "join",
    "1.1": "residual nas_op join",
    "1.2": "nas_op join state",
    "2.0": "nas_op join",
    "2.1": "",
    "2.2": "join",
}
RESOLVED = {"stem": 8, "stem_act": 4, "stem_state": 8, "features": 4, "classifier": 8} | {
    f"cells.{place[0]}.layers.{place[2]}.{name}": _BITS[name]
    for place, names in _LAYERS.items()
    for name in ["main", "act", *names.split()]
}
RESOLVED["cells.1.layers.1.nas_op"] = 2  # a strided skip
SHAPES = {
    "conv": Piece(kind="conv", in_channels=4, out_channels=6, size=(5, 5), kernel=3, stride=2),
    "rectified": Piece(kind="conv", in_channels=4, out_channels=6, size=(5, 5), kernel=3, rectified=True),
    "depthwise": Piece(kind="conv", in_channels=4, out_channels=4, size=(5, 5), kernel=3, groups=4),
    "reduce": Piece(kind="reduce", in_channels=4, out_channels=6, size=(6, 6), stride=2),
    "reduce-odd": Piece(kind="reduce", in_channels=4, out_channels=6, size=(5, 5), stride=2),
    "pool": Piece(kind="pool", in_channels=4, out_channels=8, size=(6, 6), stride=2),
    "identity": Piece(kind="identity", in_channels=4, out_channels=4, size=(4, 4)),
    "sum": Piece(kind="sum", in_channels=6, out_channels=6, size=(4, 4), num_terms=3),
    "coarse": Piece(kind="coarse", in_channels=4, out_channels=4, size=(4, 4)),
    "max_pool": Piece(kind="max_pool", in_channels=4, out_channels=4, size=(6, 6), stride=2),
    "max_pool-wide": Piece(kind="max_pool", in_channels=4, out_channels=8, size=(6, 6), stride=2),
    "head": Piece(kind="head", in_channels=4, out_channels=3, size=(4, 4)),
}


@pytest.fixture
def resolved_json(model_json):
    """A model manifest that says the bits of all its tensors."""
    content = json.loads(model_json.read_text())
    content["quantization"]["resolved"] = RESOLVED
    model_json.write_text(json.dumps(content))
    return model_json


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bits", [PieceBits(read=3, write=2, weight=2), PieceBits(read=5, write=4, weight=1)])
def test_piece_is_a_network_the_flow_keeps_exactly(name, bits, finn):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    from nash_hw.graph.streamline import streamline

    piece = SHAPES[name]
    source = write(piece, bits)
    input_bits = 8 if piece.kind == "sum" else bits.read
    shape = [dim.dim_value for dim in source.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).integers(0, 2**input_bits, shape).astype(np.float32)
    reference = ModelWrapper(source).transform(InferShapes())
    scaled = x * np.float32(6 / (2**input_bits - 1))
    expected = execute_onnx(reference, {"x": scaled})[reference.graph.output[0].name]
    model, dequantization = streamline(source, input_bits=input_bits)
    actual = run(model, x).reshape(expected.shape) * dequantization.scale[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert len(np.unique(expected)) > 1


def test_places_hold_every_tensor(resolved_json):
    model = json.loads(resolved_json.read_text())
    places = places_of(model)
    assert {name for place in places for name in place.bits.tensors} == set(RESOLVED)
    assert len({place.name for place in places}) == len(places)
    weights = [place.bits.weight for place in places if place.bits.weight is not None]
    assert sorted(weights) == sorted(
        name for name in RESOLVED if name.endswith(("main", "residual", "nas_op")) or name in ("stem", "classifier")
    )
    lowest = {name: tensor.lowest for name, tensor in tensors_of(model).items()}
    two = {name for name in RESOLVED if name.endswith("join")} | {"cells.1.layers.1.nas_op"}
    assert {name for name, least in lowest.items() if least == 2} == two
    by_name = {place.name: place for place in places}
    strided = by_name["cells.1.layers.0.nas_op"]
    assert (strided.piece.kind, strided.piece.stride, strided.piece.size) == ("pool", 2, (11, 11))
    assert strided.bits.tensors == ("cells.0.layers.2.state", "cells.1.layers.0.join")
    assert by_name["cells.1.layers.1.sum"].piece.num_terms == 3
    assert by_name["cells.2.layers.1.main"].bits.tensors == tuple(
        f"cells.2.layers.{name}" for name in ("1.main", "0.act", "1.act")
    )
    assert "cells.2.layers.1.coarse" not in by_name


def test_states_in_aligned_sums_are_no_places(resolved_json):
    model = json.loads(resolved_json.read_text())
    model["quantization"] |= {"join": "aligned", "join_shift": 2}
    wide = {place.name: place for place in places_of(model)}
    model["quantization"]["resolved"] = RESOLVED | {name: 2 for name in RESOLVED if name.endswith("state")}
    places = {place.name: place for place in places_of(model)}
    assert places.keys() == wide.keys()
    skip, pool, convolution = (f"cells.{place}.nas_op" for place in ("0.layers.2", "1.layers.0", "0.layers.0"))
    assert skip not in places
    assert (places[pool].piece.kind, places[pool].bits.tensors) == ("max_pool", ("cells.0.layers.2.state",))
    bits = model["quantization"]["resolved"]
    assert places[pool].piece_bits(bits) == PieceBits(read=2, write=2)
    assert places[convolution].piece_bits(bits).write == 8  # a sum of convolutions alone
    main, total = places["cells.1.layers.0.main"], places["cells.1.layers.0.sum"]
    assert (main.piece_bits(bits).write, total.piece_bits(bits).read, total.piece.num_terms) == (6, 6, 2)
    assert wide["cells.1.layers.0.main"].piece_bits(RESOLVED).write == 8  # no more than the join has


def test_fused_sums_are_refused(resolved_json, tmp_path):
    content = json.loads(resolved_json.read_text())
    content["quantization"]["join"] = "fused"
    resolved_json.write_text(json.dumps(content))
    with pytest.raises(UnsupportedError, match=r"quantization\.join: got 'fused', expected quantized or aligned"):
        price_bits(resolved_json, CONFIG, tmp_path / "bitcosts.json")


def test_price_is_what_the_layers_of_the_model_take(resolved_json, tmp_path, finn):
    """Its own weights are not the random ones of a piece, so accumulators differ by a bit or so."""
    from nash_hw.costs.specialized import specialized
    from nash_hw.fold.options import price_groups

    costs = price_bits(resolved_json, CONFIG, tmp_path / "bitcosts.json")
    assert manifest.load(tmp_path / "bitcosts.json", "bitcosts") == costs
    assert {tensor["name"]: tensor["bits"] for tensor in costs["tensors"]} == RESOLVED
    prices = _prices(costs, RESOLVED)
    model = specialized(onnx.load(str(resolved_json.parent / "model.onnx")), find_board("U250"), 200_000)
    groups = price_groups(model, find_board("U250"))
    for name in (
        "cells.0.layers.1.main",
        "cells.1.layers.0.main",
        "cells.1.layers.1.residual",
        "cells.0.layers.0.nas_op",
    ):
        *place, operation = name.split(".")
        cell, layer = f"{place[0]}.{place[1]}", f"{place[2]}.{place[3]}"
        convolution = [g for g in groups if g.source.startswith(f"{cell}/{layer}/{operation}/")]
        taken = sum(group.cheapest(200_000).resources["LUT"] for group in convolution)
        quantizers = [g for g in groups if g.source.startswith(f"{cell}/{layer}/join")]
        each = max(group.cheapest(200_000).resources["LUT"] for group in quantizers)
        assert taken < prices[name]["LUT"] < 1.2 * (taken + each), name
    for name in RESOURCES:
        total = sum(price[name] for price in prices.values())
        assert costs["rest"][name] + total == pytest.approx(costs["model_resources"][name])
    assert abs(costs["rest"]["LUT"]) < 0.4 * costs["model_resources"]["LUT"]  # converters, FIFOs, copies


def _prices(costs, bits):
    """Return the prices of all places at some bits, found by hand in the tables."""
    candidates = {tensor["name"]: tensor["candidates"] for tensor in costs["tensors"]}
    prices = {}
    for place in costs["places"]:
        shape = [len(candidates[name]) for name in place["tensors"]]
        position = tuple(candidates[name].index(bits[name]) for name in place["tensors"])
        assert all(len(place["resources"][name]) == math.prod(shape) for name in RESOURCES)
        prices[place["name"]] = {name: np.reshape(place["resources"][name], shape)[position] for name in RESOURCES}
    return prices


def test_table_follows_its_tensors(resolved_json, tmp_path, finn):
    config = BitCostsConfig(board="U250", bits=(8,), target_fps=1000, quiet=True)
    costs = price_bits(resolved_json, config, tmp_path / "bitcosts.json")
    own, wide = _prices(costs, RESOLVED), _prices(costs, RESOLVED | {"stem_act": 8})
    changed = {name for name in own if own[name] != wide[name]}
    assert changed == {"stem_coarse", "cells.0.layers.0.main"}  # the stem writes the finer, its state
    assert own["stem_coarse"]["LUT"] > wide["stem_coarse"]["LUT"] == 0  # at equal bits there is nothing to make coarser
    rows = {row[0]: row for row in summary(costs)}
    assert rows["tensor"] == ["tensor", "bits", "LUT at 1", "LUT at 2", "LUT at 4", "LUT at 8"]
    change = sum(wide[name]["LUT"] - own[name]["LUT"] for name in own)
    assert rows["stem_act"] == ["stem_act", "4", "", "", "+0", f"{change:+,.0f}"]


def test_piece_that_is_too_slow_is_named(resolved_json, tmp_path):
    config = BitCostsConfig(board="U250", bits=(4,), target_fps=1e7, quiet=True)
    with pytest.raises(CapacityError, match=r"--target-fps: got 1e\+07"):
        price_bits(resolved_json, config, tmp_path / "bitcosts.json")
    assert not (tmp_path / "bitcosts.json").exists()


def test_model_without_resolved_bits_is_refused(model_json, tmp_path):
    with pytest.raises(ManifestError, match="quantization: misses the key 'resolved'; export the model anew"):
        price_bits(model_json, CONFIG, tmp_path / "bitcosts.json")


def test_wrong_options_are_all_named():
    with pytest.raises(UsageError, match=r"--bits: got 0, .*; --bits: got 9, .*; --target-fps: got 0"):
        BitCostsConfig(board="U250", bits=(0, 4, 9), target_fps=0)


def test_piece_names_begin_with_its_own():
    names = [node.name for node in write(SHAPES["conv"], PieceBits(read=4, write=4, weight=4)).graph.node]
    assert [name for name in names if not name.startswith(f"/{PIECE}/")] == ["/state/Quant_output_0"]
