"""The backbones by name, as a table: at any width and input size.

A cell holds at most six layers, as in the paper's ResNet34 (a longer stage is several cells): the edges of a cell
grow with the square of its layers. Classifiers have no bias, as in every network of the family. What differs
from the networks as they were published:

- resnet18, resnet34: the first block of the first cell has a 1x1 projection, as in the paper (arXiv 2403.01845).
- resnet18-tv, resnet34-tv: the identity there, as in torchvision and arXiv 1512.03385, so that published weights fit.
- resnet20, resnet32, resnet56 (arXiv 1512.03385, CIFAR): strided blocks project their residual ("option B") where the
  authors' CIFAR networks drop pixels and pad channels with zeros.
- resnet50: the stride is on the 3x3 convolution of a bottleneck ("v1.5", torchvision's), not on the first 1x1.
- vgg11 (arXiv 1409.1556, with BN): a 2x2 max-pool gives its stride to the convolution after it, which so has the
  weights, the output size and the multiplications it had; the last max-pool and the three dense layers
  make way for global average pooling and one classifier.
- mobilenetv1 (arXiv 1704.04861): both halves of a separable block are layers of their own; the last depthwise
  convolution has stride 1 (the 2 in the article's table does not fit its sizes).
- Inputs of up to 64 pixels keep their resolution in the stem: 3x3, stride 1, no max-pool.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..base.errors import UsageError
from ..base.suggest import one_of
from .genotype import Cell, Genotype, Input, Layer, Stem

_SMALL_INPUT = 64  # pixels; up to here the stem keeps the resolution


@dataclass(frozen=True)
class ConvPlan:
    """One convolution of a block."""

    kernel: int
    is_strided: bool = False  # it carries the stride of the block
    is_depthwise: bool = False  # it keeps its input's channels, one group each
    narrowing: int = 1  # how many times fewer channels it has than the block


@dataclass(frozen=True)
class BlockPlan:
    """What a cell repeats."""

    convs: tuple[ConvPlan, ...]
    is_residual: bool = False


BASIC = BlockPlan((ConvPlan(3, is_strided=True), ConvPlan(3)), is_residual=True)
BOTTLENECK = BlockPlan(
    (ConvPlan(1, narrowing=4), ConvPlan(3, is_strided=True, narrowing=4), ConvPlan(1)), is_residual=True
)
PLAIN = BlockPlan((ConvPlan(3, is_strided=True),))
SEPARABLE = BlockPlan((ConvPlan(3, is_strided=True, is_depthwise=True), ConvPlan(1)))


@dataclass(frozen=True)
class CellPlan:
    """One cell; its first block has the stride, its channels are `multiple` times the network's width."""

    block: BlockPlan
    num_blocks: int
    multiple: int
    stride: int = 1
    projects: bool = False  # the first block's residual goes through a 1x1 projection


@dataclass(frozen=True, kw_only=True)
class BackbonePlan:
    """A backbone: `width` is the channels of its stem, (kernel, stride, max_pool) its stem above 64 pixels."""

    cells: tuple[CellPlan, ...]
    width: int = 64
    stem: tuple[int, int, bool] = (7, 2, True)

    @property
    def num_layers(self) -> int:
        """The number of layers that a NAS operation may stand beside."""
        return sum(cell.num_blocks * len(cell.block.convs) for cell in self.cells)


BACKBONES: dict[str, BackbonePlan] = {
    "resnet8": BackbonePlan(
        cells=(
            CellPlan(BASIC, 1, 1),
            CellPlan(BASIC, 1, 2, 2, projects=True),
            CellPlan(BASIC, 1, 4, 2, projects=True),
        )
    ),
    "resnet18": BackbonePlan(
        cells=(
            CellPlan(BASIC, 2, 1, projects=True),
            CellPlan(BASIC, 2, 2, 2, projects=True),
            CellPlan(BASIC, 2, 4, 2, projects=True),
            CellPlan(BASIC, 2, 8, 2, projects=True),
        )
    ),
    "resnet34": BackbonePlan(
        cells=(
            CellPlan(BASIC, 3, 1, projects=True),
            CellPlan(BASIC, 2, 2, 2, projects=True),
            CellPlan(BASIC, 2, 2),
            CellPlan(BASIC, 3, 4, 2, projects=True),
            CellPlan(BASIC, 3, 4),
            CellPlan(BASIC, 3, 8, 2, projects=True),
        )
    ),
    "resnet18-tv": BackbonePlan(
        cells=(
            CellPlan(BASIC, 2, 1),
            CellPlan(BASIC, 2, 2, 2, projects=True),
            CellPlan(BASIC, 2, 4, 2, projects=True),
            CellPlan(BASIC, 2, 8, 2, projects=True),
        )
    ),
    "resnet34-tv": BackbonePlan(
        cells=(
            CellPlan(BASIC, 3, 1),
            CellPlan(BASIC, 2, 2, 2, projects=True),
            CellPlan(BASIC, 2, 2),
            CellPlan(BASIC, 3, 4, 2, projects=True),
            CellPlan(BASIC, 3, 4),
            CellPlan(BASIC, 3, 8, 2, projects=True),
        )
    ),
    "resnet20": BackbonePlan(
        width=16,
        cells=(
            CellPlan(BASIC, 3, 1),
            CellPlan(BASIC, 3, 2, 2, projects=True),
            CellPlan(BASIC, 3, 4, 2, projects=True),
        ),
    ),
    "resnet32": BackbonePlan(
        width=16,
        cells=(
            CellPlan(BASIC, 3, 1),
            CellPlan(BASIC, 2, 1),
            CellPlan(BASIC, 3, 2, 2, projects=True),
            CellPlan(BASIC, 2, 2),
            CellPlan(BASIC, 3, 4, 2, projects=True),
            CellPlan(BASIC, 2, 4),
        ),
    ),
    "resnet56": BackbonePlan(
        width=16,
        cells=(
            *(CellPlan(BASIC, 3, 1) for _ in range(3)),
            CellPlan(BASIC, 3, 2, 2, projects=True),
            *(CellPlan(BASIC, 3, 2) for _ in range(2)),
            CellPlan(BASIC, 3, 4, 2, projects=True),
            *(CellPlan(BASIC, 3, 4) for _ in range(2)),
        ),
    ),
    "resnet50": BackbonePlan(
        cells=(
            CellPlan(BOTTLENECK, 2, 4, projects=True),
            CellPlan(BOTTLENECK, 1, 4),
            CellPlan(BOTTLENECK, 2, 8, 2, projects=True),
            CellPlan(BOTTLENECK, 2, 8),
            CellPlan(BOTTLENECK, 2, 16, 2, projects=True),
            CellPlan(BOTTLENECK, 2, 16),
            CellPlan(BOTTLENECK, 2, 16),
            CellPlan(BOTTLENECK, 2, 32, 2, projects=True),
            CellPlan(BOTTLENECK, 1, 32),
        )
    ),
    "vgg11": BackbonePlan(
        stem=(3, 1, False),
        cells=(
            CellPlan(PLAIN, 1, 2, 2),
            CellPlan(PLAIN, 2, 4, 2),
            CellPlan(PLAIN, 2, 8, 2),
            CellPlan(PLAIN, 2, 8, 2),
        ),
    ),
    "mobilenetv1": BackbonePlan(
        width=32,
        stem=(3, 2, False),
        cells=(
            CellPlan(SEPARABLE, 1, 2),
            CellPlan(SEPARABLE, 2, 4, 2),
            CellPlan(SEPARABLE, 2, 8, 2),
            CellPlan(SEPARABLE, 3, 16, 2),
            CellPlan(SEPARABLE, 3, 16),
            CellPlan(SEPARABLE, 2, 32, 2),
        ),
    ),
}


def build(name: str, *, width: int | None = None, input_size: int, num_classes: int, channels: int = 3) -> Genotype:
    """Return a backbone without NAS operations; `width` is the channels of its stem, by default its own.

    Inputs of up to 64 pixels get a 3x3 stride-1 stem, larger ones the stem of the backbone.

    Raises:
        UsageError: there is no backbone of that name.
    """
    if name not in BACKBONES:
        raise UsageError(f"--backbone: got '{name}', expected {one_of(name, BACKBONES)}, or a genotype file (.json)")
    plan = BACKBONES[name]
    width = plan.width if width is None else width
    kernel, stride, max_pool = (3, 1, False) if input_size <= _SMALL_INPUT else plan.stem
    cells: list[Cell] = []
    in_channels = width
    for cell in plan.cells:
        cells.append(_cell(cell, in_channels, cell.multiple * width))
        in_channels = cell.multiple * width
    return Genotype(
        name=name,
        num_classes=num_classes,
        input=Input(channels=channels, height=input_size, width=input_size),
        stem=Stem(channels=width, kernel=kernel, stride=stride, max_pool=max_pool),
        cells=tuple(cells),
        backbone=name,
    )


def widened(backbone: Genotype, width: int) -> Genotype:
    """Return a plain backbone with a stem of `width` channels, all others in proportion.

    Raises:
        UsageError: a layer would have a part of a channel.
    """
    own = backbone.stem.channels

    def scaled(channels: int) -> int:
        if channels * width % own:
            raise UsageError(f"{backbone.name}: got width {width}, which makes no whole number of {channels} at {own}")
        return channels * width // own

    cells = []
    for cell in backbone.cells:
        layers = []
        for index, layer in enumerate(cell.layers):
            before = cell.channels(index)
            groups = scaled(before) if layer.groups == before else layer.groups  # depthwise
            layers.append(replace(layer, channels=scaled(layer.channels), groups=groups, nas_op=None))
        cells.append(Cell(in_channels=scaled(cell.in_channels), layers=tuple(layers)))
    return replace(backbone, stem=replace(backbone.stem, channels=width), cells=tuple(cells))


def _cell(plan: CellPlan, in_channels: int, out_channels: int) -> Cell:
    layers: list[Layer] = []
    channels = in_channels
    for block in range(plan.num_blocks):
        start = len(layers)
        for index, conv in enumerate(plan.block.convs):
            closes_block = plan.block.is_residual and index == len(plan.block.convs) - 1
            groups = channels if conv.is_depthwise else 1
            channels = channels if conv.is_depthwise else out_channels // conv.narrowing
            layers.append(
                Layer(
                    kernel=conv.kernel,
                    channels=channels,
                    stride=plan.stride if conv.is_strided and block == 0 else 1,
                    groups=groups,
                    residual_from=start if closes_block else None,
                    projection=closes_block and plan.projects and block == 0,
                )
            )
    return Cell(in_channels=in_channels, layers=tuple(layers))
