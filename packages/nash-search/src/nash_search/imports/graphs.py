"""A float network as other programs describe it: nodes between named tensors, read by graph_onnx and graph_torch.

Shapes: tensors of weights are (O, I, kH, kW) of a convolution, (O, I) of a linear layer, (C,) of a batch normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..base.errors import UnsupportedError

NUM_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: its name and kind in the source, what it is here, and the tensors it reads and makes.

    op: conv, batch_norm, bias, relu, relu6, add, max_pool, avg_pool, adaptive_pool, global_pool, flatten or linear.
    """

    name: str
    kind: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A network: `nodes` in an order in which they can run, from the tensor `input` (C, H, W) to the tensor `output`.

    run: computes the logits (B, K) of pictures (B, C, H, W), as the source does.
    """

    source: str
    name: str
    input: str
    shape: tuple[int, int, int]
    output: str
    nodes: Sequence[Node]
    run: Callable[[Tensor], Tensor]

    def refusal(self, node: Node, why: str) -> UnsupportedError:
        """Return the error that says of a node why no genotype has it."""
        return UnsupportedError(f"{self.source}: node '{node.name}' ({node.kind}): {why}")


def unknown(source: str, found: Sequence[tuple[str, str]]) -> UnsupportedError:
    """Return the error that names nodes, and their kinds, that have no counterpart in a genotype."""
    named = ", ".join(f"'{name}' ({kind})" for name, kind in found[:NUM_NAMED])
    more = f" and {len(found) - NUM_NAMED} more" if len(found) > NUM_NAMED else ""
    return UnsupportedError(
        f"{source}: got the nodes {named}{more}, expected a chain of convolutions, batch normalizations, additions, "
        "ReLUs, max-pools, a global average pool and a classifier; take another network, or cut it off there"
    )


def square(values: Sequence[int]) -> int | None:
    """Return the one number of a window's two (or four) sides, None if they differ."""
    return int(values[0]) if len({int(value) for value in values}) == 1 else None
