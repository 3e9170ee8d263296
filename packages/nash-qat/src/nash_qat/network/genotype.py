"""The network a genotype describes: stem, cells, global average pool, classifier.

State 0 of a cell is its input, state i the activated output of its layer i (1-based), and layer i reads state i-1.
A layer may add a residual and a NAS operation, each reading an earlier state of the same cell.
Since schema 1.1 it may have another activation, a max-pool behind that, and a padding of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..base import manifest as manifests
from ..base.errors import ManifestError

NasPrimitive = Literal["max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3", "conv_5x5"]
Activation = Literal["relu", "relu6", "none"]
Size = tuple[int, int]
_MAX_STRIDE = 2


@dataclass(frozen=True, kw_only=True)
class NasOp:
    """An operation beside a layer: it reads state `input` and is added before the layer's activation."""

    op: NasPrimitive
    input: int


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A max-pool behind an activation: 3x3 padded by a pixel, or 2x2 without padding."""

    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """Return the pixels that pad its input on each side."""
        return self.kernel // 3

    def size(self, before: Size) -> Size:
        """Return (H, W) behind it."""
        return _window(before, self.kernel, self.stride, self.padding)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution with batch normalization, what is added to it, its activation and a pool behind that.

    activation: relu, relu6, or none of a linear bottleneck (arXiv 1801.04381). padding: None is half of the kernel.
    """

    kernel: int
    channels: int
    stride: int
    groups: int
    residual_from: int | None
    projection: bool
    nas_op: NasOp | None
    activation: Activation = "relu"
    pool: Pool | None = None
    padding: int | None = None

    @property
    def is_linear(self) -> bool:
        """Say whether its state is signed: the sum itself."""
        return self.activation == "none"

    def sum_size(self, before: Size) -> Size:
        """Return (H, W) of its convolution."""
        padding = self.kernel // 2 if self.padding is None else self.padding
        return _window(before, self.kernel, self.stride, padding)

    def size(self, before: Size) -> Size:
        """Return (H, W) of its state."""
        return self.sum_size(before) if self.pool is None else self.pool.size(self.sum_size(before))

    @property
    def has_sum(self) -> bool:
        """Say whether anything is added to the convolution."""
        return self.residual_from is not None or self.nas_op is not None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A chain of layers; `state_channels[i]` and `stride_between(j, i)` describe its states."""

    in_channels: int
    layers: tuple[Layer, ...]

    @property
    def state_channels(self) -> tuple[int, ...]:
        """Return the channels of every state, the cell's input first."""
        return (self.in_channels, *(layer.channels for layer in self.layers))

    def stride_between(self, source: int, target: int) -> int:
        """Return how much smaller the sum of layer `target` is than state `source` along each axis."""
        stride = 1
        for layer in self.layers[source:target]:
            stride *= layer.stride
        for layer in self.layers[source : target - 1]:
            stride *= 1 if layer.pool is None else layer.pool.stride
        return stride

    def sizes(self, size: Size) -> list[Size]:
        """Return (H, W) of every state of the cell, whose input has `size`."""
        sizes = [size]
        for layer in self.layers:
            sizes.append(layer.size(sizes[-1]))
        return sizes

    def side_readers(self) -> frozenset[int]:
        """Return the states that a residual or a NAS operation reads."""
        residuals = {layer.residual_from for layer in self.layers if layer.residual_from is not None}
        return frozenset(residuals | {layer.nas_op.input for layer in self.layers if layer.nas_op is not None})


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The first convolution, with a stride-2 max-pool behind it if `max_pool` (3x3, or 2x2 by `pool_kernel`)."""

    channels: int
    kernel: int
    stride: int
    max_pool: bool
    activation: Activation = "relu"
    pool_kernel: int = 3

    @property
    def pool(self) -> Pool | None:
        """Return the max-pool, if there is one."""
        return Pool(kernel=self.pool_kernel, stride=2) if self.max_pool else None

    def size(self, before: Size) -> Size:
        """Return (H, W) behind it."""
        size = _window(before, self.kernel, self.stride, self.kernel // 2)
        return size if self.pool is None else self.pool.size(size)


@dataclass(frozen=True, kw_only=True)
class Genotype:
    """A network of the family; `manifest` is the complete genotype file it was read from."""

    name: str
    num_classes: int
    input_shape: tuple[int, int, int]  # (C, H, W)
    stem: Stem
    cells: tuple[Cell, ...]
    manifest: dict[str, Any]

    @property
    def is_linear_somewhere(self) -> bool:
        """Say whether a layer has no activation."""
        return any(layer.is_linear for cell in self.cells for layer in cell.layers)


def _window(size: Size, kernel: int, stride: int, padding: int) -> Size:
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    return height, width


def load(path: Path) -> Genotype:
    """Read a genotype manifest and check that its shapes fit together.

    Raises:
        ManifestError: the file breaks the schema, or a layer cannot be built; every problem is named by its key.
    """
    return parse(manifests.load(path, "genotype"), path)


def parse(manifest: dict[str, Any], path: Path) -> Genotype:
    """Return the typed form of a genotype manifest that fulfils the schema.

    Raises:
        ManifestError: a layer cannot be built.
    """
    shape = manifest["input"]
    stem = manifest["stem"]
    genotype = Genotype(
        name=manifest["name"],
        num_classes=manifest["num_classes"],
        input_shape=(shape["channels"], shape["height"], shape["width"]),
        stem=Stem(**{entry.name: stem[entry.name] for entry in fields(Stem) if entry.name in stem}),
        cells=tuple(_cell(cell) for cell in manifest["cells"]),
        manifest=manifest,
    )
    problems = _problems(genotype)
    if problems:
        raise ManifestError(f"{path}: {' | '.join(problems[:8])}; mend the genotype")
    return genotype


def _cell(cell: dict[str, Any]) -> Cell:
    return Cell(in_channels=cell["in_channels"], layers=tuple(_layer(layer) for layer in cell["layers"]))


def _layer(layer: dict[str, Any]) -> Layer:
    nas_op, pool = layer["nas_op"], layer.get("pool")
    return Layer(
        kernel=layer["kernel"],
        channels=layer["channels"],
        stride=layer["stride"],
        groups=layer["groups"],
        residual_from=layer["residual_from"],
        projection=layer["projection"],
        nas_op=None if nas_op is None else NasOp(op=nas_op["op"], input=nas_op["input"]),
        activation=layer.get("activation", "relu"),
        pool=None if pool is None else Pool(kernel=pool["kernel"], stride=pool["stride"]),
        padding=layer.get("padding"),
    )


def _problems(genotype: Genotype) -> list[str]:
    problems = []
    channels = genotype.stem.channels
    for c, cell in enumerate(genotype.cells):
        if cell.in_channels != channels:
            problems.append(
                f"cells[{c}].in_channels: got {cell.in_channels}, expected {channels}, the channels that reach it"
            )
        for index, layer in enumerate(cell.layers):
            where = f"cells[{c}].layers[{index}]"
            problems += _layer_problems(where, cell, index + 1, layer)
        channels = cell.layers[-1].channels
    return problems or _size_problems(genotype)


def _size_problems(genotype: Genotype) -> list[str]:
    """Return where a picture vanishes, or what is added has another size than the convolution."""
    problems = []
    size = genotype.stem.size(genotype.input_shape[1:])
    for c, cell in enumerate(genotype.cells):
        sizes = cell.sizes(size)
        for number, layer in enumerate(cell.layers, 1):
            where, summed = f"cells[{c}].layers[{number - 1}]", layer.sum_size(sizes[number - 1])
            if min(sizes[number]) < 1:
                return [f"{where}: got {sizes[number][0]} x {sizes[number][1]} pixels, expected one at least"]
            sources = {"residual_from": layer.residual_from, "nas_op.input": layer.nas_op and layer.nas_op.input}
            for key, source in sources.items():
                if source is not None and summed != _shrunk(sizes[source], cell.stride_between(source, number)):
                    problems.append(f"{where}.{key}: got state {source}, whose size does not fit, expected another")
        size = sizes[-1]
    return problems


def _shrunk(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


def _layer_problems(where: str, cell: Cell, number: int, layer: Layer) -> list[str]:
    problems = []
    in_channels = cell.state_channels[number - 1]
    if in_channels % layer.groups or layer.channels % layer.groups:
        problems.append(f"{where}.groups: got {layer.groups}, expected a divisor of {in_channels} and {layer.channels}")
    if layer.pool is not None and layer.is_linear:
        problems.append(f"{where}.pool: got one behind a layer without an activation, expected relu or relu6 there")
    problems += _residual_problems(where, cell, number, layer)
    if layer.nas_op is not None:
        problems += _nas_problems(where, cell, number, layer.nas_op)
    return problems


def _residual_problems(where: str, cell: Cell, number: int, layer: Layer) -> list[str]:
    source = layer.residual_from
    if source is None:
        return [f"{where}.projection: got true, expected false without residual_from"] if layer.projection else []
    if source >= number:
        return [f"{where}.residual_from: got {source}, expected a state before {number}"]
    stride, in_channels = cell.stride_between(source, number), cell.state_channels[source]
    if stride > _MAX_STRIDE:
        return [f"{where}.residual_from: got a stride of {stride} from state {source}, expected at most {_MAX_STRIDE}"]
    if not layer.projection and (stride != 1 or in_channels != layer.channels):
        change = f"{in_channels} to {layer.channels} channels at stride {stride}"
        return [f"{where}.projection: got false, expected true for a residual from {change}"]
    return []


def _nas_problems(where: str, cell: Cell, number: int, nas_op: NasOp) -> list[str]:
    if nas_op.input >= number:
        return [f"{where}.nas_op.input: got {nas_op.input}, expected a state before {number}"]
    stride = cell.stride_between(nas_op.input, number)
    in_channels, channels = cell.state_channels[nas_op.input], cell.state_channels[number]
    if stride > _MAX_STRIDE:
        return [f"{where}.nas_op.input: got a stride of {stride} from state {nas_op.input}, expected at most 2"]
    if nas_op.op == "max_pool_3x3" and channels % in_channels:
        return [f"{where}.nas_op.op: got max_pool_3x3 from {in_channels} to {channels} channels, expected a multiple"]
    return []
