"""Where a network's bits meet: its pieces by place, and the tensors whose bits decide each.

A place is named after what stands there: "cells.0.layers.1.main" is the convolution with the quantizer behind it,
".sum" the addition with the quantizer behind, ".coarse" a state made coarser for its other readers. The tensors are
those of `quantization.resolved` in model.json, which names everything there is; the genotype has the shapes.

Where sums are `aligned`, a term without weights is the state that it reads, or its maxima: nothing is behind it, so a
skip is no place. The other terms then have no more bits than the largest state needs, at the bits the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .pieces import Piece, PieceBits, operation_piece

_PIXEL_BITS = 8
_HEADROOM_BITS = 2  # of an aligned sum beside those of its states: a sign, and twice the largest one


@dataclass(frozen=True, kw_only=True)
class _State:
    prefix: str  # of its tensors' names
    channels: int
    size: tuple[int, int]
    stride: int = 1  # between the cell's input and it


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a network: its bits there, and the fewest it can have."""

    bits: int
    lowest: int


@dataclass(frozen=True, kw_only=True)
class PlaceBits:
    """The tensors a place reads (None: pixels), has as weights, and writes: of two, the finer is made first.

    most: bits that are enough for a term of the sum that is read or written.
    """

    read: str | None
    write: tuple[str, ...]
    weight: str | None = None
    most: int | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Return the tensors whose bits decide the place."""
        return tuple(name for name in (self.weight, self.read, *self.write) if name is not None)

    def of(self, bits: Mapping[str, int], *, is_within: bool = False) -> PieceBits:
        """Return the bits of the piece when the tensors have these; `is_within`: it stands behind the finer one."""
        written = [self._bits(name, bits) for name in self.write]
        if is_within:
            return PieceBits(read=max(written), write=min(written))
        return PieceBits(
            read=_PIXEL_BITS if self.read is None else self._bits(self.read, bits),
            weight=None if self.weight is None else bits[self.weight],
            write=max(written),
        )

    def _bits(self, name: str, bits: Mapping[str, int]) -> int:
        is_capped = self.most is not None and name.endswith(".join")
        return min(bits[name], self.most) if is_capped else bits[name]


@dataclass(frozen=True, kw_only=True)
class NetworkPlace:
    """A piece of a network, and the tensors that decide it."""

    name: str
    piece: Piece
    bits: PlaceBits

    def piece_bits(self, bits: Mapping[str, int]) -> PieceBits | None:
        """Return the bits of the piece, None if there is none: both readers of a state want the same bits."""
        found = self.bits.of(bits, is_within=self.piece.kind in ("coarse", "max_pool"))
        return None if self.piece.kind == "coarse" and found.read == found.write else found


def tensors_of(model: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a model manifest that has `quantization.resolved`."""
    lowest = dict.fromkeys(model["quantization"]["resolved"], 1)
    for place in places_of(model):
        for name in place.bits.write if place.piece.kind != "coarse" else ():
            lowest[name] = 2 if name.endswith(".join") else lowest[name]
        if place.piece.kind == "reduce":  # one bit has no zero
            lowest[place.bits.weight] = 2
    return {name: Tensor(bits=bits, lowest=lowest[name]) for name, bits in model["quantization"]["resolved"].items()}


def places_of(model: Mapping[str, Any]) -> list[NetworkPlace]:
    """Return the places of a model manifest, from the pictures to the logits."""
    return list(_Walk(model).places())


class _Walk:
    def __init__(self, model: Mapping[str, Any]) -> None:
        self._genotype = model["genotype"]["copy"]
        self._names = model["quantization"]["resolved"]
        self._is_aligned = model["quantization"].get("join") == "aligned"
        self._shift = model["quantization"].get("join_shift", 0)

    def places(self) -> Iterator[NetworkPlace]:
        """Yield every place; each cell's states are what its layers can read."""
        shape, stem = self._genotype["input"], self._genotype["stem"]
        size = (shape["height"], shape["width"])
        piece = Piece(
            kind="conv",
            in_channels=shape["channels"],
            out_channels=stem["channels"],
            size=size,
            kernel=stem["kernel"],
            stride=stem["stride"],
            rectified=True,
        )
        write, size = self._written("stem_"), piece.output_size
        yield NetworkPlace(name="stem", piece=piece, bits=PlaceBits(read=None, weight="stem", write=write))
        if stem["max_pool"]:
            channels = stem["channels"]
            pool = Piece(kind="max_pool", in_channels=channels, out_channels=channels, size=size, stride=2)
            size = pool.output_size
            yield NetworkPlace(name="stem_pool", piece=pool, bits=PlaceBits(read=None, write=write))
        state = _State(prefix="stem_", channels=stem["channels"], size=size)
        yield from self._coarse(state)
        for c, cell in enumerate(self._genotype["cells"]):
            states = [replace(state, stride=1)]
            for index, layer in enumerate(cell["layers"]):
                yield from self._layer(f"cells.{c}.layers.{index}.", layer, states)
            state = states[-1]
        yield self._head(state)

    def _layer(self, own: str, layer: Mapping[str, Any], states: list[_State]) -> Iterator[NetworkPlace]:
        """Yield a layer's places and append the state it writes."""
        before = states[-1]
        main = Piece(
            kind="conv",
            in_channels=before.channels,
            out_channels=layer["channels"],
            size=before.size,
            kernel=layer["kernel"],
            stride=layer["stride"],
            groups=layer["groups"],
            rectified=f"{own}join" not in self._names,
        )
        state = _State(
            prefix=own, channels=layer["channels"], size=main.output_size, stride=before.stride * layer["stride"]
        )
        write = self._written(own) if main.rectified else (f"{own}join",)
        sides = [(name, op, states[number]) for name, op, number in _sides(own, layer)]
        most = self._most(sides)
        bits = PlaceBits(read=f"{before.prefix}act", weight=f"{own}main", write=write, most=most)
        yield NetworkPlace(name=f"{own}main", piece=main, bits=bits)
        for name, op, source in sides:
            yield from self._side(name, op, source, state, most)
        if sides:
            shape = {"in_channels": state.channels, "out_channels": state.channels, "size": state.size}
            piece = Piece(kind="sum", num_terms=1 + len(sides), **shape)
            bits = PlaceBits(read=f"{own}join", write=self._written(own), most=most)
            yield NetworkPlace(name=f"{own}sum", piece=piece, bits=bits)
        yield from self._coarse(state)
        states.append(state)

    def _is_direct(self, name: str) -> bool:
        """Say whether a term is a state, or maxima of one, without a quantizer of its own."""
        return self._is_aligned and name not in self._names

    def _most(self, sides: list[tuple[str, str, _State]]) -> int | None:
        """Return the bits that the terms of a sum have at most, None if it has no state among them."""
        states = [self._names[f"{source.prefix}state"] for name, _, source in sides if self._is_direct(name)]
        return self._shift + max(states) + _HEADROOM_BITS if states else None

    def _side(self, name: str, op: str, source: _State, state: _State, most: int | None) -> Iterator[NetworkPlace]:
        """Yield what is added to a layer's convolution, if it is anything."""
        read = f"{source.prefix}state"
        piece = operation_piece(op, (source.channels, state.channels), source.size, state.stride // source.stride)
        if not self._is_direct(name):
            weight = name if name in self._names else None
            bits = PlaceBits(read=read, weight=weight, write=(f"{state.prefix}join",), most=most)
            yield NetworkPlace(name=name, piece=piece, bits=bits)
        elif piece.kind == "pool":
            yield NetworkPlace(
                name=name, piece=replace(piece, kind="max_pool"), bits=PlaceBits(read=None, write=(read,))
            )

    def _coarse(self, state: _State) -> Iterator[NetworkPlace]:
        if f"{state.prefix}state" in self._names:
            piece = Piece(kind="coarse", in_channels=state.channels, out_channels=state.channels, size=state.size)
            bits = PlaceBits(read=None, write=self._written(state.prefix))
            yield NetworkPlace(name=f"{state.prefix}coarse", piece=piece, bits=bits)

    def _head(self, state: _State) -> NetworkPlace:
        num_classes = self._genotype["num_classes"]
        piece = Piece(kind="head", in_channels=state.channels, out_channels=num_classes, size=state.size)
        bits = PlaceBits(read=f"{state.prefix}act", weight="classifier", write=("features",))
        return NetworkPlace(name="classifier", piece=piece, bits=bits)

    def _written(self, prefix: str) -> tuple[str, ...]:
        return tuple(name for name in (f"{prefix}act", f"{prefix}state") if name in self._names)


def _sides(own: str, layer: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield the name, the operation and the number of the state of each term beside a layer's convolution."""
    if layer["residual_from"] is not None:
        yield f"{own}residual", "conv_1x1" if layer["projection"] else "skip_connect", layer["residual_from"]
    if layer["nas_op"] is not None:
        yield f"{own}nas_op", layer["nas_op"]["op"], layer["nas_op"]["input"]
