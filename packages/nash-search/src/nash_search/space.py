"""The search space: every operation a variant may put beside a backbone's convolutions, with its shapes.

Each candidate is one independent part of a network, so that its cost on a board can be found without the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import manifest
from .genotype import Edge, Genotype, refusal
from .variants import NONE, Variant

_KERNELS = {"max_pool_3x3": 3, "skip_connect": 1, "conv_1x1": 1, "conv_3x3": 3, "conv_5x5": 5}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One operation from one state to a later one of the same cell."""

    cell: int
    layer: int  # the state it leads to, from 1
    input: int  # the state it reads
    op: str
    decodable: bool  # the variant may keep it
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    input_height: int
    input_width: int
    output_height: int
    output_width: int
    macs: int
    num_weights: int


def candidates(backbone: Genotype, variant: Variant) -> Iterator[Candidate]:
    """Yield what the supernet of this backbone and variant samples from, `none` left out.

    A skip that changes the shape is a 1x1 convolution (at stride 2 two of them, half of the outputs each).
    """
    sizes = backbone.sizes()
    for edge in backbone.edges():
        before, after = sizes[edge.cell][edge.input], sizes[edge.cell][edge.layer]
        for op in variant.primitives:
            shape = {"in_channels": edge.in_channels, "out_channels": edge.out_channels, "stride": edge.stride}
            if op == NONE or refusal(op, **shape) is not None:
                continue
            num_weights = _num_weights(op, edge)
            yield Candidate(
                **shape,
                cell=edge.cell,
                layer=edge.layer,
                input=edge.input,
                op=op,
                decodable=variant.keeps(op, edge.stride),
                kernel=_KERNELS[op],
                input_height=before[0],
                input_width=before[1],
                output_height=after[0],
                output_width=after[1],
                macs=num_weights * after[0] * after[1],
                num_weights=num_weights,
            )


def _num_weights(op: str, edge: Edge) -> int:
    is_identity = op == "skip_connect" and edge.stride == 1 and edge.in_channels == edge.out_channels
    if is_identity or op == "max_pool_3x3":
        return 0
    return edge.in_channels * edge.out_channels * _KERNELS[op] ** 2


def to_manifest(backbone: Genotype, variant: Variant) -> dict[str, Any]:
    """Return the keys of space.json that describe the space."""
    return {
        "name": f"{backbone.backbone or backbone.name}-{variant.name}",
        "backbone": backbone.backbone,
        "variant": variant.name,
        "num_classes": backbone.num_classes,
        "input": asdict(backbone.input),
        "candidates": [asdict(candidate) for candidate in candidates(backbone, variant)],
    }


def save(backbone: Genotype, variant: Variant, path: Path, *, inputs: Iterable[dict[str, Any]] = ()) -> int:
    """Write space.json atomically and return the number of candidates.

    Raises:
        OutputError: the file cannot be written.
    """
    content = to_manifest(backbone, variant)
    manifest.save(path, manifest.header("space", inputs=inputs) | content, "space")
    return len(content["candidates"])
