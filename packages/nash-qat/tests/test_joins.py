"""Aligned additions: states enter as they are, convolutions on a grid of which they are whole multiples."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import executions
import networks
import onnx
import pytest
import torch
from networks import parsed, written
from onnx import numpy_helper

from nash_qat.base.errors import ManifestError
from nash_qat.bits import sensitivity
from nash_qat.export import files as export
from nash_qat.network import bits, calibrate, frozen, joins
from nash_qat.network.network import Network
from nash_qat.network.terms import MaxPool, MaxPoolBN
from nash_qat.quant import quantizers, scales
from nash_qat.quant.presets import QuantizationSpec, preset


def aligned(name: str, *, shift: int = 2) -> QuantizationSpec:
    return dataclasses.replace(preset(name), join="aligned", join_shift=shift)


def plan(tree: dict, spec: QuantizationSpec) -> joins.Plan:
    genotype = parsed(tree)
    return joins.plan(genotype, spec, bits.resolve(genotype, spec))


def test_plan_of_a_network_by_hand() -> None:
    found = plan(networks.NASH, aligned("w4a4"))
    assert found.leaders == {"cells.0.layers.0.state": "stem_state"}
    assert found.joins == {
        "cells.0.layers.0.join": joins.Join(bits=8, direct=("nas_op",), leader="stem_state", shift=2),
        "cells.0.layers.1.join": joins.Join(bits=8, direct=("residual", "nas_op"), leader="stem_state", shift=2),
        "cells.1.layers.0.join": joins.Join(bits=8),
        "cells.1.layers.1.join": joins.Join(bits=8),
        "cells.1.layers.2.join": joins.Join(bits=8),
    }


def test_joins_are_quantized_where_nobody_says_and_aligned_in_presets() -> None:
    assert QuantizationSpec.from_dict({**_FOUR_BITS}).join == "quantized" == preset("v3").join
    assert (preset("w4a4").join, preset("w4a4").join_shift) == ("aligned", 2)
    found = plan(networks.NASH, dataclasses.replace(preset("w4a4"), join="quantized"))
    assert found.leaders == {}
    assert set(found.joins.values()) == {joins.Join(bits=8)}


_FOUR_BITS = {"weight_bits": 4, "nas_weight_bits": 4, "act_bits": 4, "state_bits": 4}


@pytest.mark.parametrize(
    ("act_bits", "shift", "join_bits", "expected"),
    [(4, 2, 8, (8, 2)), (4, 0, 8, (6, 0)), (4, 3, 8, (8, 3)), (4, 6, 8, (8, 3)), (1, 2, 8, (5, 2)), (8, 2, 8, (8, 0))],
)
def test_terms_have_room_for_twice_the_states(
    act_bits: int, shift: int, join_bits: int, expected: tuple[int, int]
) -> None:
    spec = dataclasses.replace(aligned(f"w4a{act_bits}", shift=shift), join_bits=join_bits)
    join = plan(networks.NASH, spec).joins["cells.0.layers.0.join"]
    assert (join.bits, join.shift) == expected
    assert Network(parsed(networks.NASH), spec).bits["cells.0.layers.0.join"] == join.bits


def test_states_that_meet_over_others_have_one_scale() -> None:
    layer = networks.layer
    cell = networks.cell(
        4,
        layer(4),
        layer(4, residual_from=0, nas=("max_pool_3x3", 1)),
        layer(4, nas=("skip_connect", 2)),
        layer(4, residual_from=2, nas=("skip_connect", 1)),
        layer(4, nas=("skip_connect", 4)),
    )
    found = plan(networks.manifest(cell), aligned("w4a4"))
    assert found.leaders == {"cells.0.layers.0.state": "stem_state", "cells.0.layers.1.state": "stem_state"}
    assert found.joins["cells.0.layers.4.join"].leader == "cells.0.layers.3.state"


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        *((networks.NASH, name) for name in ("w4a4", "w1a2", "w8a8", "v3", "v4")),
        (networks.BASELINE, "w2a2"),
        (networks.STRIDED_SIDE_OPS, "w4a4"),
        (networks.BOTTLENECK, "v3"),
    ],
    ids=lambda case: case["name"] if isinstance(case, dict) else case,
)
def test_export_is_exact(tree: dict, name: str, tmp_path: Path) -> None:
    network = export.untrained(parsed(tree), aligned(name), seed=0)
    pictures = calibrate.noise_pictures(6, network.genotype.input_shape, seed=1)
    model = export.export(network, pictures, tmp_path / "out", export.Provenance(genotype_path=written(tree, tmp_path)))
    assert model["onnx"]["agreement"]["exact_error"] < 1e-9
    assert model["onnx"]["agreement"]["num_flips"] == 0
    executions.assert_equal_golden(network, tmp_path / "out")


def test_states_have_no_quantizer_of_their_own_in_the_file(tmp_path: Path) -> None:
    network = export.untrained(parsed(networks.NASH), aligned("w4a4"), seed=0)
    pictures = calibrate.noise_pictures(6, network.genotype.input_shape, seed=1)
    export.export(
        network, pictures, tmp_path / "out", export.Provenance(genotype_path=written(networks.NASH, tmp_path))
    )
    graph = onnx.load(str(tmp_path / "out" / "model.onnx")).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}
    direct = 0
    for node in graph.node:
        if node.op_type != "Add":
            continue
        terms = [producers[name] for name in node.input]
        scales = {float(constants[term.input[1]]) for term in terms if term.op_type == "Quant" and _is_signed(term)}
        for term in terms:
            state = producers[term.input[0]] if term.op_type == "MaxPool" else term
            if state.op_type == "Quant" and not _is_signed(state):
                direct += 1
                assert scales <= {float(constants[state.input[1]]) / 4}
    assert direct == 3
    assert "BatchNormalization" not in {
        reader.op_type for node in graph.node if node.op_type == "MaxPool" for reader in _readers(graph, node)
    }


def _is_signed(node: onnx.NodeProto) -> bool:
    return next(attribute.i for attribute in node.attribute if attribute.name == "signed") == 1


def _readers(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [other for other in graph.node if node.output[0] in other.input]


def test_sums_are_whole_numbers_of_the_grid() -> None:
    network = export.untrained(parsed(networks.NASH), aligned("w4a4"), seed=0)
    reference = frozen.freeze(network, torch.float64)
    sums: list[torch.Tensor] = []
    grid = float(network.cells[0].layers[1].join.scale)
    reference.cells[0].layers[1].act.register_forward_pre_hook(lambda _module, terms: sums.append(terms[0]))
    with torch.no_grad():
        reference(calibrate.to_input(calibrate.noise_pictures(4, (1, 8, 8), seed=2)).double())
    steps = sums[0] / grid
    torch.testing.assert_close(steps, steps.round(), atol=1e-9, rtol=0)
    assert len(steps.round().unique()) > 20
    assert network.cells[0].layers[0].act.fine.scale == network.stem_act.fine.scale


def test_pool_that_enters_as_it_is_has_no_batch_normalization() -> None:
    network = Network(parsed(networks.NASH), aligned("w4a4"))
    pool = network.cells[0].layers[1].nas_op
    assert isinstance(pool, MaxPool)
    assert not isinstance(pool, MaxPoolBN)
    quantized = Network(parsed(networks.NASH), dataclasses.replace(preset("w4a4"), join="quantized"))
    assert isinstance(quantized.cells[0].layers[1].nas_op, MaxPoolBN)


def test_calibration_gives_states_the_mean_of_their_scales() -> None:
    apart = export.untrained(parsed(networks.NASH), aligned("w4a4"), seed=0)
    pictures = calibrate.noise_pictures(64, (1, 8, 8), seed=0)
    inputs: dict[str, torch.Tensor] = {}
    for name, quantizer in (("leader", apart.stem_act.fine), ("follower", apart.cells[0].layers[0].act.fine)):
        quantizer.register_forward_pre_hook(lambda _module, terms, name=name: inputs.setdefault(name, terms[0]))
    calibrate.calibrate(apart, pictures)
    own = [scales.best_scale([inputs[name]], 0, 15) for name in ("leader", "follower")]
    assert float(apart.stem_act.fine.scale) == pytest.approx(math.sqrt(math.prod(own)), rel=2**-12)
    assert float(apart.cells[0].layers[1].join.scale) == float(apart.stem_act.fine.scale) / 4


def test_followers_follow_in_a_copy_and_after_loading() -> None:
    network = export.untrained(parsed(networks.NASH), aligned("w4a4"), seed=0)
    twin = copy.deepcopy(network)
    other = Network(parsed(networks.NASH), aligned("w4a4"))
    other.load_state_dict(network.state_dict())
    before = float(network.stem_act.fine.scale)
    quantizers.set_act_scale(network.stem_act.fine, 2 * before)
    for each, scale in ((network, 2 * before), (twin, before), (other, before)):
        assert float(each.cells[0].layers[0].act.fine.scale) == pytest.approx(scale)
        assert float(each.cells[0].layers[0].join.scale) == pytest.approx(scale / 4)
    x = calibrate.to_input(calibrate.noise_pictures(4, (1, 8, 8), seed=2))
    with torch.no_grad():
        assert torch.equal(other.eval()(x), twin.eval()(x))
        with quantizers.through_brevitas(other):
            assert torch.equal(other(x), twin(x))
    followers = ("cells.0.layers.0.act.", "cells.0.layers.0.join.")
    assert not [name for name in network.state_dict() if quantizers.is_scale(name) and name.startswith(followers)]


def test_every_tensor_can_have_other_bits() -> None:
    network = export.untrained(parsed(networks.NASH), aligned("v3"), seed=0)
    pictures = calibrate.noise_pictures(16, (1, 8, 8), seed=2)
    x, before = calibrate.to_input(pictures), float(network.stem_act.quantizer_of("state").scale)
    with torch.no_grad():
        expected = network(x)
        for name, own in network.bits.items():
            changed = sensitivity.with_bits(network, name, 2 if own > 2 else 3, pictures)
            logits = changed(x)
            assert torch.isfinite(logits).all(), name
            assert not torch.equal(logits, expected), name
            leader, follower = (
                block.quantizer_of("state") for block in (changed.stem_act, changed.cells[0].layers[0].act)
            )
            assert leader.scale == follower.scale, name
            assert (float(leader.scale) == before) == (name != "stem_state"), name


def test_wrong_kinds_and_shifts_are_refused() -> None:
    for key, value, expected in (("join", "fuzed", "quantized or aligned"), ("join_shift", 7, "0..6")):
        with pytest.raises(ManifestError, match=rf"quantization\.{key}: got .*, expected {expected}"):
            QuantizationSpec.from_dict({**_FOUR_BITS, key: value})


def test_sums_in_the_middle_go_to_the_even_level() -> None:
    leader = quantizers.relu(bits=4, leads=True).eval()
    state, join = (
        quantizers.relu(bits=4, leader=leader).eval(),
        quantizers.signed(bits=8, leader=leader, shift=2).eval(),
    )
    steps = torch.arange(64) / 4
    for scale in torch.rand(40, generator=torch.Generator().manual_seed(0)) + 0.01:
        quantizers.set_act_scale(leader, float(scale))
        short = leader.scale
        assert abs(float(short / scale) - 1) < 2**-12
        assert int(short.view(torch.int32)) % 4096 == 0
        whole = (steps.floor() * short).float()
        total = join(((steps - steps.floor()) * short).float()) + whole  # a state, and a term of a quarter's grid
        assert torch.equal((state(total) / short).round(), steps.round().clamp(0, 15))
