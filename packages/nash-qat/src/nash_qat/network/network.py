"""The quantized network of a genotype.

Shapes: pictures (B, C, H, W) in [0, 1], logits (B, num_classes). A state is a pair of tensors: `act` as backbone
convolutions read it and `side` as residuals, projections and NAS operations do; one tensor when the bits are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..base.errors import ManifestError
from ..quant import quantizers
from ..quant.presets import QuantizationSpec
from . import bits as table
from . import joins, sums
from .genotype import Cell, Genotype, Pool
from .terms import ConvBN, Edge, MaxPoolBN, nas_operation, residual

_CEILING = 6.0  # of a ReLU6


class State(NamedTuple):
    """A state at the two precisions it is read at."""

    act: Tensor
    side: Tensor


class Activation(nn.Module):
    """ReLU and quantizer; where both precisions are read, the coarser is made from the finer.

    make: returns the quantizer of 'state' (what side operations read, and backbone convolutions if the bits are equal)
    or of 'act' (what backbone convolutions read).
    """

    def __init__(
        self, *, act_bits: int, side_bits: int | None, make: Callable[[Literal["act", "state"]], nn.Module]
    ) -> None:
        super().__init__()
        self._act_is_finer = side_bits is not None and act_bits > side_bits
        state = None if side_bits is None else make("state")
        act = state if side_bits == act_bits else make("act")
        self.fine = act if state is None or self._act_is_finer else state
        self.coarse = None if state is None or state is act else (state if self._act_is_finer else act)

    def quantizer_of(self, kind: str) -> nn.Module:
        """Return the quantizer that 'act', what backbone convolutions read, or 'state' comes out of."""
        is_fine = self.coarse is None or (kind == "act") == self._act_is_finer
        return self.fine if is_fine else self.coarse

    def forward(self, x: Tensor, pool: nn.Module | None = None) -> State:
        fine = self.fine(x)
        if pool is not None:
            fine = pool(fine)
        if self.coarse is None:
            return State(fine, fine)
        coarse = self.coarse(fine)
        return State(fine, coarse) if self._act_is_finer else State(coarse, fine)


class LayerBlock(nn.Module):
    """One layer of a cell: the convolution, what is added to it, the activation.

    bits: of every tensor of the network. prefixes: what the names of those of the cell's states begin with. plan: how
    sums are formed. states: the quantizers of earlier states by their names; the layer's own are added.
    """

    def __init__(
        self,
        cell: Cell,
        number: int,
        bits: Mapping[str, int],
        *,
        sizes: list[tuple[int, int]],
        prefixes: list[str],
        plan: joins.Plan,
        states: dict[str, nn.Module],
        has_learned_scale: bool,
    ) -> None:
        super().__init__()
        layer, own = cell.layers[number - 1], prefixes[number]
        join, fused = plan.joins.get(f"{own}join"), plan.fused.get(f"{own}join")
        self._direct = (join.direct if join is not None else fused) or ()
        self._residual_from = layer.residual_from
        self._nas_input = None if layer.nas_op is None else layer.nas_op.input
        self.main = ConvBN(
            cell.state_channels[number - 1],
            layer.channels,
            layer.kernel,
            bits=bits[f"{own}main"],
            reads_bits=bits[f"{prefixes[number - 1]}act"],
            has_learned_scale=has_learned_scale,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            is_summed=fused is not None,
        )

        def edge(source: int) -> Edge:
            return Edge(
                in_channels=cell.state_channels[source],
                out_channels=layer.channels,
                stride=cell.stride_between(source, number),
                size=sizes[source],
            )

        def side_bits(name: str, source: int) -> dict[str, Any]:
            if f"{own}{name}" not in bits:  # it has no weights
                return {}
            return {
                "bits": bits[f"{own}{name}"],
                "reads_bits": bits[f"{prefixes[source]}state"],
                "has_learned_scale": has_learned_scale,
                "is_summed": fused is not None,
                "leader": None if fused is None else self.main.conv,
            }

        self.residual = self.nas_op = None
        if layer.residual_from is not None:
            source = layer.residual_from
            self.residual = residual(layer, edge(source), side_bits("residual", source))
        if layer.nas_op is not None:
            source = layer.nas_op.input
            read_bits, is_direct = side_bits("nas_op", source), "nas_op" in self._direct
            self.nas_op = nas_operation(layer.nas_op, edge(source), read_bits, is_direct=is_direct)
        self.join: nn.Module | None = None
        if join is not None:
            self.join = _quantizer(join, states)
        elif fused is not None:
            others = [term.conv for term in (self.residual, self.nas_op) if isinstance(term, ConvBN)]
            self.join = sums.FusedSum(self.main.conv, others, num_states=len(fused))
            self.join.initialize()
        self.act = _activation(own, bits, plan, states, layer.activation)
        self.pool = _max_pool(layer.pool)

    def forward(self, states: list[State]) -> State:
        return self.act(self._sum(states), self.pool)

    def _sum(self, states: list[State]) -> Tensor:
        terms = {"main": self.main(states[-1].act)}
        if self.residual is not None:
            terms["residual"] = self.residual(states[self._residual_from].side)
        if self.nas_op is not None:
            terms["nas_op"] = self.nas_op(states[self._nas_input].side)
        if self.join is None:
            return terms["main"]
        direct = [terms.pop(name) for name in self._direct]
        if isinstance(self.join, sums.FusedSum):
            return self.join(list(terms.values()), direct)
        total = self.join(*terms.values())
        for term in direct:
            total = total + term
        return total


def _max_pool(pool: Pool | None) -> nn.MaxPool2d | None:
    return None if pool is None else nn.MaxPool2d(pool.kernel, pool.stride, pool.padding)


def _quantizer(join: joins.Join, states: Mapping[str, nn.Module]) -> nn.Module:
    leader = None if join.leader is None else states[join.leader]
    return quantizers.signed(bits=join.bits, leader=leader, shift=join.shift)


def _activation(
    prefix: str, bits: Mapping[str, int], plan: joins.Plan, states: dict[str, nn.Module], activation: str
) -> Activation:
    """Return the activation of a state and add its quantizers to `states`."""

    def make(kind: str) -> nn.Module:
        name = f"{prefix}{kind}"
        if activation == "none":
            states[name] = quantizers.signed(bits=bits[name])
            return states[name]
        leader = states[plan.leaders[name]] if name in plan.leaders else None
        shift = plan.shifts.get(name, 0)
        states[name] = quantizers.relu(bits=bits[name], leader=leader, shift=shift, leads=name in plan.followed)
        if activation == "relu6":
            states[name].ceiling = _CEILING
        return states[name]

    return Activation(act_bits=bits[f"{prefix}act"], side_bits=bits.get(f"{prefix}state"), make=make)


class CellBlock(nn.Module):
    """A chain of layers that read earlier states of the chain."""

    def __init__(self, layers: list[LayerBlock]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, state: State) -> State:
        states = [state]
        for layer in self.layers:
            states.append(layer(states))
        return states[-1]


class Network(nn.Module):
    """The quantized network of a genotype: pictures (B, C, H, W) in [0, 1] to logits (B, num_classes).

    Raises:
        ManifestError: `spec` overrides a tensor that is not there.

    `bits` has those of every quantized tensor by name.
    """

    def __init__(self, genotype: Genotype, spec: QuantizationSpec) -> None:
        super().__init__()
        self.genotype, self.spec = genotype, spec
        if genotype.is_linear_somewhere and spec.join == "fused":
            raise ManifestError(
                "quantization.join: got fused, expected aligned or quantized for a network with linear layers; "
                "pass --join quantized"
            )
        bits = table.resolve(genotype, spec)
        plan = joins.plan(genotype, spec, bits)
        self.bits = bits = bits | {name: join.bits for name, join in plan.joins.items()}
        stem = genotype.stem
        self.pixels = quantizers.pixels()
        self.stem = ConvBN(
            genotype.input_shape[0],
            stem.channels,
            stem.kernel,
            bits=bits["stem"],
            reads_bits=8,
            has_learned_scale=spec.has_learned_weight_scales,
            stride=stem.stride,
        )
        states: dict[str, nn.Module] = {}
        self.stem_act = _activation("stem_", bits, plan, states, stem.activation)
        self.stem_pool = _max_pool(stem.pool)
        size = stem.size(genotype.input_shape[1:])
        cells = []
        for cell, prefixes in zip(genotype.cells, table.state_prefixes(genotype), strict=True):
            sizes = cell.sizes(size)
            layers = [
                LayerBlock(
                    cell,
                    number,
                    bits,
                    sizes=sizes,
                    prefixes=prefixes,
                    plan=plan,
                    states=states,
                    has_learned_scale=spec.has_learned_weight_scales,
                )
                for number in range(1, len(cell.layers) + 1)
            ]
            cells.append(CellBlock(layers))
            size = sizes[-1]
        self.cells = nn.ModuleList(cells)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.features = quantizers.relu(bits=bits["features"])
        self.flatten = nn.Flatten(1)
        features = genotype.cells[-1].layers[-1].channels
        self.classifier = quantizers.linear(
            features,
            genotype.num_classes,
            bits=bits["classifier"],
            has_learned_scale=spec.has_learned_weight_scales,
        )
        self._constrained = [module for module in self.modules() if _is_constrained(module)]
        self.constrain()

    def forward(self, x: Tensor) -> Tensor:
        state = self.stem_act(self.stem(self.pixels(x)), self.stem_pool)
        for cell in self.cells:
            state = cell(state)
        return self.classifier(self.flatten(self.features(self.pool(state.act))))

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the parameters back to what the hardware can express; call it after every optimizer step."""
        for module in self._constrained:  # a table, as looking at all modules takes longer than the work
            module.constrain()


def _is_constrained(module: nn.Module) -> bool:
    if isinstance(module, MaxPoolBN | sums.FusedSum) or quantizers.has_ceiling(module):
        return True
    return isinstance(module, ConvBN) and module.mask is not None
