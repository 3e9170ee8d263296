"""The pieces of a network between two quantizers, as QONNX with random weights: what bits of a tensor decide together.

Shapes: feature maps (1, C, H, W), their integers the input of the graph.

A network falls apart at its quantizers: a convolution with the quantizer behind it depends on the bits it reads, those
of its weights and those it writes, whatever the rest of the network is. `Piece` says what a piece is, `write` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from .fragment import CONVOLUTIONS, STAND_IN_BITS, Writer

PIECE = "piece"  # begins the names of the tensors that belong to it; what else there is only feeds it
_NUM_FEEDERS = 4  # channels of the input of stand-ins


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A piece's operation and shapes.

    kind: `conv`, `reduce` (a strided skip), `pool` (a NAS max-pool) and `identity` with the quantizer behind, of a join
    or (`rectified`) of a state; `sum`, the addition of `num_terms` with the quantizer behind; `coarse`, the same state
    at fewer bits; `max_pool`, of the stem or of an aligned sum; `head`, pooled features and classifier.
    """

    kind: Literal["conv", "reduce", "pool", "identity", "sum", "coarse", "max_pool", "head"]
    in_channels: int
    out_channels: int
    size: tuple[int, int]
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    rectified: bool = False
    num_terms: int = 1

    @property
    def output_size(self) -> tuple[int, int]:
        """Return (H, W) behind it."""
        height, width = self.size
        return -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True, kw_only=True)
class PieceBits:
    """Bits of what a piece reads, of its weights, and of what it writes; `weight` is None where it has none."""

    read: int
    write: int
    weight: int | None = None


def operation_piece(op: str, channels: tuple[int, int], size: tuple[int, int], stride: int) -> Piece:
    """Return the piece of a NAS operation from one state to another."""
    shape = {"in_channels": channels[0], "out_channels": channels[1], "size": size, "stride": stride}
    if op == "max_pool_3x3":
        return Piece(kind="pool", **shape)
    if op in CONVOLUTIONS:
        return Piece(kind="conv", kernel=CONVOLUTIONS[op], **shape)
    if stride == 2:
        return Piece(kind="reduce", **shape)
    return Piece(kind="identity" if channels[0] == channels[1] else "conv", **shape)


def write(piece: Piece, bits: PieceBits) -> onnx.ModelProto:
    """Return the QONNX network of a piece."""
    writer = Writer()
    if piece.kind == "sum":
        return _sum(writer, piece, bits)
    x = writer.state("state", "x", bits.read)
    if piece.kind == "head":
        return _head(writer, piece, bits, x)
    channels = (piece.in_channels, piece.out_channels)
    match piece.kind:
        case "conv":
            shape = (piece.out_channels, piece.in_channels // piece.groups, piece.kernel, piece.kernel)
            pad = piece.kernel // 2
            y = writer.convolve(PIECE, x, shape, stride=piece.stride, pad=pad, bits=bits.weight, groups=piece.groups)
        case "reduce":
            y = writer.reduce(PIECE, x, channels, piece.size, bits.weight)
        case "pool":
            y = writer.pool_operation(PIECE, x, channels, piece.stride)
        case "max_pool":
            return _finish(writer, piece, writer.pool_operation(PIECE, x, channels, piece.stride, normalize=False))
        case _:
            y = x
    if piece.kind == "coarse":
        return _finish(writer, piece, writer.state(f"{PIECE}/act", y, bits.write))
    if piece.rectified:
        y = writer.node("Relu", f"{PIECE}/relu", [y])
        return _finish(writer, piece, writer.state(f"{PIECE}/act", y, bits.write))
    return _finish(writer, piece, writer.join(f"{PIECE}/join", y, bits.write))


def _sum(writer: Writer, piece: Piece, bits: PieceBits) -> onnx.ModelProto:
    """Write what adds terms that stand-ins make, of `bits.read` each, and the quantizer behind."""
    x = writer.state("state", "x", 8)
    shape = (piece.out_channels, _NUM_FEEDERS, 1, 1)
    terms = []
    for number in range(piece.num_terms):
        y = writer.convolve(f"term{number}", x, shape, stride=1, pad=0, bits=STAND_IN_BITS)
        terms.append(writer.join(f"term{number}/join", y, bits.read))
    y = terms[0]
    for number, term in enumerate(terms[1:]):
        y = writer.node("Add", f"{PIECE}/add{number}", [y, term])
    y = writer.state(f"{PIECE}/act", writer.node("Relu", f"{PIECE}/relu", [y]), bits.write)
    return writer.finish(y, ([1, _NUM_FEEDERS, *piece.size], [1, piece.out_channels, *piece.size]))


def _head(writer: Writer, piece: Piece, bits: PieceBits, x: str) -> onnx.ModelProto:
    x = writer.node("GlobalAveragePool", f"{PIECE}/pool", [x])
    x = writer.node("Flatten", f"{PIECE}/flatten", [writer.state(f"{PIECE}/features", x, bits.write)], axis=1)
    values = np.random.default_rng(0).standard_normal((piece.in_channels, piece.out_channels), np.float32)
    weights = writer.weights(f"{PIECE}/weights", values, bits.weight, per_channel=False)
    y = writer.node("MatMul", f"{PIECE}/classifier", [x, weights])
    return writer.finish(y, ([1, piece.in_channels, *piece.size], [1, piece.out_channels]))


def _finish(writer: Writer, piece: Piece, output: str) -> onnx.ModelProto:
    shapes = ([1, piece.in_channels, *piece.size], [1, piece.out_channels, *piece.output_size])
    return writer.finish(output, shapes)
