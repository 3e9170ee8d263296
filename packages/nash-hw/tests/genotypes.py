"""Genotypes as nash-search writes them, and the QONNX networks that nash-qat makes of them, with random weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from networks import Network

OPERATIONS = ("max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3", "conv_5x5")
BOARDS = ("KV260_SOM", "Pynq-Z1", "U250")
_BITS = ((1, 2), (2, 2), (3, 3), (4, 4), (8, 8))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A genotype with the accelerator that is built of it."""

    genotype: dict[str, Any]
    weight_bits: int
    act_bits: int
    board: str
    seed: int
    slowdown: float = 1  # cycles a frame, of the fewest that any folding reaches
    cycles: int | None = None  # a frame; instead of that

    @property
    def title(self) -> str:
        sizes = [layer["channels"] for cell in self.genotype["cells"] for layer in cell["layers"]]
        side = self.genotype["input"]["height"]
        return f"{side}x{side}, channels {sizes}, w{self.weight_bits}a{self.act_bits}, {self.board}"

    def network(self) -> onnx.ModelProto:
        return genotype_network(self.genotype, self.weight_bits, self.act_bits, self.seed)


def draw_case(seed: int) -> Case:
    """Draw a small genotype: one or two cells of one or two layers, any operation from any state."""
    draw = random.Random(seed)
    width = draw.choice([2, 3, 4])
    cells, channels = [], width
    for number in range(draw.choice([1, 2])):
        stride = 2 if number else draw.choice([1, 2])
        layers = [_drawn_layer(draw, position, channels, stride) for position in range(draw.choice([1, 2]))]
        cells.append({"in_channels": channels, "layers": layers})
        channels *= stride
    side = draw.choice([8, 12])
    genotype = {
        "input": {"channels": draw.choice([1, 3]), "height": side, "width": side},
        "num_classes": 3,
        "stem": {"channels": width, "kernel": 3, "stride": 1, "max_pool": False},
        "cells": cells,
    }
    weight_bits, act_bits = draw.choice(_BITS)
    return Case(
        genotype=genotype,
        weight_bits=weight_bits,
        act_bits=act_bits,
        board=draw.choice(BOARDS),
        slowdown=draw.choice([1.2, 1.5, 2, 4]),
        seed=seed,
    )


def _drawn_layer(draw: random.Random, position: int, channels: int, stride: int) -> dict[str, Any]:
    residual = draw.randrange(position + 1) if draw.random() < 0.5 else None
    nas_op = {"op": draw.choice(OPERATIONS), "input": draw.randrange(position + 1)} if draw.random() < 0.8 else None
    return {
        "kernel": draw.choice([1, 3, 3]),
        "channels": channels * stride,
        "stride": stride if position == 0 else 1,
        "groups": 1,
        "residual_from": residual,
        "projection": residual is not None and ((stride == 2 and residual == 0) or draw.random() < 0.3),
        "nas_op": nas_op,
    }


def _layer(channels: int, stride: int, residual: int | None, operation: str, state: int) -> dict[str, Any]:
    return {
        "kernel": 3,
        "channels": channels,
        "stride": stride,
        "groups": 1,
        "residual_from": residual,
        "projection": residual is not None and channels > 4,
        "nas_op": {"op": operation, "input": state},
    }


DEMO = Case(  # what the demo's search finds, at width 4
    genotype={
        "input": {"channels": 1, "height": 16, "width": 16},
        "num_classes": 10,
        "stem": {"channels": 4, "kernel": 3, "stride": 1, "max_pool": False},
        "cells": [
            {
                "in_channels": in_channels,
                "layers": [_layer(out, stride, None, *first), _layer(out, 1, 0, *second)],
            }
            for in_channels, out, stride, first, second in (
                (4, 4, 1, ("conv_5x5", 0), ("skip_connect", 0)),
                (4, 8, 2, ("conv_5x5", 0), ("skip_connect", 1)),
                (8, 16, 2, ("conv_5x5", 0), ("conv_5x5", 1)),
            )
        ],
    },
    weight_bits=2,
    act_bits=2,
    board="KV260_SOM",
    seed=0,
    cycles=40_000,  # 5000 fps at 200 MHz
)


def genotype_network(genotype: dict[str, Any], weight_bits: int, act_bits: int, seed: int = 0) -> onnx.ModelProto:
    """Return the network of a genotype: 8 bits in stem, joins and classifier, the given ones elsewhere."""
    size, channels = genotype["input"], genotype["stem"]["channels"]
    net = Network((1, size["channels"], size["height"], size["width"]), seed)
    shape = (channels, size["channels"], *2 * [genotype["stem"]["kernel"]])
    state = net.relu(net.norm(net.conv(net.image, shape, 8), channels), act_bits)
    for cell in genotype["cells"]:
        states = [_State(state, channels, cell["layers"][0]["stride"])]
        for layer in cell["layers"]:
            channels = layer["channels"]
            sums = [net.quantize(path, 0.04, 8) for path in _paths(net, states, layer, weight_bits)]
            total = sums[0]
            for one in sums[1:]:
                total = net.node("Add", [total, one])
            states.append(_State(net.relu(total, act_bits), channels, 1))
        state = states[-1].name
    return net.finish(net.head(state, channels, genotype["num_classes"]), (1, genotype["num_classes"]))


@dataclass(frozen=True)
class _State:
    """A tensor of a cell, and the stride of what reads it."""

    name: str
    channels: int
    stride: int


def _paths(net: Network, states: list[_State], layer: dict[str, Any], bits: int) -> Iterator[str]:
    """Yield what a layer sums up: its convolution, its residual, its NAS operation."""
    out = layer["channels"]
    yield _convolution(net, states[-1], out, layer["kernel"], bits)
    if layer["residual_from"] is not None:
        source = states[layer["residual_from"]]
        yield _convolution(net, source, out, 1, bits) if layer["projection"] else source.name
    if layer["nas_op"] is not None:
        yield _operation(net, states[layer["nas_op"]["input"]], out, layer["nas_op"]["op"], bits)


def _convolution(net: Network, source: _State, out: int, kernel: int, bits: int) -> str:
    shape = (out, source.channels, kernel, kernel)
    return net.norm(net.conv(source.name, shape, bits, stride=source.stride), out)


def _operation(net: Network, source: _State, out: int, operation: str, bits: int) -> str:
    if operation.startswith("conv"):
        return _convolution(net, source, out, int(operation[-1]), bits)
    if operation == "skip_connect":
        return source.name if source.stride == 1 else _strided_skip(net, source, out, bits)
    pooled = net.pool(source.name, stride=source.stride)
    if out > source.channels:
        pooled = net.node("Concat", [pooled] * (out // source.channels), axis=1)
    return net.norm(pooled, out, positive=True)


def _strided_skip(net: Network, source: _State, out: int, bits: int) -> str:
    """Half of the channels read the first pixel of four, half the last, as one masked convolution."""
    mask = np.zeros((out, source.channels, 2, 2))
    mask[: out // 2, :, 0, 0] = mask[out // 2 :, :, 1, 1] = 1
    conv = net.conv(source.name, mask.shape, max(bits, 2), stride=2, pads=(0, 0, 0, 0), mask=mask)
    return net.norm(conv, out)
