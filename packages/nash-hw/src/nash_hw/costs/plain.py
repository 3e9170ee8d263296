"""The network of a genotype, whole or a stretch of one cell, as QONNX: what nash-qat would export, with random weights.

Shapes: feature maps (1, C, H, W). The input of the graph are pixels, or the integers of a stretch's first state.

A stretch is the part of a cell that an operation lies in: from the state it reads, or an earlier one that a residual in
between needs, to the layer it is added to. So it has what waits for the operation, or what the operation waits for, and
the join where the layer has none without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import onnx

from ..base.errors import UnsupportedError, UsageError
from .fragment import OPERATION, Place, Terms, Writer

PIXEL_BITS = 8
_STEM_BITS = _PROJECTION_BITS = _HEAD_BITS = 8  # of weights
_LEAST_FEATURE_BITS = 4
_NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Bits of the weights of convolutions, of the backbone's and of operations', and of activations."""

    weight: int
    act: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a cell: its convolution, its residual, and the operation beside it as (op, state), if any."""

    kernel: int
    channels: int
    stride: int
    groups: int
    residual_from: int | None
    projection: bool
    operation: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Layers of a cell; states are counted from the one it begins with, of `in_channels` and `size`."""

    in_channels: int
    size: tuple[int, int]
    layers: tuple[Layer, ...]

    def with_operation(self, op: str | None, source: int) -> Stretch:
        """Return it with an operation from a state to its end, or with none."""
        last = replace(self.layers[-1], operation=None if op is None else (op, source))
        return replace(self, layers=(*self.layers[:-1], last))


@dataclass(frozen=True)
class _State:
    tensor: str
    channels: int
    size: tuple[int, int]
    stride: int  # between the first state and it


def refuse_newer(network: Mapping[str, Any], where: str) -> None:
    """Check that a genotype has nothing that cannot be priced; of schema 1.1 that is all but ReLU6, a ReLU here.

    Raises:
        UnsupportedError: it has; all such keys are named.
    """
    found = [] if network["stem"].get("pool_kernel", 3) == 3 else ["stem.pool_kernel: got 2, expected 3"]
    for c, cell in enumerate(network["cells"]):
        for index, layer in enumerate(cell["layers"]):
            own, padding = f"cells[{c}].layers[{index}]", layer.get("padding")
            if layer.get("activation") == "none":
                found.append(f"{own}.activation: got none, expected relu or relu6")
            if layer.get("pool") is not None:
                found.append(f"{own}.pool: got a pool, expected null")
            if padding not in (None, layer["kernel"] // 2):
                found.append(f"{own}.padding: got {padding}, expected {layer['kernel'] // 2}")
    if found:
        more = f" | and {len(found) - _NUM_NAMED} more" if len(found) > _NUM_NAMED else ""
        listed = " | ".join(found[:_NUM_NAMED])
        raise UnsupportedError(f"{where}: {listed}{more}; such a network cannot be priced")


def cells_of(network: Mapping[str, Any]) -> list[Stretch]:
    """Return the cells of a genotype, whole."""
    size = _shrunk((network["input"]["height"], network["input"]["width"]), network["stem"]["stride"])
    size = _shrunk(size, 2) if network["stem"]["max_pool"] else size
    cells = []
    for cell in network["cells"]:
        layers = tuple(map(_layer, cell["layers"]))
        cells.append(Stretch(in_channels=cell["in_channels"], size=size, layers=layers))
        for layer in layers:
            size = _shrunk(size, layer.stride)
    return cells


def stretch(cell: Stretch, source: int, target: int) -> tuple[Stretch, int]:
    """Return the stretch of a cell for operations from state `source` to layer `target`, and where it begins."""
    start, reached = source, target
    while reached > start:  # a residual that ends within may begin before
        residual = cell.layers[reached - 1].residual_from
        start, reached = min(start, reached if residual is None else residual), reached - 1
    channels, size = cell.in_channels, cell.size
    for layer in cell.layers[:start]:
        channels, size = layer.channels, _shrunk(size, layer.stride)
    layers = tuple(
        replace(layer, residual_from=None if layer.residual_from is None else layer.residual_from - start)
        for layer in cell.layers[start:target]
    )
    return Stretch(in_channels=channels, size=size, layers=layers), start


def widened(network: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return the plain network with a stem of `width` channels, all others in proportion.

    Raises:
        UsageError: a layer would have a part of a channel.
    """
    own = network["stem"]["channels"]

    def scaled(channels: int) -> int:
        if channels * width % own:
            step = own // gcd(own, channels)
            raise UsageError(f"--widths: got {width}, expected a multiple of {step}: a layer has {channels} at {own}")
        return channels * width // own

    cells = []
    for cell in network["cells"]:
        before, layers = cell["in_channels"], []
        for layer in cell["layers"]:
            is_depthwise = layer["groups"] == before
            groups = scaled(before) if is_depthwise else layer["groups"]
            layers.append(layer | {"channels": scaled(layer["channels"]), "groups": groups, "nas_op": None})
            before = layer["channels"]
        cells.append({"in_channels": scaled(cell["in_channels"]), "layers": layers})
    return dict(network) | {"stem": network["stem"] | {"channels": width}, "cells": cells}


def whole(network: Mapping[str, Any], bits: Bits, joins: str) -> onnx.ModelProto:
    """Return the network of a genotype, with its NAS operations if it has any, from pixels to logits."""
    write, shape, stem = Writer(), network["input"], network["stem"]
    pixels = write.quantize("pixels", "x", 1 / 255, PIXEL_BITS, signed=False)
    y = write.convolve(
        "stem",
        pixels,
        (stem["channels"], shape["channels"], stem["kernel"], stem["kernel"]),
        stride=stem["stride"],
        pad=stem["kernel"] // 2,
        bits=_STEM_BITS,
    )
    tensor = _activate(write, "stem", y, bits)
    if stem["max_pool"]:
        tensor = write.pool("stem", tensor, 2)
    for number, cell in enumerate(cells_of(network)):
        tensor = _Cell(write, bits, joins, f"cells.{number}.").extend(cell, tensor)
        channels = cell.layers[-1].channels
    x = write.node("GlobalAveragePool", "features/pool", [tensor])
    x = write.state("features", x, max(_LEAST_FEATURE_BITS, bits.act))
    logits = write.classify("classifier", x, (channels, network["num_classes"]), _HEAD_BITS)
    return write.finish(logits, ([1, shape["channels"], shape["height"], shape["width"]], [1, network["num_classes"]]))


def part(found: Stretch, bits: Bits, joins: str) -> onnx.ModelProto:
    """Return the network of a stretch; the names of its operation's tensors begin with `fragment.OPERATION`."""
    write = Writer()
    state = write.state("state", "x", bits.act)
    output = _Cell(write, bits, joins, "").extend(found, state)
    size = found.size
    for layer in found.layers:
        size = _shrunk(size, layer.stride)
    shapes = [1, found.in_channels, *found.size], [1, found.layers[-1].channels, *size]
    return write.finish(output, shapes)


class _Cell:
    """Writes the layers of a cell."""

    def __init__(self, write: Writer, bits: Bits, joins: str, prefix: str) -> None:
        self._write, self._bits, self._joins, self._prefix = write, bits, joins, prefix

    def extend(self, cell: Stretch, tensor: str) -> str:
        """Write a cell behind a state and return the tensor of its last one."""
        states = [_State(tensor, cell.in_channels, cell.size, 1)]
        for index, layer in enumerate(cell.layers):
            states.append(self._layer(f"{self._prefix}layers.{index}.", layer, states))
        return states[-1].tensor

    def _layer(self, own: str, layer: Layer, states: list[_State]) -> _State:
        before = states[-1]
        kernel, stride = layer.kernel, before.stride * layer.stride
        has_sum = layer.residual_from is not None or layer.operation is not None
        terms = Terms(self._write, self._joins, self._bits.act)
        total = self._write.convolve(
            f"{own}main",
            before.tensor,
            (layer.channels, before.channels // layer.groups, kernel, kernel),
            stride=layer.stride,
            pad=kernel // 2,
            bits=self._bits.weight,
            groups=layer.groups,
            unit=terms.unit if has_sum else None,
        )
        if has_sum:
            terms.convolution(f"{own}main", total)
            for name, op, bits, source in self._sides(own, layer):
                terms.operation(name, self._place(states[source], layer, stride, bits), op, states[source].tensor)
            total = terms.total(own.removesuffix("."), layer.channels)
        tensor = _activate(self._write, f"{own}act", total, self._bits)
        return _State(tensor, layer.channels, _shrunk(before.size, layer.stride), stride)

    def _sides(self, own: str, layer: Layer) -> Iterator[tuple[str, str, int, int]]:
        """Yield the name, the operation, the bits of its weights and the state of what is added to a convolution."""
        if layer.residual_from is not None:
            op, bits = ("conv_1x1", _PROJECTION_BITS) if layer.projection else ("skip_connect", self._bits.weight)
            yield f"{own}residual", op, bits, layer.residual_from
        if layer.operation is not None:
            op, source = layer.operation
            yield f"{OPERATION}/{own}nas_op", op, self._bits.weight, source

    def _place(self, source: _State, layer: Layer, stride: int, weight_bits: int) -> Place:
        return Place(
            in_channels=source.channels,
            out_channels=layer.channels,
            stride=stride // source.stride,
            size=source.size,
            weight_bits=weight_bits,
            act_bits=self._bits.act,
        )


def _activate(write: Writer, name: str, tensor: str, bits: Bits) -> str:
    return write.state(name, write.node("Relu", f"{name}/relu", [tensor]), bits.act)


def _layer(layer: Mapping[str, Any]) -> Layer:
    nas_op = layer.get("nas_op")
    return Layer(
        kernel=layer["kernel"],
        channels=layer["channels"],
        stride=layer["stride"],
        groups=layer["groups"],
        residual_from=layer["residual_from"],
        projection=layer["projection"],
        operation=None if nas_op is None else (nas_op["op"], nas_op["input"]),
    )


def _shrunk(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)
