from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import networks
import pytest
import torch

from nash_qat.export import files as export
from nash_qat.network import calibrate, frozen
from nash_qat.quant import quantizers, scales
from nash_qat.quant.presets import preset


def test_doctests() -> None:
    results = doctest.testmod(scales)
    assert results.attempted >= 1
    assert results.failed == 0


@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_have_one_scale_a_channel_and_the_right_levels(bits: int) -> None:
    torch.manual_seed(0)
    conv = quantizers.conv(8, 6, 3, bits=bits, padding=1)
    quantized = conv.quant_weight()
    integers = quantized.value / quantized.scale
    assert quantized.scale.shape == (6, 1, 1, 1)
    torch.testing.assert_close(integers, integers.round(), atol=1e-4, rtol=0)
    allowed = {-1, 1} if bits == 1 else set(range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)))
    assert set(integers.round().int().flatten().tolist()) <= allowed


def test_binary_weight_is_mean_magnitude_and_zero_is_positive() -> None:
    conv = quantizers.conv(1, 2, 2, bits=1, padding=0)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, -3.0], [2.0, 2.0]]], [[[0.0, 0.5], [-0.5, 0.5]]]]))
    expected = torch.tensor([[[[2.0, -2.0], [2.0, 2.0]]], [[[0.5, 0.5], [-0.5, 0.5]]]])
    torch.testing.assert_close(conv.quant_weight().value.detach(), expected)


def test_classifier_has_one_scale() -> None:
    for bits in (1, 2, 8):
        assert quantizers.linear(8, 4, bits=bits).quant_weight().scale.numel() == 1


@pytest.mark.parametrize("bits", range(1, 9))
def test_activation_is_unsigned_at_every_width(bits: int) -> None:
    relu = quantizers.relu(bits=bits).eval()
    assert relu.levels == (0, 2**bits - 1)
    quantizers.set_act_scale(relu, 0.5)
    assert quantizers.act_scale(relu).item() == pytest.approx(0.5, rel=1e-6)
    out = relu(torch.tensor([-1.0, 0.0, 0.5, 1000.0])).detach()
    torch.testing.assert_close(out, torch.tensor([0.0, 0.0, 0.5, 0.5 * (2**bits - 1)]))


def test_join_is_signed_and_uses_both_ends() -> None:
    join = quantizers.signed(bits=8).eval()
    quantizers.set_act_scale(join, 0.25)
    out = join(torch.tensor([-1000.0, 0.0, 1000.0])).detach()
    torch.testing.assert_close(out, torch.tensor([-32.0, 0.0, 31.75]))


@pytest.mark.parametrize(("bits", "decibels"), [(1, 4.3), (2, 7.2), (3, 13.3), (4, 18.9), (8, 40.0)])
def test_fitted_scales_of_gaussian_weights_have_the_least_error(bits: int, decibels: float) -> None:
    torch.manual_seed(0)
    conv = quantizers.conv(64, 16, 3, bits=bits, padding=1, has_learned_scale=True)
    with torch.no_grad():
        conv.weight.normal_()
    quantizers.fit_weight_scale(conv)

    def signal_to_noise(layer: torch.nn.Module) -> torch.Tensor:
        noise = (layer.quant_weight().value - layer.weight).detach().flatten(1).square().sum(1)
        return 10 * torch.log10(layer.weight.detach().flatten(1).square().sum(1) / noise)

    fitted = signal_to_noise(conv)
    assert fitted.mean() > decibels
    with torch.no_grad():
        for change in (-0.05, 0.05):
            conv.log2_threshold.add_(change)
            assert signal_to_noise(conv).mean() < fitted.mean()
            conv.log2_threshold.sub_(change)


def test_learned_scale_uses_the_lowest_integer() -> None:
    conv = quantizers.conv(1, 1, 2, bits=2, padding=0, has_learned_scale=True)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[-2.0, 1.0], [0.0, -1.0]]]]))
    quantizers.fit_weight_scale(conv)
    torch.testing.assert_close(conv.quant_weight().value.detach(), conv.weight.detach())
    torch.testing.assert_close(conv.quant_weight().scale.flatten().detach(), torch.ones(1))


def test_scale_of_a_channel_of_zeros_stays_finite() -> None:
    conv = quantizers.conv(2, 2, 1, bits=3, padding=0, has_learned_scale=True)
    with torch.no_grad():
        conv.weight[0] = 0.0
    quantizers.fit_weight_scale(conv)
    assert torch.isfinite(conv.log2_threshold).all()
    assert not conv.quant_weight().value[0].any()


def test_pixels_keep_every_value() -> None:
    x = calibrate.to_input(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16))
    torch.testing.assert_close(quantizers.pixels().eval()(x), x, rtol=1e-6, atol=1e-7)


def _error_of(scale: float, values: torch.Tensor, low: int, high: int) -> float:
    values = values.double()
    return float(((values / scale).round().clamp(low, high) * scale - values).square().sum())


def _uneven_maps() -> torch.Tensor:
    """Return maps (8, 16, 32, 32) whose first row and column are far smaller than the rest."""
    maps = torch.randn(8, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    maps[:, :, 0] *= 0.1
    maps[:, :, :, 0] *= 0.1
    return maps


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("is_signed", [False, True])
def test_best_scale_is_that_of_the_whole_tensor(bits: int, is_signed: bool) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed and bits > 1 else (0, 2**bits - 1)
    maps = _uneven_maps()
    values = maps if low else maps.relu()
    largest = float(values.abs().max())
    least = min(_error_of(largest / high * step / 256, values, low, high) for step in range(16, 257))
    assert _error_of(scales.best_scale([maps], low, high), values, low, high) < 1.02 * least


def test_best_scale_does_not_depend_on_where_values_lie() -> None:
    maps = _uneven_maps()
    order = torch.randperm(maps.numel(), generator=torch.Generator().manual_seed(1))
    scale = scales.best_scale([maps.flatten()[order]], 0, 3)
    assert scales.best_scale([maps], 0, 3) == scale
    assert scales.best_scale([maps.contiguous(memory_format=torch.channels_last)], 0, 3) == scale
    assert scales.best_scale([maps[:5], maps[5:]], 0, 3) == scale


def test_best_scale_of_nothing_but_zeros() -> None:
    assert scales.best_scale([torch.zeros(4), -torch.ones(4)], 0, 3) == pytest.approx(1 / 3)


def test_scales_learn_and_stay_positive() -> None:
    relu = quantizers.relu(bits=2).train()
    relu(torch.rand(64) * 9).sum().backward()
    (scale,) = relu.parameters()
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    with torch.no_grad():
        scale.fill_(-40.0)
    assert quantizers.act_scale(relu) > 0


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gradients_pass_weight_quantizers(bits: int) -> None:
    torch.manual_seed(0)
    conv = quantizers.conv(3, 4, 3, bits=bits, padding=1)
    conv(torch.rand(2, 3, 5, 5)).square().sum().backward()
    assert conv.weight.grad is not None
    assert (conv.weight.grad != 0).float().mean() > 0.9


def test_frozen_copy_is_the_same_function() -> None:
    network = export.untrained(networks.parsed(networks.NASH), preset("w2a2"), seed=0)
    pictures = calibrate.noise_pictures(4, (1, 8, 8), seed=3)
    plain = frozen.freeze(network, torch.float32)
    x = calibrate.to_input(pictures)
    torch.testing.assert_close(plain(x), network(x).detach(), rtol=1e-5, atol=1e-5)


def test_disabled_quantizers_are_the_float_network() -> None:
    network = export.untrained(networks.parsed(networks.BASELINE), preset("w1a1"), seed=0)
    x = calibrate.to_input(calibrate.noise_pictures(2, (1, 8, 8), seed=3))
    quantized = network(x)
    quantizers.set_mode(network, "float")
    cell = network.cells[0].layers[0].main
    plain = cell.bn(torch.nn.functional.conv2d(torch.ones(1, 4, 8, 8), cell.conv.weight, padding=1))
    torch.testing.assert_close(cell(torch.ones(1, 4, 8, 8)), plain)
    quantizers.set_mode(network, "fused")
    assert torch.equal(network(x), quantized)


def test_strided_1x1_convolution_is_the_same_with_gradients() -> None:
    conv = quantizers.conv(4, 6, 1, bits=4, stride=2, padding=0)
    x = torch.rand(3, 4, 7, 7).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = conv(x)
    torch.testing.assert_close(conv(x).detach(), expected)


def test_strided_1x1_convolution_of_few_channels_trains(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from nash_qat.quant import quantizers\n"
        "torch.set_num_threads(2)\n"
        "conv = quantizers.conv(8, 16, 1, bits=4, stride=2, padding=0).to(memory_format=torch.channels_last)\n"
        "for _ in range(8):\n"
        "    x = torch.rand(29, 8, 32, 32).contiguous(memory_format=torch.channels_last)\n"
        "    conv(x).square().sum().backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
