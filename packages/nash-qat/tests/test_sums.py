"""Fused additions: accumulators and states as they are, one batch normalization behind the sum."""

from __future__ import annotations

import copy
import dataclasses
from fractions import Fraction
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
from nash_qat.network import bits, calibrate, frozen, joins, sums, weights
from nash_qat.network.network import Network
from nash_qat.network.terms import MaxPoolBN
from nash_qat.quant import quantizers
from nash_qat.quant.presets import QuantizationSpec, preset


def fused(name: str, **changes: object) -> QuantizationSpec:
    return dataclasses.replace(preset(name), join="fused", **changes)


def plan(tree: dict, spec: QuantizationSpec) -> joins.Plan:
    genotype = parsed(tree)
    return joins.plan(genotype, spec, bits.resolve(genotype, spec))


def untrained(tree: dict, name: str, **changes: object) -> Network:
    return export.untrained(parsed(tree), fused(name, **changes), seed=0)


def exported(network: Network, tree: dict, folder: Path) -> tuple[dict, onnx.GraphProto]:
    pictures = calibrate.noise_pictures(6, network.genotype.input_shape, seed=1)
    model = export.export(
        network, pictures, folder / "out", export.Provenance(genotype_path=written(tree, folder), training=None)
    )
    return model, onnx.load(str(folder / "out" / "model.onnx")).graph


def test_plan_of_a_network_by_hand() -> None:
    found = plan(networks.NASH, fused("w4a4"))
    assert found.joins == {}
    assert found.fused == {
        "cells.0.layers.0.join": ("nas_op",),
        "cells.0.layers.1.join": ("residual", "nas_op"),
        "cells.1.layers.0.join": (),
        "cells.1.layers.1.join": (),
        "cells.1.layers.2.join": (),
    }
    assert found.leaders == {
        "cells.0.layers.0.state": "stem_state",
        "cells.1.layers.0.act": "cells.0.layers.1.state",
    }
    assert set(found.shifts.values()) == {0}


def test_tensors_of_other_bits_have_a_scale_that_is_a_power_of_two_times_another() -> None:
    found = plan(networks.NASH, fused("v3"))  # 4 bits as convolutions read them, 8 as side operations do
    assert found.leaders["stem_act"] == "stem_state"
    assert found.shifts["stem_act"] == -4
    network = untrained(networks.NASH, "v3")
    leader, follower = network.stem_act.fine, network.stem_act.coarse
    assert float(follower.scale) == 16 * float(leader.scale)
    assert network.cells[0].layers[0].act.quantizer_of("act").scale == follower.scale


def test_fused_joins_have_no_bits() -> None:
    assert not [name for name in Network(parsed(networks.NASH), fused("w4a4")).bits if name.endswith(".join")]
    with pytest.raises(ManifestError, match=r"overrides\.cells\.\*\.join: the network has no such tensor"):
        Network(parsed(networks.NASH), fused("w4a4", overrides={"cells.*.join": 4}))


@pytest.mark.parametrize("weight_scale", ["learned", "statistics"])
@pytest.mark.parametrize(
    ("tree", "name"),
    [
        *((networks.NASH, name) for name in ("w4a4", "w1a2", "w8a8", "v1", "v3", "v4")),
        (networks.BASELINE, "w2a2"),
        (networks.STRIDED_SIDE_OPS, "v3"),
        (networks.BOTTLENECK, "w4a4"),
    ],
    ids=lambda case: case["name"] if isinstance(case, dict) else case,
)
def test_export_is_exact(tree: dict, name: str, weight_scale: str, tmp_path: Path) -> None:
    network = untrained(tree, name, weight_scale=weight_scale)
    model, graph = exported(network, tree, tmp_path)
    assert model["onnx"]["agreement"]["exact_error"] < 1e-9
    assert model["onnx"]["agreement"]["num_flips"] == 0
    executions.assert_equal_golden(network, tmp_path / "out")
    _assert_terms_count_whole_units(graph)


def _assert_terms_count_whole_units(graph: onnx.GraphProto) -> None:
    """The scale of every term is the same power of two times that of the others in all channels, exactly."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}
    readers = [node for node in graph.node if node.op_type == "Add"]
    inner = {name for node in readers for name in node.input}
    sums = [node for node in readers if node.output[0] not in inner]
    assert sums
    for total in sums:
        scales = list(_term_scales(total, producers, constants))
        assert len(scales) > 1
        for scale in scales[1:]:
            ratios = {one / other for one, other in zip(scale, scales[0], strict=True)}
            assert len(ratios) == 1, total.name
            ratio = ratios.pop()
            assert 1 in (ratio.numerator, ratio.denominator)
            assert (ratio.numerator * ratio.denominator).bit_count() == 1
        (behind,) = (node for node in graph.node if total.output[0] in node.input)
        assert behind.op_type == "BatchNormalization"


def _term_scales(node: onnx.NodeProto, producers: dict, constants: dict) -> list[list[Fraction]]:
    """Return the exact scales of the channels of every term of a sum."""
    if node.op_type == "Add":
        return [scale for name in node.input for scale in _term_scales(producers[name], producers, constants)]
    if node.op_type == "Conv":
        factor = constants[producers[node.input[1]].input[1]]
    else:
        assert node.op_type == "Mul"
        factor = constants[node.input[1]]
    source = producers[node.input[0]]
    while source.op_type in ("MaxPool", "Concat"):
        source = producers[source.input[0]]
    assert source.op_type == "Quant"
    scale = Fraction(float(constants[source.input[1]]))
    return [[scale * Fraction(float(value)) for value in factor.flatten()]]


def test_sum_is_one_of_integers() -> None:
    network = untrained(networks.NASH, "w4a4")
    block = network.cells[0].layers[1]  # an identity, a max-pool and the convolution
    reference = frozen.freeze(network, torch.float64)
    seen: list[torch.Tensor] = []
    reference.cells[0].layers[1].join.bn.register_forward_pre_hook(lambda _module, terms: seen.append(terms[0]))
    with torch.no_grad():
        reference(calibrate.to_input(calibrate.noise_pictures(4, (1, 8, 8), seed=2)).double())
    unit = network.stem_act.fine.scale.double() * block.main.conv.weight_scale.detach().double().view(1, -1, 1, 1)
    steps = seen[0] / unit
    torch.testing.assert_close(steps, steps.round(), atol=1e-7, rtol=0)
    assert len(steps.round().unique()) > 50
    assert float(block.join.states.units) == 2 ** round(float(block.join.states.units.log2()))


def test_states_start_with_the_variance_of_the_convolution() -> None:
    genotype = parsed(networks.manifest(networks.cell(32, networks.layer(32, residual_from=0)), size=16))
    network = export.untrained(genotype, fused("w4a4"), seed=0)
    block, seen = network.cells[0].layers[0], {}
    block.main.register_forward_hook(lambda _module, _inputs, output: seen.update(main=output))
    block.join.states.register_forward_hook(lambda _module, _inputs, output: seen.update(state=output))
    with torch.no_grad():
        network(calibrate.to_input(calibrate.noise_pictures(16, (1, 16, 16), seed=3)))
    deviations = {name: term.std((0, 2, 3)).log2().mean() for name, term in seen.items()}
    assert abs(float(deviations["main"] - deviations["state"])) < 1


def test_weights_have_the_nearest_steps_that_are_fine_enough() -> None:
    leader = quantizers.conv(4, 16, 3, bits=4, padding=1)
    torch.nn.init.constant_(leader.weight, 7.0)  # of its 4 bits the scale is 1
    normal = torch.randn(16, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    # 1/12 of a squared step is below a hundredth of a square of 4^2, but not of 1^2; the largest levels are 7 and 127
    for size, number, units in ((4.0, 8, 1.0), (1.0, 8, 0.25), (20.0, 8, 1.0), (20.0, 4, 8.0), (0.01, 8, 1 / 512)):
        conv = quantizers.conv(4, 16, 3, bits=number, padding=1, leader=leader)
        with torch.no_grad():
            conv.weight.copy_(size * normal)
        quantizers.fit_units(conv)
        assert float(conv.units) == units, (size, number)


def test_calibration_keeps_the_share_of_states() -> None:
    network = Network(parsed(networks.NASH), fused("w4a4"))
    block = network.cells[0].layers[1]
    block.join.states.weight.fill_(1.0)
    with torch.no_grad():
        block.main.conv.weight.mul_(3.0)
    calibrate.calibrate(network, calibrate.noise_pictures(32, (1, 8, 8), seed=0))
    ratio = block.join.states.factor.detach().log2().mean()
    assert abs(float(ratio)) <= 0.5


def test_gamma_behind_states_stays_positive() -> None:
    network = Network(parsed(networks.NASH), fused("w4a4"))
    of_states, of_convolutions = network.cells[0].layers[1].join, network.cells[1].layers[1].join
    for total in (of_states, of_convolutions):
        torch.nn.init.constant_(total.bn.weight, -1.0)
    network.constrain()
    assert (of_states.bn.weight > 0).all()
    assert (of_convolutions.bn.weight == -1).all()


def test_powers_of_two_are_state_of_the_network() -> None:
    network = untrained(networks.NASH, "w4a4")
    twin, other = copy.deepcopy(network), Network(parsed(networks.NASH), fused("w4a4"))
    network.cells[1].layers[1].nas_op.conv.units.mul_(2)
    network.cells[0].layers[1].join.states.units.mul_(4)
    other.load_state_dict(network.state_dict())
    x = calibrate.to_input(calibrate.noise_pictures(4, (1, 8, 8), seed=2))
    with torch.no_grad():
        assert torch.equal(other.eval()(x), network(x))
        assert not torch.equal(twin(x), network(x))
        twin.cells[1].layers[1].main.conv.log2_threshold.add_(1)
    ratio = twin.cells[1].layers[1].nas_op.conv.weight_scale / other.cells[1].layers[1].nas_op.conv.weight_scale
    torch.testing.assert_close(ratio, torch.ones_like(ratio))  # it follows its own network's convolution


@pytest.mark.parametrize("tree", [networks.NASH, networks.STRIDED_SIDE_OPS], ids=lambda tree: tree["name"])
def test_weights_of_batch_normalized_terms_give_the_same_float_network(tree: dict, tmp_path: Path) -> None:
    source = export.untrained(parsed(tree), preset("w4a4"), seed=0)
    for block in (block for cell in source.cells for block in cell.layers):
        if block.residual is not None and isinstance(block.nas_op, MaxPoolBN):  # both enter the sum with one factor
            block.nas_op.bn.running_var.copy_(block.nas_op.bn.weight.detach() ** 2)
    weights.write(tmp_path / "float.safetensors", source)
    network = Network(parsed(tree), fused("w4a4"))
    taken, without = weights.warm_start(network, weights.read(tmp_path / "float.safetensors", parsed(tree)))
    assert taken > 20
    assert without == []
    x = calibrate.to_input(calibrate.noise_pictures(8, network.genotype.input_shape, seed=4))
    for each in (source, network):
        quantizers.set_mode(each.eval(), "float")
    with torch.no_grad():
        expected = source(x)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
        sums.take_statistics(network, x)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
        for _, total in sums.of_network(network):
            total.train()  # they normalize with the statistics of this batch
        torch.testing.assert_close(network(x), expected, rtol=1e-3, atol=1e-3)


def test_every_tensor_can_have_other_bits() -> None:
    network = untrained(networks.NASH, "v3")
    pictures = calibrate.noise_pictures(16, (1, 8, 8), seed=2)
    x = calibrate.to_input(pictures)
    scales = _scales(network)
    with torch.no_grad():
        expected = network(x)
        for name, own in network.bits.items():
            wanted = 2 if own > 2 else 3
            changed = sensitivity.with_bits(network, name, wanted, pictures)
            logits = changed(x)
            assert torch.isfinite(logits).all(), name
            assert not torch.equal(logits, expected), name
            others = {other: scale for other, scale in _scales(changed).items() if other != name}
            assert others == {other: scale for other, scale in scales.items() if other != name}, name
            if name.endswith(".main") and (name.replace("main", "join")) in joined(network):
                old, new = (each.get_submodule(name.replace("main", "join")) for each in (network, changed))
                if old.states is not None:
                    assert abs(float((new.states.factor / old.states.factor).log2().mean())) <= 0.5


def joined(network: Network) -> set[str]:
    return {f"{layer}.join" for layer, _ in sums.of_network(network)}


def _scales(network: Network) -> dict[str, float]:
    found = {}
    for name in network.bits:
        place, _, kind = name.rpartition("_" if name.startswith("stem_") else ".")
        if kind in ("act", "state"):
            activation = network.stem_act if place == "stem" else network.get_submodule(f"{place}.act")
            found[name] = float(activation.quantizer_of(kind).scale)
    return found
