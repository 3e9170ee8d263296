"""Fake quantization against the plain formulas, in numpy or by autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nash_search.layers.quantizers import _STEPS, quantized_relu, quantized_weight

BITS = range(1, 9)


def _states(seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return (2 * torch.randn(4, 3, 5, 6, dtype=torch.double) + 0.5).contiguous(memory_format=torch.channels_last)


def _scale(x: Tensor, bits: int) -> Tensor:
    return _STEPS[bits] * x.clamp(min=0).square().mean().sqrt()


@pytest.mark.parametrize("bits", BITS)
def test_state_has_the_levels_of_its_bits(bits: int) -> None:
    x = _states().numpy()
    scale = _STEPS[bits] * np.sqrt(np.mean(np.maximum(x, 0) ** 2))
    levels = np.clip(np.rint(x / scale), 0, 2**bits - 1)
    found = quantized_relu(torch.from_numpy(x), bits).numpy()
    assert np.array_equal(np.rint(found / scale), levels)
    assert np.allclose(found, levels * scale, rtol=1e-14, atol=0)
    assert levels.min() == 0
    if bits <= 3:  # all of them are there
        assert len(np.unique(levels)) == 2**bits


@pytest.mark.parametrize("bits", BITS)
def test_scale_of_a_state_has_the_least_error_for_normal_numbers(bits: int) -> None:
    x = np.linspace(0, 9, 200_000)
    density = np.exp(-(x**2) / 2)

    def error(step: float) -> float:
        scale = step * np.sqrt(0.5)  # the root mean square of the ReLU of a normal number
        return float(density @ (np.clip(np.rint(x / scale), 0, 2**bits - 1) * scale - x) ** 2)

    best = error(_STEPS[bits])
    assert best < error(0.98 * _STEPS[bits])
    assert best < error(1.02 * _STEPS[bits])


@pytest.mark.parametrize("bits", BITS)
def test_gradient_of_a_state_is_that_of_learned_step_size_quantization(bits: int) -> None:
    x, towards = _states().requires_grad_(), torch.randn(4, 3, 5, 6, dtype=torch.double)
    (found,) = torch.autograd.grad(quantized_relu(x, bits), x, towards)
    scale, high = _scale(x, bits), 2**bits - 1
    steps = x.clamp(min=0) / scale
    passed = steps + (steps.round() - steps).detach()
    levels = torch.where(steps < high + 0.5, passed, torch.full_like(steps, high))
    (expected,) = torch.autograd.grad(levels * scale, x, towards)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert (found[x < 0] == 0).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gradient_of_a_state_is_exact_where_all_of_it_grows(bits: int) -> None:
    """All levels stay, so that nothing is rounded anew and finite differences tell the truth."""
    x, towards, h = _states(1).requires_grad_(), torch.randn(4, 3, 5, 6, dtype=torch.double), 1e-4

    def loss(grown: Tensor) -> Tensor:
        return (towards * quantized_relu(grown, bits)).sum().sin()

    (gradient,) = torch.autograd.grad(loss(x), x)
    with torch.no_grad():
        slope = (loss((1 + h) * x) - loss((1 - h) * x)) / (2 * h)
    assert (gradient * x).sum().item() == pytest.approx(slope.item(), rel=1e-5)
    assert abs(slope) > 0.1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_weight_has_the_levels_of_its_bits(bits: int, per_channel: bool) -> None:
    torch.manual_seed(bits)
    weight = torch.randn(6, 4, 3, 3, dtype=torch.double)
    rows = weight.numpy().reshape(6 if per_channel else 1, -1)
    if bits == 1:
        expected = np.where(rows >= 0, 1, -1) * np.abs(rows).mean(1, keepdims=True)
    elif bits == 2:
        scale = 1.4 * np.abs(rows).mean(1, keepdims=True)
        expected = np.clip(np.rint(rows / scale), -1, 1) * scale
    else:
        scale = np.abs(rows).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
        expected = np.rint(rows / scale) * scale
    found = quantized_weight(weight, bits, per_channel=per_channel)
    assert np.allclose(found.numpy().reshape(rows.shape), expected, rtol=1e-14, atol=1e-15)


def test_weights_round_half_to_even() -> None:
    weight = torch.tensor([[0.5, 1.5, 2.5, -2.5, 7.0]])
    assert quantized_weight(weight, 4).tolist() == [[0.0, 2.0, 2.0, -2.0, 7.0]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gradient_passes_the_rounding_of_weights(bits: int) -> None:
    weight, towards = torch.randn(3, 2, 3, 3, requires_grad=True), torch.randn(3, 2, 3, 3)
    (found,) = torch.autograd.grad(quantized_weight(weight, bits), weight, towards)
    assert torch.equal(found, towards)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_nothing_but_zeros_stays_finite(bits: int) -> None:
    x = torch.full((2, 3, 4, 4), -1.0, requires_grad=True)
    y = quantized_relu(x, bits)
    y.sum().backward()
    assert (y == 0).all()
    assert (x.grad == 0).all()
    assert quantized_weight(torch.zeros(2, 3, 1, 1), bits).abs().max() < 1e-7
