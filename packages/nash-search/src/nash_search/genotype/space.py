"""The search space: every operation a variant may put beside a backbone's convolutions, with its shapes.

Each candidate is one independent part of a network, so that its cost on a board can be found without the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base import manifest
from . import genotype
from .genotype import Genotype
from .primitives import NONE, PRIMITIVES
from .variants import Variant


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
        before, after = sizes[edge.cell][edge.input], backbone.sum_size(edge.cell, edge.layer)
        for op in variant.primitives:
            primitive = PRIMITIVES[op]
            if op == NONE or primitive.refusal(edge.shape) is not None:
                continue
            num_weights = primitive.num_weights(edge.shape)
            yield Candidate(
                **asdict(edge.shape),
                cell=edge.cell,
                layer=edge.layer,
                input=edge.input,
                op=op,
                decodable=variant.keeps(op, edge.stride),
                kernel=primitive.kernel,
                input_height=before[0],
                input_width=before[1],
                output_height=after[0],
                output_width=after[1],
                macs=num_weights * after[0] * after[1],
                num_weights=num_weights,
            )


def to_manifest(backbone: Genotype, variant: Variant) -> dict[str, Any]:
    """Return the keys of space.json that describe the space."""
    plain = genotype.to_manifest(backbone.without_nas_ops())
    return {
        "name": f"{backbone.backbone or backbone.name}-{variant.name}",
        "backbone": backbone.backbone,
        "variant": variant.name,
        "num_classes": backbone.num_classes,
        "input": asdict(backbone.input),
        "network": {key: plain[key] for key in ("num_classes", "input", "stem", "cells")},
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
