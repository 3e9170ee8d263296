"""Prices of a whole network: its backbone and each of its operations, against the network with all of them."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from nash_hw.base.errors import CapacityError, ManifestError, UsageError
from nash_hw.boards.board import RESOURCES
from nash_hw.costs.costs import CostsConfig, parse_widths, price_space
from nash_hw.costs.plain import Bits, cells_of, part, stretch, whole, widened

CONFIG = CostsConfig(board="ZCU104", weight_bits=4, act_bits=4, target_fps=20_000, quiet=True)
BITS = Bits(weight=4, act=4)


def layer(channels, stride=1, residual_from=None, *, projection=False, nas_op=None):
    return {
        "kernel": 3,
        "channels": channels,
        "stride": stride,
        "groups": 1,
        "residual_from": residual_from,
        "projection": projection,
        "nas_op": nas_op,
    }


def tiny(*nas_ops):
    """A cell of four layers and a strided one of two, every other with a residual; operations: (layer, op, input)."""
    layers = [layer(4), layer(4, residual_from=0), layer(4), layer(4, residual_from=2)]
    layers += [layer(8, 2), layer(8, residual_from=0, projection=True)]
    for number, op, source in nas_ops:
        layers[number]["nas_op"] = {"op": op, "input": source}
    return {
        "num_classes": 3,
        "input": {"channels": 3, "height": 8, "width": 8},
        "stem": {"channels": 4, "kernel": 3, "stride": 1, "max_pool": False},
        "cells": [{"in_channels": 4, "layers": layers[:4]}, {"in_channels": 4, "layers": layers[4:]}],
    }


def candidate(number, op, source):
    """Return a candidate of the tiny network by the number of its layer, as nash-search writes it."""
    cell, position = divmod(number, 4)
    is_strided = cell == 1 and source == 0
    return {
        "cell": cell,
        "layer": position + 1,
        "input": source,
        "op": op,
        "in_channels": 8 if cell == 1 and source else 4,
        "out_channels": 4 if cell == 0 else 8,
        "stride": 2 if is_strided else 1,
        "input_height": 4 if cell == 1 and source else 8,
        "input_width": 4 if cell == 1 and source else 8,
    }


def price(tmp_path, candidates, config=CONFIG, network=None):
    path = tmp_path / "space.json"
    content = {"schema": "nash.space/1.1", "inputs": [], "name": "tiny-v3", "candidates": candidates}
    path.write_text(json.dumps(content | {"network": tiny() if network is None else network}))
    return price_space(path, config, tmp_path / "costs.json")


OPERATIONS = (
    (0, "conv_3x3", 0),
    (1, "max_pool_3x3", 1),
    (2, "skip_connect", 0),
    (3, "conv_5x5", 1),
    (4, "conv_1x1", 0),
    (5, "conv_3x3", 1),
)


@pytest.mark.parametrize(("joins", "tolerance"), [("quantized", 0.03), ("aligned", 0.03), ("fused", 0.04)])
def test_backbone_and_operations_sum_up_to_the_whole_accelerator(joins, tolerance, tmp_path, finn):
    from nash_hw.boards.boards import find_board
    from nash_hw.costs.specialized import specialized
    from nash_hw.fold.folding import FoldingSpace

    config = CostsConfig(board="ZCU104", weight_bits=4, act_bits=4, target_fps=20_000, joins=joins, quiet=True)
    result = price(tmp_path, [candidate(*found) for found in OPERATIONS], config)
    board = find_board("ZCU104")
    model = specialized(whole(tiny(*OPERATIONS), BITS, joins), board, config.max_cycles)
    actual = FoldingSpace(model, board).for_fps(config.target_fps, config.clock_mhz).resources
    for name in ("LUT", "FF"):
        priced = sum(found["resources"][name] for found in [result["backbone"], *result["candidates"]])
        assert priced == pytest.approx(actual[name], rel=tolerance), name
        assert result["backbone"]["resources"][name] < 0.7 * actual[name]  # there is something to add
    for name in ("BRAM_18K", "URAM", "DSP"):
        priced = sum(found["resources"][name] for found in [result["backbone"], *result["candidates"]])
        assert priced == pytest.approx(actual[name], abs=4), name


def test_an_arc_costs_what_waits_in_its_fifo(tmp_path, finn):
    result = price(tmp_path, [candidate(3, "conv_1x1", source) for source in range(4)])
    fifos = [found["fifos"] for found in result["candidates"]]
    assert all(longer["LUT"] > 1.05 * shorter["LUT"] for longer, shorter in pairwise(fifos))
    for found in result["candidates"]:
        assert all(found["fifos"][name] <= found["resources"][name] for name in RESOURCES)


def test_the_first_operation_of_a_layer_without_a_join_brings_it(tmp_path, finn):
    with_residual, without = (candidate(number, "conv_1x1", source) for number, source in ((1, 1), (2, 2)))
    result = price(tmp_path, [with_residual, without])
    first, second = (found["resources"]["LUT"] for found in result["candidates"])
    assert second > 1.2 * first


def test_costs_of_the_backbone_and_of_other_widths(tmp_path, finn):
    config = CostsConfig(
        board="ZCU104", weight_bits=4, act_bits=4, target_fps=20_000, widths=parse_widths("8,4,6"), quiet=True
    )
    result = price(tmp_path, [], config)
    assert result["schema"] == "nash.costs/1.1"
    assert [network["width"] for network in result["widths"]] == [4, 6, 8]
    assert result["backbone"] == result["widths"][0]
    luts = [network["resources"]["LUT"] for network in result["widths"]]
    assert luts == sorted(luts)
    wide = price(tmp_path, [], network=widened(tiny(), 8))["backbone"]
    assert wide == result["widths"][2]
    assert 0 < result["backbone"]["cycles"] <= CONFIG.max_cycles


def test_widths_scale_all_channels():
    network = tiny() | {"stem": tiny()["stem"] | {"channels": 4}}
    network["cells"][1]["layers"][1]["groups"] = 8  # depthwise
    wide = widened(network, 6)
    assert [cell["in_channels"] for cell in wide["cells"]] == [6, 6]
    assert [found["channels"] for cell in wide["cells"] for found in cell["layers"]] == [6] * 4 + [12] * 2
    assert wide["cells"][1]["layers"][1]["groups"] == 12
    assert network["cells"][0]["in_channels"] == 4
    network["cells"][0]["layers"][0]["channels"] = 2
    with pytest.raises(UsageError, match=r"--widths: got 5, expected a multiple of 2: a layer has 2 at 4"):
        widened(network, 5)


def test_a_stretch_begins_where_what_ends_within_it_begins():
    cell = cells_of(tiny())[0]
    for source, target, start in ((0, 1, 0), (1, 2, 0), (2, 3, 2), (3, 4, 2), (1, 4, 0), (2, 4, 2)):
        found, begins = stretch(cell, source, target)
        assert begins == start
        assert len(found.layers) == target - start
        residuals = [one.residual_from for one in found.layers if one.residual_from is not None]
        assert all(residual >= 0 for residual in residuals)
    down = cells_of(tiny())[1]
    found, begins = stretch(down, 1, 2)
    assert (begins, found.size, found.in_channels) == (0, (8, 8), 4)


@pytest.mark.parametrize("joins", ["quantized", "fused"])  # float32 does not hold ties of aligned sums
def test_the_flow_keeps_a_whole_network_and_a_stretch_exactly(joins, finn):
    import numpy as np
    from networks import pictures, qonnx_outputs, run

    from nash_hw.graph.streamline import streamline

    source = whole(tiny(*OPERATIONS), BITS, joins)
    images = pictures(source)
    expected = qonnx_outputs(source, images)
    model, dequantization = streamline(source)
    np.testing.assert_allclose(
        run(model, images) * dequantization.scale + dequantization.bias, expected, rtol=1e-6, atol=1e-6
    )
    assert len(np.unique(expected)) == expected.size  # not all of it is clipped
    around, start = stretch(cells_of(tiny())[0], 1, 4)
    source = part(around.with_operation("max_pool_3x3", 1 - start), BITS, joins)
    assert streamline(source, input_bits=4)[0].get_tensor_shape(source.graph.output[0].name) == [1, 4, 8, 8]


def test_widths_of_a_space_without_a_network_are_refused(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps({"schema": "nash.space/1.0", "inputs": [], "name": "old", "candidates": []}))
    config = CostsConfig(board="ZCU104", weight_bits=4, act_bits=4, target_fps=1000, widths=(8,), quiet=True)
    with pytest.raises(
        UsageError, match=r"--widths: got .*space\.json, which does not tell its network; write it anew"
    ):
        price_space(path, config, tmp_path / "costs.json")


@pytest.mark.parametrize(("text", "message"), [("8,x", "got '8,x', expected whole numbers"), ("", "got ''")])
def test_wrong_widths_are_refused(text, message):
    with pytest.raises(UsageError, match=rf"--widths: {message}"):
        parse_widths(text)
    with pytest.raises(UsageError, match="--widths: got 0, expected at least 1"):
        CostsConfig(board="ZCU104", weight_bits=4, act_bits=4, target_fps=1000, widths=(8, 0))


def test_candidates_that_the_network_lacks_are_refused(tmp_path):
    for changed in ({"cell": 2}, {"layer": 5}, {"layer": 1, "input": 1}):
        with pytest.raises(ManifestError, match=r"candidates\[0\]: got cell .*, which its network lacks"):
            price(tmp_path, [candidate(0, "conv_3x3", 0) | changed])
    network = tiny()
    del network["stem"]["kernel"]
    with pytest.raises(ManifestError, match=r"network\.stem: misses the key 'kernel'"):
        price(tmp_path, [], network=network)


def test_a_width_that_is_too_slow_is_named(tmp_path, finn):
    config = CostsConfig(board="ZCU104", weight_bits=4, act_bits=4, target_fps=1e7, quiet=True)
    with pytest.raises(CapacityError, match="the plain backbone at width 4: --target-fps: got 1e\\+07"):
        price(tmp_path, [], config)
    assert not (tmp_path / "costs.json").exists()


def test_every_resource_of_a_plain_network_is_told(tmp_path, finn):
    backbone = price(tmp_path, [])["backbone"]
    assert set(backbone["resources"]) == set(backbone["fifos"]) == set(RESOURCES)
    assert 0 < backbone["fifos"]["LUT"] < 0.5 * backbone["resources"]["LUT"]
