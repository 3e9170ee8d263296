"""The backbones by name: residual networks as a table, at any width and input size."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError
from .genotype import Cell, Genotype, Input, Layer, Stem
from .suggest import one_of

_SMALL_INPUT = 64  # pixels; up to here the stem keeps the resolution


@dataclass(frozen=True)
class CellPlan:
    """One cell of basic blocks, two layers each; channels are `multiple` times the network's width."""

    num_layers: int
    multiple: int
    stride: int
    projects: bool  # the first block's residual goes through a 1x1 projection


BACKBONES: dict[str, tuple[CellPlan, ...]] = {
    "resnet8": (
        CellPlan(2, 1, 1, False),
        CellPlan(2, 2, 2, True),
        CellPlan(2, 4, 2, True),
    ),
    "resnet18": (
        CellPlan(4, 1, 1, True),
        CellPlan(4, 2, 2, True),
        CellPlan(4, 4, 2, True),
        CellPlan(4, 8, 2, True),
    ),
    "resnet34": (
        CellPlan(6, 1, 1, True),
        CellPlan(4, 2, 2, True),
        CellPlan(4, 2, 1, False),
        CellPlan(6, 4, 2, True),
        CellPlan(6, 4, 1, False),
        CellPlan(6, 8, 2, True),
    ),
}


def build(name: str, *, width: int, input_size: int, num_classes: int, channels: int = 3) -> Genotype:
    """Return a backbone without NAS operations; `width` is the number of channels of its first cell.

    Inputs of up to 64 pixels get a 3x3 stride-1 stem, larger ones the 7x7 stride-2 stem with a max-pool.

    Raises:
        UsageError: there is no backbone of that name.
    """
    if name not in BACKBONES:
        raise UsageError(f"--backbone: got '{name}', expected {one_of(name, BACKBONES)}, or a genotype file (.json)")
    small = input_size <= _SMALL_INPUT
    cells: list[Cell] = []
    in_channels = width
    for plan in BACKBONES[name]:
        cells.append(_cell(plan, in_channels, plan.multiple * width))
        in_channels = plan.multiple * width
    return Genotype(
        name=name,
        num_classes=num_classes,
        input=Input(channels=channels, height=input_size, width=input_size),
        stem=Stem(channels=width, kernel=3 if small else 7, stride=1 if small else 2, max_pool=not small),
        cells=tuple(cells),
        backbone=name,
    )


def _cell(plan: CellPlan, in_channels: int, channels: int) -> Cell:
    layers = []
    for index in range(plan.num_layers):
        closes_block = index % 2 == 1
        layers.append(
            Layer(
                kernel=3,
                channels=channels,
                stride=plan.stride if index == 0 else 1,
                residual_from=index - 1 if closes_block else None,
                projection=plan.projects and index == 1,
            )
        )
    return Cell(in_channels=in_channels, layers=tuple(layers))
