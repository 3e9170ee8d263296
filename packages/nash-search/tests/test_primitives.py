"""Shapes: states (B, C, H, W)."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nash_search.genotype.primitives import PRIMITIVES
from nash_search.layers import binary, convolution
from nash_search.layers.binary import BinaryConv2d, Signs, SignState
from nash_search.layers.convolution import Conv2d
from nash_search.layers.operations import (
    BinaryConvolution,
    Identity,
    MaxPool,
    MaxPool3x3,
    Nothing,
    Operation,
    Reduction,
    State,
)
from nash_search.layers.shape import Shape
from nash_search.layers.sums import EPS, BatchNorm, Term, normalized_sum


def _shape(in_channels: int, out_channels: int, stride: int) -> Shape:
    return Shape(in_channels=in_channels, out_channels=out_channels, stride=stride)


def _output(op: Operation, x: Tensor) -> Tensor:
    return normalized_sum([op(State(x))])


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1), (4, 4, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_output_has_the_shape_of_the_layer(
    name: str, in_channels: int, out_channels: int, stride: int, size: tuple[int, int]
) -> None:
    op = PRIMITIVES[name].searched(_shape(in_channels, out_channels, stride))
    term = op(State(torch.randn(2, in_channels, *size)))
    if name == "none":
        assert term is None
    else:
        assert term.features.shape == (2, out_channels, (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1)


def test_sign_of_zero_is_one() -> None:
    assert Signs.of(torch.tensor([[[[0.0, -0.0]]]])).values().tolist() == [[[[1.0, 1.0]]]]


def test_none_lets_no_nan_through() -> None:
    assert Nothing()(State(torch.full((2, 4, 3, 3), float("nan")))) is None


def test_binary_convolution_sums_integers() -> None:
    sums = BinaryConv2d(16, 8, 3)(Signs.of(torch.randn(2, 16, 6, 6)))
    assert torch.equal(sums, sums.round())
    assert (sums == 0).any()  # exact zeros, where scaled weights would leave rounding noise before the ReLU


def test_binary_convolution_equals_its_definition() -> None:
    torch.manual_seed(0)
    op = BinaryConvolution(_shape(4, 6, 2), 3).double()
    x = torch.randn(3, 4, 7, 7, dtype=torch.double, requires_grad=True)
    weight = op.conv.weight
    with torch.no_grad():  # their mean magnitude is a power of two, so that the definition rounds nothing, either
        weight.copy_(
            torch.where(weight >= 0, 0.25, -0.25) * (1 + 0.5 * torch.tensor([1.0, -1.0]).repeat(108).view_as(weight))
        )
    binary = torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean()
    through = (binary - weight).detach() + weight  # straight-through: the identity's gradient
    signs = (torch.where(x >= 0, 1.0, -1.0) - SignState.apply(x)).detach() + SignState.apply(x)
    y = F.relu(F.conv2d(signs, through, None, 2, 1))
    expected = F.batch_norm(y, None, None, op.bn.weight, op.bn.bias, training=True)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), (x, weight))
    got = _output(op, x)
    assert torch.allclose(got, expected, rtol=1e-10)
    for one, other in zip(torch.autograd.grad((got * direction).sum(), (x, weight)), wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


def test_weights_of_zero_give_finite_output() -> None:
    op = BinaryConvolution(_shape(2, 2, 1), 3)
    torch.nn.init.zeros_(op.conv.weight)
    assert _output(op, torch.randn(2, 2, 4, 4)).isfinite().all()


def test_strided_skip_reads_even_and_odd_pixels() -> None:
    op = Reduction(_shape(2, 4, 2))
    x = torch.randn(2, 2, 5, 5)
    signs = F.pad(State(x).signs().values(), (0, 1, 0, 1))

    def half(conv: torch.nn.Conv2d, pixels: Tensor) -> Tensor:
        return F.conv2d(pixels, torch.where(conv.weight >= 0, 1.0, -1.0)) * conv.weight.abs().mean()

    y = torch.cat([half(op.convs[0], signs[:, :, ::2, ::2]), half(op.convs[1], signs[:, :, 1::2, 1::2])], 1)
    expected = F.batch_norm(F.relu(y), None, None, training=True)
    assert torch.allclose(_output(op, x), expected, atol=1e-6)


def test_unstrided_skip_is_the_state_itself() -> None:
    state = State(torch.randn(2, 4, 3, 3))
    op = PRIMITIVES["skip_connect"].searched(_shape(4, 4, 1))
    assert isinstance(op, Identity)
    assert op(state) == Term(state.x)


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
    output = _output(MaxPool(_shape(2, 6, 2)), torch.randn(4, 2, 6, 6))
    assert torch.equal(output[:, :2], output[:, 2:4])
    assert torch.equal(output[:, :2], output[:, 4:])


def test_state_shares_its_sign_and_pool() -> None:
    state = State(torch.randn(2, 4, 6, 6))
    assert state.signs() is state.signs()
    assert state.pooled(2) is state.pooled(2)
    assert state.pooled(1).shape != state.pooled(2).shape


def test_batch_norm_of_a_scaled_tensor() -> None:
    norm, x = BatchNorm(3).double(), torch.randn(4, 3, 5, 5, dtype=torch.double)
    expected = F.batch_norm(0.01 * x, None, None, training=True)
    assert torch.allclose(normalized_sum([Term(x, norm, EPS / 0.01**2)]), expected, rtol=1e-12)
    norm.requires_grad_(requires_grad=False)
    before = norm.running_mean.clone()
    norm(x + 1)
    assert torch.equal(norm.running_mean, before)


def test_strided_pointwise_convolution_equals_torch() -> None:
    torch.manual_seed(0)
    ours = Conv2d(3, 5, 1, 2).double()
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
from nash_search.layers.convolution import Conv2d
torch.set_num_threads(2)
conv = Conv2d(8, 16, 1, 2).to(memory_format=torch.channels_last)
for _ in range(10):
    x = torch.randn(29, 8, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    conv(x).sum().backward()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def bytewise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small pictures, too, be convolved with 8-bit integers."""
    if not binary._multiplies_bytes():
        pytest.skip("this processor or this torch has no 8-bit convolutions worth having")
    monkeypatch.setattr(binary, "_FEWEST_PIXELS", 1)


@pytest.mark.usefixtures("bytewise")
@pytest.mark.parametrize("is_rectified", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(1, 1, 5), (1, 2, 5), (3, 1, 4), (3, 2, 7), (5, 1, 2), (5, 2, 6)]
)
@pytest.mark.parametrize(("in_channels", "out_channels"), [(3, 5), (16, 32), (40, 17)])
def test_sums_of_bytes_are_the_sums(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    size: int,
    is_rectified: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(in_channels, out_channels, kernel, stride, is_rectified=is_rectified)
    conv.to(memory_format=torch.channels_last)
    shapes = [(batch, in_channels, size, size + 1) for batch in (3, 2, 3)]
    states = [torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_() for shape in shapes]
    directions = [torch.randn_like(conv(Signs.of(x))) for x in states]

    def results() -> list[Tensor]:
        found = []
        for x, direction in zip(states, directions, strict=True):
            y = conv(Signs.of(x))
            found += [y, *torch.autograd.grad((y * direction).sum(), (x, conv.weight))]
        return found

    in_bytes = results()
    monkeypatch.setattr(binary, "_multiplies_bytes", lambda: False)
    assert all(torch.equal(one, other) for one, other in zip(in_bytes, results(), strict=True))


@pytest.mark.usefixtures("bytewise")
def test_packed_weights_follow_the_weights() -> None:
    torch.manual_seed(0)
    conv, signs = BinaryConv2d(4, 4, 3), Signs.of(torch.randn(2, 4, 5, 5))
    for change in (
        lambda: None,
        lambda: torch.nn.init.normal_(conv.weight),
        lambda: conv.load_state_dict({"weight": torch.randn(4, 4, 3, 3)}),
        lambda: conv.double().float().to(memory_format=torch.channels_last),
    ):
        change()
        weight = conv.weight.detach()
        expected = F.conv2d(signs.values(), torch.where(weight >= 0, 1.0, -1.0), padding=1)
        assert torch.equal(conv(signs), expected)
        assert conv.scale() == pytest.approx(float(weight.abs().mean()))


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_comes_close_to_float32(is_binary: bool, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(convolution, "_FEWEST_MACS", 1)
    conv = (BinaryConv2d if is_binary else Conv2d)(8, 16, 3, stride)
    x = torch.randn(4, 8, 9, 8, requires_grad=True)
    found = []
    for low in (None, torch.bfloat16):
        conv.low = low
        y = conv(Signs.of(x) if is_binary else x)
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found.append((y, *torch.autograd.grad((y * direction).sum(), (x, conv.weight))))
    assert torch.equal(found[0][0], found[1][0]) == is_binary  # binary sums are exact in either
    for one, other in zip(*found, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.01 * one.norm()
    assert not torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("num_channels", [3, 33])  # few are taken a row of pixels at a time
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalized_sum_equals_its_definition(num_channels: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    shape = (4, num_channels, 5, 6)
    features = [torch.randn(shape, dtype=torch.double).to(memory_format=layout).requires_grad_() for _ in range(4)]
    norms = [BatchNorm(num_channels).double() for _ in range(2)]
    parameters = [parameter for norm in norms for parameter in norm.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    terms = [Term(features[0]), Term(features[1], norms[0]), Term(features[2]), Term(features[3], norms[1], 0.5)]
    plain = features[0] + features[2]
    for x, norm, eps in ((features[1], norms[0], EPS), (features[3], norms[1], 0.5)):
        plain = plain + F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=eps)
    total = normalized_sum(terms)
    torch.testing.assert_close(total, plain, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(plain)
    wanted = torch.autograd.grad((plain * direction).sum(), [*features, *parameters])
    got = torch.autograd.grad((total * direction).sum(), [*features, *parameters])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_channels", [3, 33])
def test_running_statistics_are_those_of_torch(num_channels: int) -> None:
    torch.manual_seed(0)
    ours, plain = BatchNorm(num_channels), nn.BatchNorm2d(num_channels)
    for _ in range(3):
        x = 2 + torch.randn(4, num_channels, 5, 5)
        ours(x)
        plain(x)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_convolution_follows_a_fused_optimizer_at_every_step() -> None:
    torch.manual_seed(0)
    conv, x = BinaryConv2d(4, 4, 3), torch.randn(8, 4, 8, 8)
    optimizer = torch.optim.SGD(conv.parameters(), lr=1.0, fused=True)
    for _ in range(3):
        conv.requires_grad_(requires_grad=False)  # an architecture step comes first
        conv(Signs.of(x))
        conv.requires_grad_(requires_grad=True)
        conv(Signs.of(x)).square().mean().backward()
        conv(Signs.of(x))  # as in an evaluation between backward pass and step
        optimizer.step()
        weight = conv.weight.detach()
        expected = F.conv2d(Signs.of(x).values(), torch.where(weight >= 0, 1.0, -1.0), padding=1)
        optimizer.zero_grad()
        assert torch.equal(conv(Signs.of(x)), expected)
        assert conv.scale() == pytest.approx(float(weight.abs().mean()))
