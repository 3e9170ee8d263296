"""The quantized network of a genotype.

Shapes: pictures (B, C, H, W) in [0, 1], logits (B, num_classes). A state is a pair of tensors: `act` as backbone
convolutions read it and `side` as residuals, projections and NAS operations do; one tensor when the bits are equal.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import quantizers
from .errors import ManifestError
from .genotype import Cell, Genotype, Layer, NasOp
from .presets import QuantizationSpec

_MIN_GAMMA = 1e-3


class State(NamedTuple):
    """A state at the two precisions it is read at."""

    act: Tensor
    side: Tensor


class Activation(nn.Module):
    """ReLU and quantizer; where both precisions are read, the coarser is made from the finer."""

    def __init__(self, *, act_bits: int, side_bits: int | None) -> None:
        super().__init__()
        self._act_is_finer = side_bits is not None and act_bits > side_bits
        two = side_bits is not None and side_bits != act_bits
        self.fine = quantizers.relu(bits=max(act_bits, side_bits or act_bits))
        self.coarse = quantizers.relu(bits=min(act_bits, side_bits or act_bits)) if two else None

    def forward(self, x: Tensor, pool: nn.Module | None = None) -> State:
        fine = self.fine(x)
        if pool is not None:
            fine = pool(fine)
        if self.coarse is None:
            return State(fine, fine)
        coarse = self.coarse(fine)
        return State(fine, coarse) if self._act_is_finer else State(coarse, fine)


class ConvBN(nn.Module):
    """Convolution and batch normalization; `mask` marks the weights that may differ from zero."""

    mask: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        bits: int,
        reads_bits: int,
        has_learned_scale: bool = False,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.weight_bits, self.reads_bits = bits, reads_bits
        self.conv = quantizers.conv(
            in_channels,
            out_channels,
            kernel,
            bits=bits,
            has_learned_scale=has_learned_scale,
            stride=stride,
            padding=padding,
            groups=groups,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.bn = nn.BatchNorm2d(out_channels)
        self.register_buffer("mask", mask, persistent=False)
        self.constrain()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def set_weight_bits(self, bits: int) -> None:
        """Quantize the weights to other bits; structural zeros need two."""
        old, self.weight_bits = self.conv, bits if self.mask is None else max(bits, 2)
        self.conv = quantizers.conv(
            old.in_channels,
            old.out_channels,
            old.kernel_size[0],
            bits=self.weight_bits,
            has_learned_scale=old.has_learned_scale,
            stride=old.stride[0],
            padding=old.padding[0],
            groups=old.groups,
        )
        self.conv.load_state_dict(old.state_dict())

    @torch.no_grad()
    def constrain(self) -> None:
        """Set the structural zeros to zero."""
        if self.mask is not None:
            self.conv.weight.mul_(self.mask)


def factorized_reduction(
    in_channels: int,
    out_channels: int,
    *,
    bits: int,
    reads_bits: int,
    size: tuple[int, int],
    has_learned_scale: bool = False,
) -> ConvBN:
    """Return two stride-2 1x1 convolutions, the second on the input shifted by one pixel, as one masked convolution.

    The first half of the outputs reads pixel (2y, 2x), the second (2y + 1, 2x + 1); beyond an odd edge there is zero.
    """
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    kernel, padding, tap = (2, 0, 0) if even else (3, 1, 1)
    mask = torch.zeros(out_channels, in_channels, kernel, kernel)
    mask[: out_channels // 2, :, tap, tap] = 1
    mask[out_channels // 2 :, :, tap + 1, tap + 1] = 1
    bits = max(bits, 2)  # one bit has no zero
    return ConvBN(
        in_channels,
        out_channels,
        kernel,
        bits=bits,
        reads_bits=reads_bits,
        has_learned_scale=has_learned_scale,
        stride=2,
        padding=padding,
        mask=mask,
    )


class MaxPoolBN(nn.Module):
    """3x3 max-pool, its channels repeated to fill `out_channels`, and a batch normalization whose gamma is positive."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self._repeats = out_channels // in_channels
        self.pool = nn.MaxPool2d(3, stride=stride, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return self.bn(torch.cat([x] * self._repeats, dim=1) if self._repeats > 1 else x)

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep gamma positive: the hardware then needs no multiplication after the pool."""
        self.bn.weight.clamp_(min=_MIN_GAMMA)


@dataclass(frozen=True, kw_only=True)
class _Edge:
    """From one state of a cell to another; `size` is (H, W) of the state it starts from."""

    in_channels: int
    out_channels: int
    stride: int
    size: tuple[int, int]


def _nas_operation(nas_op: NasOp, edge: _Edge, spec: QuantizationSpec) -> nn.Module:
    bits = _weight_bits(spec, spec.nas_weight_bits)
    if nas_op.op == "max_pool_3x3":
        return MaxPoolBN(edge.in_channels, edge.out_channels, stride=edge.stride)
    if nas_op.op != "skip_connect":
        kernel = {"conv_1x1": 1, "conv_3x3": 3, "conv_5x5": 5}[nas_op.op]
        return ConvBN(edge.in_channels, edge.out_channels, kernel, stride=edge.stride, **bits)
    if edge.stride == 2:
        return factorized_reduction(edge.in_channels, edge.out_channels, size=edge.size, **bits)
    if edge.in_channels != edge.out_channels:
        return ConvBN(edge.in_channels, edge.out_channels, 1, **bits)
    return nn.Identity()


def _residual(layer: Layer, edge: _Edge, spec: QuantizationSpec) -> nn.Module:
    if not layer.projection:
        return nn.Identity()
    bits = _weight_bits(spec, spec.projection_weight_bits)
    return ConvBN(edge.in_channels, edge.out_channels, 1, stride=edge.stride, **bits)


def _weight_bits(spec: QuantizationSpec, bits: int) -> dict[str, Any]:
    """Return how a convolution that reads a state from aside is quantized."""
    return {"bits": bits, "reads_bits": spec.state_bits, "has_learned_scale": spec.has_learned_weight_scales}


class LayerBlock(nn.Module):
    """One layer of a cell: the convolution, what is added to it, the activation."""

    def __init__(
        self, cell: Cell, number: int, spec: QuantizationSpec, *, sizes: list[tuple[int, int]], side_read: bool
    ) -> None:
        super().__init__()
        layer = cell.layers[number - 1]
        self._residual_from = layer.residual_from
        self._nas_input = None if layer.nas_op is None else layer.nas_op.input
        self.main = ConvBN(
            cell.state_channels[number - 1],
            layer.channels,
            layer.kernel,
            bits=spec.weight_bits,
            reads_bits=spec.act_bits,
            has_learned_scale=spec.has_learned_weight_scales,
            stride=layer.stride,
            groups=layer.groups,
        )

        def edge(source: int) -> _Edge:
            return _Edge(
                in_channels=cell.state_channels[source],
                out_channels=layer.channels,
                stride=cell.stride_between(source, number),
                size=sizes[source],
            )

        self.residual = None if layer.residual_from is None else _residual(layer, edge(layer.residual_from), spec)
        self.nas_op = None if layer.nas_op is None else _nas_operation(layer.nas_op, edge(layer.nas_op.input), spec)
        joins = self.residual is not None or self.nas_op is not None
        self.join = quantizers.signed(bits=spec.join_bits) if joins else None
        self.act = Activation(act_bits=spec.act_bits, side_bits=spec.state_bits if side_read else None)

    def forward(self, states: list[State]) -> State:
        terms = [self.main(states[-1].act)]
        if self.residual is not None:
            terms.append(self.residual(states[self._residual_from].side))
        if self.nas_op is not None:
            terms.append(self.nas_op(states[self._nas_input].side))
        return self.act(terms[0] if self.join is None else self.join(*terms))


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
        ManifestError: `spec` overrides a convolution that is not there.
    """

    def __init__(self, genotype: Genotype, spec: QuantizationSpec) -> None:
        super().__init__()
        self.genotype, self.spec = genotype, spec
        stem = genotype.stem
        self.pixels = quantizers.pixels()
        self.stem = ConvBN(
            genotype.input_shape[0],
            stem.channels,
            stem.kernel,
            bits=spec.stem_weight_bits,
            reads_bits=8,
            has_learned_scale=spec.has_learned_weight_scales,
            stride=stem.stride,
        )
        stem_reads, cell_reads = _side_reads(genotype)
        self.stem_act = Activation(act_bits=spec.act_bits, side_bits=spec.state_bits if stem_reads else None)
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1) if stem.max_pool else None
        size = _shrink(genotype.input_shape[1:], stem.stride)
        size = _shrink(size, 2) if stem.max_pool else size
        cells = []
        for cell, reads in zip(genotype.cells, cell_reads, strict=True):
            block, size = _cell_block(cell, size, reads, spec)
            cells.append(block)
        self.cells = nn.ModuleList(cells)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.features = quantizers.relu(bits=spec.feature_bits)
        self.flatten = nn.Flatten(1)
        features = genotype.cells[-1].layers[-1].channels
        self.classifier = quantizers.linear(
            features,
            genotype.num_classes,
            bits=spec.head_weight_bits,
            has_learned_scale=spec.has_learned_weight_scales,
        )
        self._override(spec.overrides)
        self.constrain()

    def forward(self, x: Tensor) -> Tensor:
        state = self.stem_act(self.stem(self.pixels(x)), self.stem_pool)
        for cell in self.cells:
            state = cell(state)
        return self.classifier(self.flatten(self.features(self.pool(state.act))))

    def _override(self, overrides: Mapping[str, int]) -> None:
        convolutions = {name: module for name, module in self.named_modules() if isinstance(module, ConvBN)}
        for name, bits in overrides.items():
            if name not in convolutions:
                close = difflib.get_close_matches(name, convolutions, n=1)
                hint = f", did you mean '{close[0]}'?" if close else ""
                raise ManifestError(f"quantization.overrides.{name}: the network has no such convolution{hint}")
            convolutions[name].set_weight_bits(bits)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the parameters back to what the hardware can express; call it after every optimizer step."""
        for module in self.modules():
            if isinstance(module, ConvBN | MaxPoolBN):
                module.constrain()


def _cell_block(
    cell: Cell, size: tuple[int, int], reads: list[bool], spec: QuantizationSpec
) -> tuple[CellBlock, tuple[int, int]]:
    sizes = [size]
    for layer in cell.layers:
        sizes.append(_shrink(sizes[-1], layer.stride))
    layers = [
        LayerBlock(cell, number, spec, sizes=sizes, side_read=reads[number - 1])
        for number in range(1, len(cell.layers) + 1)
    ]
    return CellBlock(layers), sizes[-1]


def _side_reads(genotype: Genotype) -> tuple[bool, list[list[bool]]]:
    """Say of the stem and of every cell's layers whether a residual or a NAS operation reads their output."""
    readers = [cell.side_readers() for cell in genotype.cells]
    next_cell_reads = [*(0 in reader for reader in readers[1:]), False]
    layers = [
        [*(number in reader for number in range(1, len(cell.layers))), of_next]
        for cell, reader, of_next in zip(genotype.cells, readers, next_cell_reads, strict=True)
    ]
    return 0 in readers[0], layers


def _shrink(size: tuple[int, ...], stride: int) -> tuple[int, int]:
    height, width = size
    return (-(-height // stride), -(-width // stride))
