"""Fused quantizers against Brevitas' own, which the export writes."""

from __future__ import annotations

import dataclasses
import doctest

import networks
import pytest
import torch
from torch import Tensor, nn

from nash_qat.export import files as export
from nash_qat.network import calibrate
from nash_qat.quant import fused, quantizers
from nash_qat.quant.presets import preset

FUSED = [("statistics", "fused"), ("learned", "fused")]


def test_doctests() -> None:
    results = doctest.testmod(fused)
    assert results.attempted >= 4
    assert results.failed == 0


def _run(module: nn.Module, inputs: list[Tensor], mode: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and all gradients of a module whose output is pulled in seeded directions."""
    module.zero_grad()
    quantizers.set_mode(module, mode)
    leaves = [value.clone().requires_grad_() for value in inputs]
    output = module(*leaves)
    pull = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
    (output * pull).sum().backward()
    gradients = {f"input {index}": leaf.grad for index, leaf in enumerate(leaves)}
    gradients |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return output.detach(), gradients


def _assert_same(module: nn.Module, inputs: list[Tensor]) -> None:
    expected, expected_gradients = _run(module, inputs, "brevitas")
    output, gradients = _run(module, inputs, "fused")
    assert torch.equal(output, expected)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        size = float(expected_gradients[name].abs().max())
        assert size > 0, name
        torch.testing.assert_close(
            gradient,
            expected_gradients[name],
            rtol=1e-4,
            atol=2e-5 * size,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def _activations(*, channels_last: bool, seed: int = 0) -> Tensor:
    x = 3 * torch.randn(6, 5, 7, 9, generator=torch.Generator().manual_seed(seed))
    x[0, 0, 0, :3] = torch.tensor([0.0, -1e-9, 1e-9])
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_unsigned_activation(bits: int, channels_last: bool) -> None:
    relu = quantizers.relu(bits=bits)
    quantizers.set_act_scale(relu, 2.0 / 2**bits)
    _assert_same(relu, [_activations(channels_last=channels_last)])


@pytest.mark.parametrize("num_terms", [1, 2, 3])
@pytest.mark.parametrize("bits", range(2, 9))
def test_sum_with_a_shared_quantizer(bits: int, num_terms: int) -> None:
    join = quantizers.signed(bits=bits)
    quantizers.set_act_scale(join, 4.0 / 2**bits)
    terms = [_activations(channels_last=index != 1, seed=index) for index in range(num_terms)]  # one in another layout
    _assert_same(join, terms)


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"groups": 5}])
@pytest.mark.parametrize("bits", range(1, 9))
def test_convolution_weights(bits: int, settings: dict[str, int]) -> None:
    torch.manual_seed(0)
    conv = quantizers.conv(5, 10, 3, bits=bits, padding=1, **settings)
    with torch.no_grad():
        conv.weight[0, 0, 0, :2] = 0.0  # a sign has no zero, and structural zeros do not count
        conv.weight[1] *= 1e-12  # the scale has a lower bound
    _assert_same(conv, [_activations(channels_last=True)])


@pytest.mark.parametrize("bits", range(1, 9))
def test_convolution_weights_with_learned_scales(bits: int) -> None:
    torch.manual_seed(0)
    conv = quantizers.conv(5, 10, 3, bits=bits, padding=1, has_learned_scale=True)
    quantizers.fit_weight_scale(conv)
    with torch.no_grad():
        conv.log2_threshold[0] -= 1.5  # most weights of the first channel are clipped
        conv.weight[0, 0, 0, :2] = 0.0
    _assert_same(conv, [_activations(channels_last=True)])


@pytest.mark.parametrize("has_learned_scale", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_classifier_weights(bits: int, has_learned_scale: bool) -> None:
    torch.manual_seed(0)
    linear = quantizers.linear(12, 10, bits=bits, has_learned_scale=has_learned_scale)
    if has_learned_scale:
        quantizers.fit_weight_scale(linear)
    _assert_same(linear, [torch.randn(4, 12)])


def test_pixels() -> None:
    pixels, x = quantizers.pixels(), calibrate.to_input(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    fast = pixels(x)
    with quantizers.through_brevitas(pixels):
        assert torch.equal(pixels(x), fast)


@pytest.mark.parametrize(("weight_scale", "join"), [("statistics", "quantized"), ("learned", "aligned"), *FUSED])
@pytest.mark.parametrize("name", ["w4a4", "w1a2", "w2a2", "w8a8", "v4"])
@pytest.mark.parametrize("tree", networks.ALL.values(), ids=networks.ALL)
def test_whole_network(tree: dict, name: str, weight_scale: str, join: str) -> None:
    spec = dataclasses.replace(preset(name), weight_scale=weight_scale, join=join)
    network = export.untrained(networks.parsed(tree), spec, seed=0)
    x = calibrate.to_input(calibrate.noise_pictures(4, network.genotype.input_shape, seed=3))
    outputs = []
    for mode in ("brevitas", "fused"):
        quantizers.set_mode(network, mode)
        outputs.append(network(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("weight_scale", "join"),
    [("statistics", "quantized"), ("learned", "quantized"), ("learned", "aligned"), *FUSED],
)
def test_training_step_of_a_network_moves_every_parameter_alike(weight_scale: str, join: str) -> None:
    torch.manual_seed(0)
    spec = dataclasses.replace(preset("w4a4"), weight_scale=weight_scale, join=join)
    network = export.untrained(networks.parsed(networks.NASH), spec, seed=0).train()
    x = calibrate.to_input(calibrate.noise_pictures(16, (1, 8, 8), seed=3))
    expected_output, expected = _run(network, [x], "brevitas")
    output, got = _run(network, [x], "fused")
    assert torch.equal(output, expected_output)
    del expected["input 0"], got["input 0"]  # pixels have no gradient
    for name, gradient in got.items():
        difference = (gradient - expected[name]).norm() / expected[name].norm().clamp(min=1e-6)
        assert difference < 3e-3, name  # that of a scale is a small difference of large sums
