"""Shapes: states (B, C, H, W)."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nash_search.primitives import (
    PRIMITIVES,
    BatchNorm,
    Conv2d,
    Conv3x3,
    MaxPool,
    MaxPool3x3,
    Nothing,
    SignState,
    SkipConnect,
    State,
)


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1), (4, 4, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_output_has_the_shape_of_the_layer(
    name: str, in_channels: int, out_channels: int, stride: int, size: tuple[int, int]
) -> None:
    output = PRIMITIVES[name](in_channels, out_channels, stride)(State(torch.randn(2, in_channels, *size)))
    if name == "none":
        assert output is None
    else:
        assert output.shape == (2, out_channels, (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1)


def test_sign_of_zero_is_one() -> None:
    assert SignState.apply(torch.tensor([0.0, -0.0])).tolist() == [1.0, 1.0]


def test_none_lets_no_nan_through() -> None:
    assert Nothing(4, 4, 1)(State(torch.full((2, 4, 3, 3), float("nan")))) is None


def test_binary_convolution_sums_integers() -> None:
    op = Conv3x3(16, 8, 1)
    sums = op.conv(State(torch.randn(2, 16, 6, 6)).sign())
    assert torch.equal(sums, sums.round())
    assert (sums == 0).any()  # exact zeros, where scaled weights would leave rounding noise before the ReLU


def test_binary_convolution_equals_its_definition() -> None:
    torch.manual_seed(0)
    op = Conv3x3(4, 6, 2).double()
    x = torch.randn(3, 4, 7, 7, dtype=torch.double, requires_grad=True)
    weight = op.conv.weight
    with torch.no_grad():  # their mean magnitude is a power of two, so that the definition rounds nothing, either
        weight.copy_(
            torch.where(weight >= 0, 0.25, -0.25) * (1 + 0.5 * torch.tensor([1.0, -1.0]).repeat(108).view_as(weight))
        )
    binary = torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean()
    through = (binary - weight).detach() + weight  # straight-through: the identity's gradient
    y = F.relu(F.conv2d(SignState.apply(x), through, None, 2, 1))
    expected = F.batch_norm(y, None, None, op.bn.weight, op.bn.bias, training=True)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), (x, weight))
    got = op(State(x))
    assert torch.allclose(got, expected, rtol=1e-10)
    for one, other in zip(torch.autograd.grad((got * direction).sum(), (x, weight)), wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


def test_weights_of_zero_give_finite_output() -> None:
    op = Conv3x3(2, 2, 1)
    torch.nn.init.zeros_(op.conv.weight)
    assert op(State(torch.randn(2, 2, 4, 4))).isfinite().all()


def test_strided_skip_reads_even_and_odd_pixels() -> None:
    op = SkipConnect(2, 4, 2)
    x = torch.randn(2, 2, 5, 5)
    signs = F.pad(State(x).sign(), (0, 1, 0, 1))

    def half(conv: torch.nn.Conv2d, pixels: Tensor) -> Tensor:
        return F.conv2d(pixels, torch.where(conv.weight >= 0, 1.0, -1.0)) * conv.weight.abs().mean()

    y = torch.cat([half(op.convs[0], signs[:, :, ::2, ::2]), half(op.convs[1], signs[:, :, 1::2, 1::2])], 1)
    expected = F.batch_norm(F.relu(y), None, None, training=True)
    assert torch.allclose(op(State(x)), expected, atol=1e-6)


def test_unstrided_skip_is_the_state_itself() -> None:
    state = State(torch.randn(2, 4, 3, 3))
    assert SkipConnect(4, 4, 1)(state) is state.x
    assert list(SkipConnect(4, 4, 1).parameters()) == []


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 4, 7, 6), (2, 1, 190, 190)])  # few pixels, and more than 16 bits count
def test_max_pool_equals_that_of_torch(stride: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    ours, plain = MaxPool3x3.apply(x, stride), F.max_pool2d(y, 3, stride, 1)
    assert torch.equal(ours, plain)
    direction = torch.randn_like(plain)
    (ours * direction).sum().backward()
    (plain * direction).sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_max_pool_repeats_its_channels() -> None:
    output = MaxPool(2, 6, 2)(State(torch.randn(4, 2, 6, 6)))
    assert torch.equal(output[:, :2], output[:, 2:4])
    assert torch.equal(output[:, :2], output[:, 4:])


def test_state_shares_its_sign_and_pool() -> None:
    state = State(torch.randn(2, 4, 6, 6))
    assert state.sign() is state.sign()
    assert state.pooled(2) is state.pooled(2)
    assert state.pooled(1).shape != state.pooled(2).shape


def test_batch_norm_of_a_scaled_tensor() -> None:
    norm, x = BatchNorm(3).double(), torch.randn(4, 3, 5, 5, dtype=torch.double)
    expected = F.batch_norm(0.01 * x, None, None, training=True)
    assert torch.allclose(norm(x, 0.01), expected, rtol=1e-12)
    norm.updates_statistics = False
    before = norm.running_mean.clone()
    norm(x + 1)
    assert torch.equal(norm.running_mean, before)


def test_strided_pointwise_convolution_equals_torch() -> None:
    torch.manual_seed(0)
    ours = Conv2d(3, 5, 1, 2, bias=False).double()
    plain = nn.Conv2d(3, 5, 1, 2, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    x, y = (torch.randn(2, 3, 7, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    ours(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(ours(x), plain(y))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


def test_strided_pointwise_convolution_survives_odd_batches() -> None:
    code = """
import torch
from nash_search.primitives import Conv2d
torch.set_num_threads(2)
conv = Conv2d(8, 16, 1, 2, bias=False).to(memory_format=torch.channels_last)
for _ in range(10):
    x = torch.randn(29, 8, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    conv(x).sum().backward()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
