from __future__ import annotations

import dataclasses

import networks
import pytest
import torch
from networks import cell, layer, manifest, parsed
from torch import nn

from nash_qat.base.errors import ManifestError
from nash_qat.export import files as export
from nash_qat.network import calibrate, complexity
from nash_qat.network.network import Activation, Network
from nash_qat.network.terms import ConvBN, MaxPoolBN, factorized_reduction
from nash_qat.quant import quantizers
from nash_qat.quant.presets import QuantizationSpec, preset


@pytest.mark.parametrize("name", networks.ALL)
@pytest.mark.parametrize("bits", ["w4a4", "v3", "w8a2"])
def test_every_genotype_of_the_family_runs(name: str, bits: str) -> None:
    genotype = parsed(networks.ALL[name])
    network = Network(genotype, preset(bits))
    logits = network(torch.rand(3, *genotype.input_shape))
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    silent = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not silent


def test_network_has_no_bias() -> None:
    network = Network(parsed(networks.NASH), preset("w4a4"))
    assert all(getattr(m, "bias", None) is None for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize("size", [(6, 6), (7, 7), (6, 5)])
def test_factorized_reduction_is_two_shifted_convolutions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    reduction = factorized_reduction(4, 6, bits=8, reads_bits=8, size=size).eval()
    quantizers.set_mode(reduction, "float")
    x = torch.rand(2, 4, *size)
    weight = reduction.conv.weight.detach()
    tap = 0 if weight.shape[2] == 2 else 1
    first, second = weight[:3, :, tap, tap, None, None], weight[3:, :, tap + 1, tap + 1, None, None]
    padded = nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    halves = [nn.functional.conv2d(x, first, stride=2), nn.functional.conv2d(padded, second, stride=2)]
    torch.testing.assert_close(reduction(x), reduction.bn(torch.cat(halves, dim=1)))


def test_factorized_reduction_stays_factorized_in_training() -> None:
    network = Network(parsed(networks.STRIDED_SIDE_OPS), preset("w1a4")).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    for seed in range(3):
        optimizer.zero_grad()
        network(calibrate.to_input(calibrate.noise_pictures(4, (3, 9, 9), seed=seed))).square().sum().backward()
        optimizer.step()
        network.constrain()
    reduction = network.cells[0].layers[0].nas_op
    assert isinstance(reduction, ConvBN)
    assert reduction.weight_bits == 2  # one bit has no zero
    assert torch.count_nonzero(reduction.conv.weight * (1 - reduction.mask)) == 0
    assert torch.count_nonzero(reduction.conv.quant_weight().value * (1 - reduction.mask)) == 0
    assert torch.count_nonzero(reduction.conv.weight * reduction.mask) == reduction.mask.sum()


def test_max_pool_repeats_its_channels_and_keeps_gamma_positive() -> None:
    pool = MaxPoolBN(2, 6, stride=2)
    out = pool.eval()(torch.rand(1, 2, 5, 5))
    assert out.shape == (1, 6, 3, 3)
    assert torch.equal(out[:, :2], out[:, 2:4])
    with torch.no_grad():
        pool.bn.weight.fill_(-1.0)
    pool.constrain()
    assert (pool.bn.weight > 0).all()


def test_join_puts_all_terms_on_one_grid() -> None:
    join = quantizers.signed(bits=8).eval()
    quantizers.set_act_scale(join, 0.1)
    total = join(torch.randn(50), torch.randn(50), torch.randn(50)).detach() / 0.1
    torch.testing.assert_close(total, total.round(), atol=1e-4, rtol=0)


def activation_of(*, act_bits: int, side_bits: int | None) -> Activation:
    bits = {"act": act_bits, "state": side_bits}
    return Activation(act_bits=act_bits, side_bits=side_bits, make=lambda kind: quantizers.relu(bits=bits[kind]))


@pytest.mark.parametrize(("act_bits", "side_bits"), [(4, 8), (8, 2)])
def test_two_precisions_come_from_the_finer(act_bits: int, side_bits: int) -> None:
    activation = activation_of(act_bits=act_bits, side_bits=side_bits).eval()
    with torch.no_grad():
        state = activation(torch.linspace(-1, 9, 2000))
    assert len(state.act.unique()) == min(2**act_bits, 256)
    assert len(state.side.unique()) == min(2**side_bits, 256)
    assert state.act.max() == pytest.approx(4.0)
    assert state.side.max() == pytest.approx(4.0)


def test_equal_bits_share_one_quantizer() -> None:
    assert activation_of(act_bits=4, side_bits=4).coarse is None
    assert activation_of(act_bits=4, side_bits=None).coarse is None
    network = Network(parsed(networks.NASH), preset("v3"))
    read_twice = [layer.act.coarse is not None for block in network.cells for layer in block.layers]
    assert read_twice == [True, True, False, True, False]


def test_calibrated_network_is_alive() -> None:
    for name, tree in networks.ALL.items():
        network = export.untrained(parsed(tree), preset("w1a1"), seed=0)
        outputs: list[torch.Tensor] = []
        note = outputs.append
        for module in network.modules():
            if isinstance(module, Activation):
                module.fine.register_forward_hook(lambda _m, _i, out, note=note: note(out))
        pictures = calibrate.noise_pictures(16, network.genotype.input_shape, seed=5)
        with torch.no_grad():
            logits = network(calibrate.to_input(pictures))
        assert all(out.std() > 0 for out in outputs), name
        assert len(logits.argmax(dim=1).unique()) > 1, name


def test_untrained_network_depends_on_the_seed_alone() -> None:
    x = calibrate.to_input(calibrate.noise_pictures(2, (1, 8, 8), seed=9))
    networks_of = [export.untrained(parsed(networks.NASH), preset("w4a4"), seed=seed) for seed in (1, 1, 2)]
    first, again, other = (network(x).detach() for network in networks_of)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_complexity_is_counted_by_hand() -> None:
    tree = manifest(cell(4, layer(8, stride=2, nas=("skip_connect", 0))), size=8)
    measured = complexity.measure(Network(parsed(tree), preset("w2a4")))
    weights = {"stem": 1 * 4 * 9, "main": 4 * 8 * 9, "skip": 4 * 8, "head": 8 * 10}
    pixels = {"stem": 64, "main": 16, "skip": 16, "head": 1}
    bits = {"stem": 8, "main": 2, "skip": 2, "head": 8}
    reads = {"stem": 8, "main": 4, "skip": 4, "head": 4}
    assert measured.num_params == sum(weights.values()) + 2 * (4 + 8 + 8)
    assert measured.macs == sum(weights[k] * pixels[k] for k in weights)
    assert measured.weight_bits == sum(weights[k] * bits[k] for k in weights)
    assert measured.bops == sum(weights[k] * pixels[k] * bits[k] * reads[k] for k in weights)


def test_single_convolutions_have_bits_of_their_own() -> None:
    own = {"stem": 3, "cells.1.layers.0.main": 2, "cells.0.layers.1.residual": 1}
    spec = QuantizationSpec(weight_bits=4, nas_weight_bits=1, act_bits=4, state_bits=4, overrides=own)
    plain = dataclasses.replace(spec, overrides={})
    torch.manual_seed(0)
    network = Network(networks.parsed(networks.STRIDED_SIDE_OPS), spec)
    torch.manual_seed(0)
    usual = Network(networks.parsed(networks.STRIDED_SIDE_OPS), plain)
    for name, module in network.named_modules():
        if isinstance(module, ConvBN):
            other = usual.get_submodule(name)
            assert torch.equal(module.conv.weight, other.conv.weight)
            assert module.weight_bits == own.get(name, other.weight_bits)
            quantized = module.conv.quant_weight()
            levels = (quantized.value / quantized.scale).round().abs().max()
            assert levels <= max(2 ** (module.weight_bits - 1) - 1, 1)
    saved = sum(usual.get_submodule(name).conv.weight.numel() * (usual.get_submodule(name).weight_bits - bits)
                for name, bits in own.items())  # fmt: skip
    assert complexity.measure(usual).weight_bits - complexity.measure(network).weight_bits == saved
    assert QuantizationSpec.from_dict(spec.to_dict()) == spec


def test_bits_of_no_convolution_are_refused() -> None:
    spec = QuantizationSpec(
        weight_bits=4, nas_weight_bits=1, act_bits=4, state_bits=4, overrides={"cells.0.layer.0.main": 2}
    )
    with pytest.raises(ManifestError, match=r"cells\.0\.layer\.0\.main: .* did you mean 'cells\.0\.layers\.0\.main'"):
        Network(networks.parsed(networks.NASH), spec)
    with pytest.raises(ManifestError, match=r"quantization\.overrides\.stem: got 9, expected 1\.\.8"):
        QuantizationSpec(weight_bits=4, nas_weight_bits=1, act_bits=4, state_bits=4, overrides={"stem": 9})
    with pytest.raises(ManifestError, match=r"quantization\.overrides: got 3"):
        QuantizationSpec(weight_bits=4, nas_weight_bits=1, act_bits=4, state_bits=4, overrides=3)
