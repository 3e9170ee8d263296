"""The genotype: a backbone and at most one NAS operation beside each of its convolutions.

State 0 of a cell is its input, state i the activated output of its layer i (counted from 1); layer i reads
state i-1, its residual and its NAS operation read any earlier state. Stride and channels between two states
follow from the layers in between, so a genotype can contradict itself; `check` finds that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from . import manifest
from .errors import ManifestError
from .primitives import NONE, PRIMITIVES, Shape
from .suggest import one_of

_MAX_PROBLEMS = 8


@dataclass(frozen=True, kw_only=True)
class NasOp:
    """One NAS operation, reading state `input`."""

    op: str
    input: int
    probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One backbone convolution with what is added to it before its activation."""

    kernel: int
    channels: int
    stride: int
    groups: int = 1
    residual_from: int | None = None
    projection: bool = False
    nas_op: NasOp | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A group of layers within which NAS operations may connect any two states."""

    in_channels: int
    layers: tuple[Layer, ...]

    def channels(self, state: int) -> int:
        """Return the channels of a state; state 0 is the cell's input."""
        return self.layers[state - 1].channels if state else self.in_channels

    def stride(self, source: int, target: int) -> int:
        """Return how much smaller state `target` is than the earlier state `source`.

        >>> layer = Layer(kernel=3, channels=8, stride=1)
        >>> cell = Cell(in_channels=4, layers=(replace(layer, stride=2), layer))
        >>> cell.stride(0, 2), cell.stride(1, 2)
        (2, 1)
        """
        return prod(layer.stride for layer in self.layers[source:target])

    def shape(self, source: int, target: int) -> Shape:
        """Return what an operation from state `source` to the later state `target` is built for."""
        return Shape(
            in_channels=self.channels(source), out_channels=self.channels(target), stride=self.stride(source, target)
        )


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The convolution before the cells, and whether a 3x3 stride-2 max-pool follows it."""

    channels: int
    kernel: int
    stride: int
    max_pool: bool


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

        Pairs that shrink the picture more than twofold are left out: no operation has such a stride.
        """
        for index, cell in enumerate(self.cells):
            for target in range(1, len(cell.layers) + 1):
                for source in range(target):
                    if cell.stride(source, target) <= 2:
                        yield Edge(
                            cell=index,
                            layer=target,
                            input=source,
                            stride=cell.stride(source, target),
                            in_channels=cell.channels(source),
                            out_channels=cell.channels(target),
                        )

    def sizes(self) -> list[list[tuple[int, int]]]:
        """Return height and width of every state, cell by cell."""
        size = (self.input.height, self.input.width)
        for stride in (self.stem.stride, 2 if self.stem.max_pool else 1):
            size = _shrunk(size, stride)
        cells = []
        for cell in self.cells:
            cells.append([size])
            for layer in cell.layers:
                size = _shrunk(size, layer.stride)
                cells[-1].append(size)
        return cells


def _shrunk(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


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
    content["cells"] = [cell | {"layers": list(cell["layers"])} for cell in content["cells"]]
    content["head"] = {"pool": "global_avg"}
    if content["search"] is None:
        del content["search"]
    return content


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
    )


def _layer(content: Mapping[str, Any]) -> Layer:
    layer = _build(Layer, content)
    return replace(layer, nas_op=None if layer.nas_op is None else _build(NasOp, content["nas_op"]))


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
    return problems


def _check_layer(cell: Cell, target: int) -> Iterator[str]:
    layer = cell.layers[target - 1]
    before = cell.channels(target - 1)
    if before % layer.groups or layer.channels % layer.groups:
        yield f"groups: got {layer.groups}, expected a divisor of {before} and {layer.channels}"
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
