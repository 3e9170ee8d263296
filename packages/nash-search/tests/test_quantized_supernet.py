"""The quantized supernet against a network written by hand, and what it shares with the one that is not quantized."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nash_search.genotype import genotype, zoo
from nash_search.genotype.genotype import Genotype, NasOp
from nash_search.genotype.primitives import PRIMITIVES
from nash_search.genotype.variants import VARIANTS
from nash_search.layers.operations import State
from nash_search.layers.quantizers import _STEPS
from nash_search.layers.shape import Shape
from nash_search.search.architect import Architect
from nash_search.supernet.quantization import Quantization, preset
from nash_search.supernet.supernet import Path, SearchLayer, Supernet

PRESETS = ("w4a4", "w1a2", "v3", "v4")
OPS = (("max_pool_3x3", 0), ("skip_connect", 1), ("skip_connect", 0), ("conv_3x3", 1), ("conv_5x5", 0), None)


def _supernet(quantized: str | None, relaxation: str = "layer", variant: str = "v1") -> Supernet:
    torch.manual_seed(0)
    quantization = None if quantized is None else preset(quantized)
    network = zoo.build("resnet8", width=4, input_size=9)  # odd: a reduction then reads beyond the edge
    return Supernet(network, VARIANTS[variant], relaxation, quantization=quantization)


def _found(supernet: Supernet) -> Genotype:
    """Return a genotype with one of each operation."""
    ops = iter(OPS)
    cells = tuple(
        replace(cell, layers=tuple(replace(layer, nas_op=_nas_op(next(ops))) for layer in cell.layers))
        for cell in supernet.backbone.cells
    )
    return replace(supernet.backbone, cells=cells)


def _nas_op(op: tuple[str, int] | None) -> NasOp | None:
    return None if op is None else NasOp(op=op[0], input=op[1], probability=1.0)


class ByHand:
    """The quantized network of a genotype, layer by layer, with the weights of a supernet."""

    def __init__(self, supernet: Supernet, bits: Quantization) -> None:
        self.supernet, self.bits = supernet, bits

    def weight(self, weight: Tensor, bits: int) -> Tensor:
        rows = weight.flatten(1)
        if bits == 1:
            return torch.where(weight < 0, -1.0, 1.0) * rows.abs().mean(1).view(-1, 1, 1, 1)
        high = 2 ** (bits - 1) - 1
        scale = 1.4 * rows.abs().mean(1) if bits == 2 else rows.abs().max(1)[0] / high
        scale = scale.view(-1, 1, 1, 1)
        return (weight / scale).round().clamp(-high, high) * scale

    def state(self, x: Tensor, bits: int) -> Tensor:
        x = F.relu(x)
        scale = _STEPS[bits] * x.square().mean().sqrt()
        return (x / scale).round().clamp(max=2**bits - 1) * scale

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a state as the backbone reads it and as all others do."""
        act, side = self.bits.act_bits, self.bits.state_bits
        fine = self.state(x, max(act, side))
        coarse = fine if act == side else self.state(fine, min(act, side))
        return (fine, coarse) if act > side else (coarse, fine)

    def norm(self, x: Tensor, bn: torch.nn.Module) -> Tensor:
        return F.batch_norm(x, None, None, bn.weight, bn.bias, training=True, eps=1e-5)

    def operation(self, op: NasOp, layer: SearchLayer, x: Tensor, stride: int, out_channels: int) -> Tensor:
        module, bits = layer.mixed[op.input].ops[self.supernet.variant.primitives.index(op.op)], self.bits
        if op.op == "max_pool_3x3":
            return self.norm(F.max_pool2d(x, 3, stride, 1).repeat(1, out_channels // x.shape[1], 1, 1), module.bn)
        if op.op != "skip_connect":
            weight = self.weight(module.conv.weight, bits.nas_weight_bits)
            return self.norm(F.conv2d(x, weight, None, stride, weight.shape[2] // 2), module.bn)
        if stride == 1:
            return x
        even, odd = (self.weight(conv.weight, max(2, bits.nas_weight_bits)) for conv in module.convs)
        halves = [F.conv2d(x, even, None, 2), F.conv2d(F.pad(x, (-1, 1, -1, 1)), odd, None, 2)]
        return self.norm(torch.cat(halves, 1), module.bn)

    def __call__(self, x: Tensor, found: Genotype) -> Tensor:
        net, bits = self.supernet, self.bits
        x = F.conv2d(x, self.weight(net.stem.weight, bits.stem_weight_bits), None, 1, 1)
        state, layers = self.states(self.norm(x, net.stem_bn)), iter(net.layers)
        for cell in found.cells:
            states = [state]
            for number, plan in enumerate(cell.layers, 1):
                layer = next(layers)
                weight = self.weight(layer.conv.weight, bits.weight_bits)
                y = self.norm(F.conv2d(states[-1][0], weight, None, plan.stride, 1), layer.bn)
                if plan.residual_from is not None:
                    residual = states[plan.residual_from][1]
                    if plan.projection:
                        conv, bn = layer.projection
                        weight = self.weight(conv.weight, bits.projection_weight_bits)
                        residual = self.norm(F.conv2d(residual, weight, None, conv.stride), bn)
                    y = y + residual
                if plan.nas_op is not None:
                    source = plan.nas_op.input
                    stride = cell.stride(source, number)
                    y = y + self.operation(plan.nas_op, layer, states[source][1], stride, plan.channels)
                states.append(self.states(y))
            state = states[-1]
        last = state[0] if bits.act_bits == bits.state_bits else self.state(y, bits.act_bits)
        weight = net.classifier.weight
        scale = weight.abs().max() / (2 ** (bits.head_weight_bits - 1) - 1)
        return self.state(last.mean((2, 3)), bits.feature_bits) @ ((weight / scale).round() * scale).T


@pytest.mark.parametrize("quantized", PRESETS)
@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_decoded_path_is_the_network_by_hand(quantized: str, relaxation: str) -> None:
    supernet = _supernet(quantized, relaxation).double()
    for weight in supernet.weights():
        torch.nn.init.normal_(weight, 0.5)
    found = _found(supernet)
    path = supernet.path_of(found)
    x = torch.rand(5, 3, 9, 9, dtype=torch.double)
    with torch.no_grad():
        logits, expected = supernet(x, path), ByHand(supernet, preset(quantized))(x, found)
    assert torch.allclose(logits, expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize(("quantized", "act", "side"), [("w4a4", 16, 16), ("w2a1", 2, 2), ("v3", 16, 256)])
def test_states_have_few_levels_and_none_below_zero(quantized: str, act: int, side: int) -> None:
    supernet, seen = _supernet(quantized), []
    for layer in supernet.layers:
        layer.register_forward_hook(lambda _, args, __: seen.append(args[0][-1]))
    supernet(torch.rand(4, 3, 9, 9), supernet.sample(torch.Generator().manual_seed(0)))
    assert len(seen) == 6
    for state in seen:
        assert state.x.min() == state.act.min() == 0
        assert len(state.act.unique()) <= act
        assert len(state.x.unique()) <= side
    assert any(len(state.x.unique()) > side // 2 for state in seen)


@pytest.mark.parametrize("name", ["conv_1x1", "conv_3x3", "conv_5x5", "skip_connect"])
def test_convolutions_beside_layers_have_no_relu_of_their_own(name: str) -> None:
    op = PRIMITIVES[name].searched(Shape(in_channels=4, out_channels=8, stride=2), 4)
    assert op(State(torch.rand(4, 4, 6, 6))).features.min() < 0


@pytest.mark.parametrize("quantized", ["w4a4", "v2", "v4"])
@pytest.mark.parametrize("relaxation", ["layer", "edge"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_variant_trains_and_decodes(quantized: str, relaxation: str, variant: str, odd_network: Genotype) -> None:
    supernet = Supernet(odd_network, VARIANTS[variant], relaxation, quantization=preset(quantized))
    path = supernet.sample(torch.Generator().manual_seed(0))
    supernet(torch.rand(3, 1, 13, 9), path).square().sum().backward()
    backbone = [supernet.stem.weight, *(layer.conv.weight for layer in supernet.layers), supernet.classifier.weight]
    assert all(weight.grad.isfinite().all() and (weight.grad != 0).any() for weight in backbone)
    assert genotype.check(supernet.genotype()) == []


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
@pytest.mark.parametrize("gradient", ["swap", "two-path", "full"])
def test_alphas_get_a_gradient_in_every_way(relaxation: str, gradient: str) -> None:
    supernet = _supernet("w4a4", relaxation)
    architect = Architect(supernet, gradient)
    path = architect.sample(torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    step = architect.accumulate(torch.rand(8, 3, 9, 9), torch.arange(8), path)
    assert step.gradient_norm > 0
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_gate_gradient_is_the_slope_of_the_loss() -> None:
    """The last layer's, with 8 bits: the finer the grid, the less a straight-through gradient leaves out."""
    supernet = _supernet("w8a8").double()
    x, target, h = torch.rand(64, 3, 9, 9, dtype=torch.double), torch.arange(64) % 10, 0.05
    row = len(supernet.alpha) - 1
    active = list(supernet.path_of(_found(supernet)).active_index)
    active[row] = supernet.layers[-1].menus[0].index((1, supernet.variant.primitives.index("conv_3x3")))
    gates = torch.zeros(supernet.alpha.shape, dtype=torch.double)
    for each, index in enumerate(active):
        gates[each, 0 if index is None else index] = 1.0
    gates.requires_grad_()
    wanted = [range(gates.shape[1])] * len(gates)
    with supernet.frozen():
        F.cross_entropy(supernet(x, Path(active, wanted, gates)), target).backward()
        norm = supernet.layers[-1].mixed[1].ops[supernet.variant.primitives.index("conv_3x3")].bn
        losses = []
        for factor in (1 - h, 1 + h):
            with torch.no_grad():
                norm.weight.mul_(factor)
                norm.bias.mul_(factor)
                losses.append(F.cross_entropy(supernet(x, Path(active)), target).item())
                norm.weight.div_(factor)
                norm.bias.div_(factor)
    slope = (losses[1] - losses[0]) / (2 * h)
    assert gates.grad[row, active[row]].item() == pytest.approx(slope, rel=0.2)


def test_quantization_adds_no_parameter() -> None:
    plain, quantized = _supernet(None), _supernet("w4a4")
    assert {name: value.shape for name, value in plain.state_dict().items()} == {
        name: value.shape for name, value in quantized.state_dict().items()
    }
