"""The genotype: a backbone and at most one NAS operation beside each of its convolutions.

State 0 of a cell is its input, state i the activated output of its layer i (counted from 1); layer i reads
state i-1, its residual and its NAS operation read any earlier state. Stride and channels between two states
follow from the layers in between, so a genotype can contradict itself; `check` finds that.

Since schema 1.1 a layer may have another activation than a ReLU (`relu6`, or `none`: a linear bottleneck, arXiv
1801.04381), a max-pool behind it, and a padding of its own. What is added to a layer is added before its activation, so
its own pool does not count into the stride from an earlier state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from ..base import manifest
from ..base.errors import ManifestError
from ..base.suggest import one_of
from ..layers.shape import Shape
from .primitives import NONE, PRIMITIVES

RELU, RELU6, LINEAR = "relu", "relu6", "none"
_MAX_PROBLEMS = 8
_NO_STRIDE = 3  # no operation has it
_SINCE_1_1 = ("activation", "pool", "padding", "pool_kernel")


@dataclass(frozen=True, kw_only=True)
class NasOp:
    """One NAS operation, reading state `input`."""

    op: str
    input: int
    probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A max-pool behind an activation: 3x3 padded by a pixel, or 2x2 without padding."""

    kernel: int
    stride: int

    def shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width behind it.

        >>> Pool(kernel=2, stride=2).shrunk((7, 8)), Pool(kernel=3, stride=2).shrunk((7, 8))
        ((3, 4), (4, 4))
        """
        return _window(size, self.kernel, self.stride, self.kernel // 3)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One backbone convolution with what is added to it before its activation.

    activation: relu, relu6 or none. padding: pixels a side of its input; None is half of the kernel.
    """

    kernel: int
    channels: int
    stride: int
    groups: int = 1
    residual_from: int | None = None
    projection: bool = False
    nas_op: NasOp | None = None
    activation: str = RELU
    pool: Pool | None = None
    padding: int | None = None

    @property
    def pad(self) -> int:
        """The pixels that pad its input on each side."""
        return self.kernel // 2 if self.padding is None else self.padding

    def summed(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of its convolution, given those of what it reads."""
        return _window(size, self.kernel, self.stride, self.pad)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A group of layers within which NAS operations may connect any two states."""

    in_channels: int
    layers: tuple[Layer, ...]

    def channels(self, state: int) -> int:
        """Return the channels of a state; state 0 is the cell's input."""
        return self.layers[state - 1].channels if state else self.in_channels

    def stride(self, source: int, target: int) -> int:
        """Return how much smaller the sum of layer `target` is than the earlier state `source`.

        >>> layer = Layer(kernel=3, channels=8, stride=1)
        >>> cell = Cell(in_channels=4, layers=(replace(layer, stride=2), layer))
        >>> cell.stride(0, 2), cell.stride(1, 2)
        (2, 1)
        """
        pools = (layer.pool.stride for layer in self.layers[source : target - 1] if layer.pool is not None)
        return prod((*(layer.stride for layer in self.layers[source:target]), *pools))

    def shape(self, source: int, target: int) -> Shape:
        """Return what an operation from state `source` to the later state `target` is built for."""
        return Shape(
            in_channels=self.channels(source), out_channels=self.channels(target), stride=self.stride(source, target)
        )


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The convolution before the cells, and whether a stride-2 max-pool follows it (3x3, or 2x2 by `pool_kernel`)."""

    channels: int
    kernel: int
    stride: int
    max_pool: bool
    activation: str = RELU
    pool_kernel: int = 3

    @property
    def pool(self) -> Pool | None:
        """The max-pool, if there is one."""
        return Pool(kernel=self.pool_kernel, stride=2) if self.max_pool else None


@dataclass(frozen=True, kw_only=True)
class Input:
    """The shape of a picture."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A pair of states of one cell that a NAS operation may connect."""

    cell: int
    layer: int  # the state it leads to, from 1
    input: int  # the state it reads
    stride: int
    in_channels: int
    out_channels: int

    @property
    def shape(self) -> Shape:
        """What an operation on it is built for."""
        return Shape(in_channels=self.in_channels, out_channels=self.out_channels, stride=self.stride)


@dataclass(frozen=True, kw_only=True)
class Genotype:
    """A network of the family; without any NAS operation it is a plain backbone."""

    name: str
    num_classes: int
    input: Input
    stem: Stem
    cells: tuple[Cell, ...]
    backbone: str | None = None
    variant: str | None = None
    search: Mapping[str, Any] | None = None
    head_bias: bool = False  # of the classifier

    def without_nas_ops(self) -> Genotype:
        """Return the plain backbone of this network."""
        return self.with_nas_ops([None] * sum(len(cell.layers) for cell in self.cells))

    def with_nas_ops(self, nas_ops: Sequence[NasOp | None]) -> Genotype:
        """Return this network with other NAS operations, one a layer, in order."""
        remaining = iter(nas_ops)
        cells = tuple(
            replace(cell, layers=tuple(replace(layer, nas_op=next(remaining)) for layer in cell.layers))
            for cell in self.cells
        )
        return replace(self, cells=cells)

    def edges(self) -> Iterator[Edge]:
        """Yield every pair of states that a NAS operation may connect, by cell, layer and input.

        Pairs that shrink the picture more than twofold are left out: no operation has such a stride. A layer that no
        operation fits (of another padding) has one pair whose stride every operation refuses.
        """
        for index, cell in enumerate(self.cells):
            for target in range(1, len(cell.layers) + 1):
                fitting = [source for source in range(target) if self.fits(index, source, target)]
                for source in fitting or [target - 1]:
                    yield Edge(
                        cell=index,
                        layer=target,
                        input=source,
                        stride=cell.stride(source, target) if fitting else _NO_STRIDE,
                        in_channels=cell.channels(source),
                        out_channels=cell.channels(target),
                    )

    def fits(self, cell: int, source: int, target: int) -> bool:
        """Say whether an operation of stride 1 or 2 brings a state to the size of the sum of a later layer."""
        stride = self.cells[cell].stride(source, target)
        return stride <= 2 and _shrunk(self._sizes[cell][source], stride) == self._sums[cell][target]

    def sizes(self) -> list[list[tuple[int, int]]]:
        """Return height and width of every state, cell by cell."""
        return self._sizes

    def sum_size(self, cell: int, target: int) -> tuple[int, int]:
        """Return height and width of the sum of a layer, which its pool has not made smaller."""
        return self._sums[cell][target]

    @cached_property
    def _sizes(self) -> list[list[tuple[int, int]]]:
        return [[pooled for _, pooled in cell] for cell in self._both]

    @cached_property
    def _sums(self) -> list[list[tuple[int, int]]]:
        return [[summed for summed, _ in cell] for cell in self._both]

    @cached_property
    def _both(self) -> list[list[tuple[tuple[int, int], tuple[int, int]]]]:
        """Sizes of the sum and of the state of every layer, the cell's input first."""
        size = _shrunk((self.input.height, self.input.width), self.stem.stride)
        size = size if self.stem.pool is None else self.stem.pool.shrunk(size)
        cells = []
        for cell in self.cells:
            cells.append([(size, size)])
            for layer in cell.layers:
                summed = layer.summed(size)
                size = summed if layer.pool is None else layer.pool.shrunk(summed)
                cells[-1].append((summed, size))
        return cells


def _shrunk(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _window(size: tuple[int, int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    return height, width


def load(path: Path) -> Genotype:
    """Read genotype.json and check it against its schema and its own shapes.

    Raises:
        ManifestError: unreadable, breaking the schema, or contradicting itself; the text names the keys.
    """
    content = manifest.load(path, "genotype")
    genotype = from_manifest(content)
    problems = check(genotype)
    if problems:
        more = f" | and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise ManifestError(f"{path}: {' | '.join(problems[:_MAX_PROBLEMS])}{more}; correct the shapes")
    return genotype


def save(
    genotype: Genotype,
    path: Path,
    *,
    inputs: Iterable[dict[str, Any]] = (),
    artifacts: Iterable[dict[str, Any]] = (),
) -> None:
    """Write genotype.json atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    content = manifest.header("genotype", inputs=inputs, artifacts=artifacts) | to_manifest(genotype)
    manifest.save(path, content, "genotype")


def to_manifest(genotype: Genotype) -> dict[str, Any]:
    """Return the keys of genotype.json that describe the network."""
    content = asdict(genotype)
    content["stem"] = _without_defaults(content["stem"], Stem)
    content["cells"] = [
        cell | {"layers": [_without_defaults(layer, Layer) for layer in cell["layers"]]} for cell in content["cells"]
    ]
    content["head"] = {"pool": "global_avg"} | ({"bias": True} if content.pop("head_bias") else {})
    if content["search"] is None:
        del content["search"]
    return content


def _without_defaults(content: dict[str, Any], kind: type) -> dict[str, Any]:
    """Leave out what schema 1.0 did not know where it is as it was then: the same network has the same text."""
    defaults = {entry.name: entry.default for entry in fields(kind) if entry.name in _SINCE_1_1}
    return {key: value for key, value in content.items() if key not in defaults or value != defaults[key]}


def from_manifest(content: Mapping[str, Any]) -> Genotype:
    """Return the network a manifest that fits the schema describes."""
    return Genotype(
        name=content["name"],
        num_classes=int(content["num_classes"]),
        input=_build(Input, content["input"]),
        stem=_build(Stem, content["stem"]),
        cells=tuple(
            Cell(in_channels=int(cell["in_channels"]), layers=tuple(_layer(layer) for layer in cell["layers"]))
            for cell in content["cells"]
        ),
        backbone=content.get("backbone"),
        variant=content.get("variant"),
        search=content.get("search"),
        head_bias=bool(content.get("head", {}).get("bias", False)),
    )


def _layer(content: Mapping[str, Any]) -> Layer:
    layer = _build(Layer, content)
    return replace(
        layer,
        nas_op=None if layer.nas_op is None else _build(NasOp, content["nas_op"]),
        pool=None if layer.pool is None else _build(Pool, content["pool"]),
    )


def _build(kind: type, content: Mapping[str, Any]) -> Any:
    """Build a dataclass from the keys it knows; JSON's 3.0 is the integer 3."""
    known = {key: content[key] for key in kind.__dataclass_fields__ if key in content}
    integral = {key: int(value) for key, value in known.items() if isinstance(value, float) and key != "probability"}
    return kind(**(known | integral))


def check(genotype: Genotype) -> list[str]:
    """Return every contradiction between the shapes of a network, each naming its key; empty if there is none."""
    problems = []
    channels = genotype.stem.channels
    for index, cell in enumerate(genotype.cells):
        if cell.in_channels != channels:
            problems.append(f"cells[{index}].in_channels: got {cell.in_channels}, expected {channels} as before it")
        for target in range(1, len(cell.layers) + 1):
            found = _check_layer(cell, target)
            problems += [f"cells[{index}].layers[{target - 1}].{problem}" for problem in found]
        channels = cell.channels(len(cell.layers))
    return problems or list(_check_sizes(genotype))


def _check_sizes(genotype: Genotype) -> Iterator[str]:
    """Yield where a picture vanishes, or what is added to a layer has another size than its convolution."""
    for index, cell in enumerate(genotype.cells):
        for target, layer in enumerate(cell.layers, 1):
            where, size = f"cells[{index}].layers[{target - 1}]", genotype.sizes()[index][target]
            if min(size) < 1:
                yield f"{where}: got a state of {size[0]} x {size[1]} pixels, expected one; take larger pictures"
                return
            sources = {"residual_from": layer.residual_from, "nas_op.input": layer.nas_op and layer.nas_op.input}
            for key, source in sources.items():
                if source is not None and not genotype.fits(index, source, target):
                    yield f"{where}.{key}: got state {source}, whose size does not fit, expected one of equal padding"


def _check_layer(cell: Cell, target: int) -> Iterator[str]:
    layer = cell.layers[target - 1]
    before = cell.channels(target - 1)
    if before % layer.groups or layer.channels % layer.groups:
        yield f"groups: got {layer.groups}, expected a divisor of {before} and {layer.channels}"
    if layer.pool is not None and layer.activation == LINEAR:
        yield "pool: got one behind a layer without an activation, expected relu or relu6 there"
    if layer.residual_from is not None:
        yield from _check_residual(cell, target, layer.residual_from, projection=layer.projection)
    elif layer.projection:
        yield "projection: got true without a residual, expected residual_from to name a state"
    if layer.nas_op is not None:
        yield from _check_nas_op(cell, target, layer.nas_op)


def _check_residual(cell: Cell, target: int, source: int, *, projection: bool) -> Iterator[str]:
    if source >= target:
        yield f"residual_from: got {source}, expected an earlier state (0..{target - 1})"
        return
    stride = cell.stride(source, target)
    if stride > 2:
        yield f"residual_from: got stride {stride} from state {source}, expected 1 or 2"
    elif not projection and (stride != 1 or cell.channels(source) != cell.channels(target)):
        yield (
            f"projection: got false from {cell.channels(source)} to {cell.channels(target)} channels at stride "
            f"{stride}, expected true, or equal channels at stride 1"
        )


def _check_nas_op(cell: Cell, target: int, nas_op: NasOp) -> Iterator[str]:
    if nas_op.input >= target:
        yield f"nas_op.input: got {nas_op.input}, expected an earlier state (0..{target - 1})"
        return
    if nas_op.op not in PRIMITIVES:
        known = [name for name in PRIMITIVES if name != NONE]
        yield f"nas_op.op: got '{nas_op.op}', expected {one_of(nas_op.op, known)}"
        return
    reason = PRIMITIVES[nas_op.op].refusal(cell.shape(nas_op.input, target))
    if reason is not None:
        yield f"nas_op: got {nas_op.op} from state {nas_op.input} with {reason}"
