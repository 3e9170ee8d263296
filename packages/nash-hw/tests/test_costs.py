from __future__ import annotations

import json

import pytest
from networks import Network

from nash_hw.base import manifest
from nash_hw.base.errors import CapacityError, ManifestError, UnsupportedError, UsageError
from nash_hw.boards.board import RESOURCES
from nash_hw.boards.boards import find_board
from nash_hw.costs.costs import CostsConfig, price_space
from nash_hw.costs.plain import refuse_newer

CONFIG = CostsConfig(board="U250", weight_bits=4, act_bits=4, target_fps=2000)
OPERATIONS = ["max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3", "conv_5x5"]


def price_of(resources, board):
    return sum(resources[name] / board.resources[name] * (2 if name == "LUT" else 1) for name in RESOURCES)


def candidate(op, *, layer=1, stride=1, channels=(16, 16), size=8):
    return {
        "cell": 0,
        "layer": layer,
        "input": 0,
        "op": op,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "stride": stride,
        "input_height": size,
        "input_width": size,
    }


def space(tmp_path, candidates):
    path = tmp_path / "space.json"
    content = {"schema": "nash.space/1.0", "inputs": [], "name": "tiny-v3", "candidates": candidates}
    path.write_text(json.dumps(content))
    return path


def price(tmp_path, candidates, config=CONFIG):
    return price_space(space(tmp_path, candidates), config, tmp_path / "costs.json")


def test_costs_name_what_was_priced_in_the_order_of_the_space(tmp_path):
    candidates = [candidate(op, layer=layer) for layer in (1, 2) for op in OPERATIONS]
    result = price(tmp_path, candidates)
    assert manifest.load(tmp_path / "costs.json", "costs") == result
    places = [[found[key] for key in ("cell", "layer", "input", "op")] for found in result["candidates"]]
    assert places == [[found[key] for key in ("cell", "layer", "input", "op")] for found in candidates]
    assert result["available"]["DSP"] == 11_520
    assert (result["inputs"][0]["path"], result["artifacts"]) == ("space.json", [])
    first, second = result["candidates"][:5], result["candidates"][5:]
    assert [found["resources"] for found in first] == [found["resources"] for found in second]


@pytest.mark.parametrize(("stride", "channels", "size"), [(1, (16, 16), 8), (2, (16, 32), 8), (2, (16, 32), 7)])
def test_every_operation_has_a_price(stride, channels, size, tmp_path, finn):
    config = CostsConfig(board="U250", weight_bits=4, act_bits=4, target_fps=20_000)
    shape = {"stride": stride, "channels": channels, "size": size}
    result = price(tmp_path, [candidate(op, **shape) for op in OPERATIONS], config)
    prices = {found["op"]: found["resources"] for found in result["candidates"]}
    assert all(resources["LUT"] > 0 for resources in prices.values())
    assert all(0 < found["cycles"] <= 200e6 / 20_000 for found in result["candidates"])
    assert prices["max_pool_3x3"]["URAM"] == 0
    assert prices["max_pool_3x3"]["DSP"] <= 1  # its quantizer may be a Requant
    # arithmetic may lie in DSPs or in LUTs
    parts = [price_of(prices[op], find_board("U250")) for op in ("conv_1x1", "conv_3x3", "conv_5x5")]
    assert parts == sorted(parts)


def test_operations_are_cheaper_where_joins_are_aligned_or_fused(tmp_path, finn):
    candidates = [candidate(op) for op in OPERATIONS]
    prices = {}
    for joins in ("quantized", "aligned", "fused"):
        config = CostsConfig(board="ZCU104", weight_bits=4, act_bits=4, target_fps=2000, joins=joins)
        result = price(tmp_path, candidates, config)
        assert result["joins"] == joins
        found = (price_of(one["resources"], find_board("ZCU104")) for one in result["candidates"])
        prices[joins] = dict(zip(OPERATIONS, found, strict=True))
    for op in ("max_pool_3x3", "skip_connect"):
        assert prices["aligned"][op] < prices["quantized"][op]
    for op in OPERATIONS:
        assert prices["fused"][op] < prices["quantized"][op]


def test_unknown_joins_are_refused():
    with pytest.raises(UsageError, match="--joins: got 'loose', expected one of quantized, aligned, fused"):
        CostsConfig(board="U250", weight_bits=4, act_bits=4, target_fps=2000, joins="loose")


def test_a_higher_rate_costs_more(tmp_path, finn):
    slow, fast = (
        price(tmp_path, [candidate("conv_3x3")], CostsConfig(board="U250", weight_bits=4, act_bits=4, target_fps=fps))
        for fps in (2000, 100_000)
    )
    slow_price, fast_price = (
        price_of(result["candidates"][0]["resources"], find_board("U250")) for result in (slow, fast)
    )
    assert fast_price > 3 * slow_price
    assert fast["candidates"][0]["cycles"] <= 2000


def network(op):
    """A network whose one layer joins a projection and perhaps an operation."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (16, 3, 3, 3), 8), 16), scale=6 / 15)
    y = net.quantize(net.norm(net.conv(x, (16, 16, 3, 3), 4), 16), 10 / 128, 8)
    y = net.node("Add", [y, net.quantize(net.norm(net.conv(x, (16, 16, 1, 1), 4), 16), 10 / 128, 8)])
    if op == "max_pool_3x3":
        y = net.node("Add", [y, net.quantize(net.norm(net.pool(x), 16, positive=True), 10 / 128, 8)])
    elif op == "conv_5x5":
        y = net.node("Add", [y, net.quantize(net.norm(net.conv(x, (16, 16, 5, 5), 4), 16), 10 / 128, 8)])
    elif op == "skip_connect":
        y = net.node("Add", [y, net.quantize(x, 10 / 128, 8)])
    return net.finish(net.head(net.relu(y, scale=6 / 15), 16), (1, 3))


def network_resources(source):
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.folding import FoldingSpace
    from nash_hw.fold.quantizers import infer_requants
    from nash_hw.graph import steps
    from nash_hw.graph.lower import lower
    from nash_hw.graph.streamline import streamline

    board = find_board("U250")
    model = infer_requants(lower(streamline(source)[0]), board, 100_000)
    model = steps.minimize_bit_widths(steps.partition(steps.to_hardware(model)))
    model = steps.specialize(model, board.fpga_part)
    return FoldingSpace(model, board).for_fps(2000, 200).resources


@pytest.mark.parametrize("op", ["max_pool_3x3", "skip_connect", "conv_5x5"])
def test_price_is_what_an_operation_adds_to_a_whole_network(op, finn, tmp_path):
    """Within a quarter of the LUTs: other weights need other widths; and the sum's own widths grow behind the join."""
    with_op, without = network_resources(network(op)), network_resources(network(None))
    priced = price(tmp_path, [candidate(op)])["candidates"][0]["resources"]
    assert priced["LUT"] == pytest.approx(with_op["LUT"] - without["LUT"], rel=0.25)
    for name in ("BRAM_18K", "URAM", "DSP"):
        assert priced[name] == pytest.approx(with_op[name] - without[name], abs=1)


def test_candidate_that_is_too_slow_is_named(tmp_path):
    config = CostsConfig(board="U250", weight_bits=4, act_bits=4, target_fps=1e7)
    message = r"candidates\[1\] \(cell 0, layer 1, input 0, op conv_3x3\): --target-fps: got 1e\+07, expected at most"
    with pytest.raises(CapacityError, match=message):
        price(tmp_path, [candidate("skip_connect", size=2), candidate("conv_3x3")], config)
    assert not (tmp_path / "costs.json").exists()


def test_malformed_space_is_refused(tmp_path):
    broken = candidate("conv_3x3")
    del broken["stride"]
    with pytest.raises(ManifestError, match=r"candidates\[0\]: misses the key 'stride'"):
        price(tmp_path, [broken])


@pytest.mark.parametrize("joins", ["quantized", "fused"])  # float32 does not hold ties of aligned sums
@pytest.mark.parametrize("op", [*OPERATIONS, None])
@pytest.mark.parametrize("stride", [1, 2])
def test_fragment_is_a_network_the_flow_keeps_exactly(op, stride, joins, finn):
    import numpy as np
    from networks import run
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    from nash_hw.costs.fragment import Place, fragment
    from nash_hw.graph.streamline import streamline

    place = Place(in_channels=4, out_channels=8, stride=stride, size=(6, 6), weight_bits=2, act_bits=3)
    if op == "skip_connect" and stride == 1:
        place = Place(in_channels=8, out_channels=8, stride=stride, size=(6, 6), weight_bits=2, act_bits=3)
    source = fragment(place, op, joins)
    x = np.random.default_rng(1).integers(0, 8, (1, place.in_channels, 6, 6)).astype(np.float32)
    reference = ModelWrapper(source).transform(InferShapes())
    expected = execute_onnx(reference, {"x": x * np.float32(6 / 7)})[reference.graph.output[0].name]
    model, dequantization = streamline(source, input_bits=3)
    actual = run(model, x).reshape(expected.shape) * dequantization.scale[0]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert len(np.unique(expected)) > 2  # not all of it is clipped


def _network(**changes):
    layer = {"kernel": 3, "channels": 4, "stride": 1, "groups": 1, "residual_from": None, "projection": False}
    stem = {"channels": 4, "kernel": 3, "stride": 1, "max_pool": False, "activation": "relu6"}
    layers = [layer | {"nas_op": None, "activation": "relu6"}, layer | {"nas_op": None} | changes]
    return {"stem": stem, "cells": [{"in_channels": 4, "layers": layers}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"activation": "none"}, "activation: got none, expected relu or relu6"),
        ({"pool": {"kernel": 2, "stride": 2}}, "pool: got a pool, expected null"),
        ({"padding": 0}, "padding: got 0, expected 1"),
    ],
)
def test_networks_that_cannot_be_priced_are_refused(changes, said):
    refuse_newer(_network(), "space.json: network")
    refuse_newer(_network(padding=1, pool=None, activation="relu"), "space.json: network")
    with pytest.raises(UnsupportedError, match=r"space\.json: network: cells\[0\]\.layers\[1\]\." + said):
        refuse_newer(_network(**changes), "space.json: network")
    with pytest.raises(UnsupportedError, match="stem\\.pool_kernel: got 2, expected 3"):
        refuse_newer({"stem": {"pool_kernel": 2}, "cells": []}, "space.json: network")
