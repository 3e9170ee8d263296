"""The four variants of the search strategy, as data (paper arXiv 2403.01845, section on NASH strategies)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..base.errors import UsageError
from ..base.suggest import one_of
from .primitives import NONE, PRIMITIVES

CONVOLUTIONS = ("conv_1x1", "conv_3x3", "conv_5x5")
OPERATIONS = ("max_pool_3x3", "skip_connect", *CONVOLUTIONS)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What one variant searches over, and how it reads a genotype from the probabilities."""

    name: str
    primitives: tuple[str, ...]
    binary_backbone: bool
    activation: Literal["tanh", "none"]
    on_strided_edge: Literal["any", "convolutions"]  # what a decoded edge of stride 2 may carry

    def keeps(self, op: str, stride: int) -> bool:
        """Return whether decoding may keep `op` on an edge of this stride; `none` is never kept.

        >>> VARIANTS["v3"].keeps("max_pool_3x3", 1), VARIANTS["v3"].keeps("max_pool_3x3", 2)
        (True, False)
        """
        return op != NONE and (stride == 1 or self.on_strided_edge == "any" or PRIMITIVES[op].is_convolution)


# v2 asks for convolutions on strided edges beforehand; v3 drops a skip or a max-pool that wins on a strided edge
# and draws again until neither wins. Both end at the most probable operation that may stay, hence one rule.
_TABLE = (
    Variant(
        name="v1",
        primitives=(NONE, *OPERATIONS),
        binary_backbone=False,
        activation="tanh",
        on_strided_edge="any",
    ),
    Variant(
        name="v2",
        primitives=(NONE, *OPERATIONS),
        binary_backbone=True,
        activation="none",
        on_strided_edge="convolutions",
    ),
    Variant(
        name="v3",
        primitives=(NONE, *OPERATIONS),
        binary_backbone=False,
        activation="tanh",
        on_strided_edge="convolutions",
    ),
    Variant(
        name="v4",
        primitives=(NONE, *CONVOLUTIONS),
        binary_backbone=False,
        activation="tanh",
        on_strided_edge="convolutions",
    ),
)
VARIANTS = {variant.name: variant for variant in _TABLE}


def narrow(variant: Variant, primitives: Sequence[str]) -> Variant:
    """Return the variant with these primitives, in this order; they need not be the variant's own.

    Raises:
        UsageError: an unknown one, one twice, or fewer than two of which one is an operation.

    >>> narrow(VARIANTS["v3"], ["none", "conv_3x3"]).primitives
    ('none', 'conv_3x3')
    """
    for name in primitives:
        if name not in PRIMITIVES:
            raise UsageError(f"--primitives: got '{name}', expected {one_of(name, PRIMITIVES)}")
    if len(set(primitives)) < max(2, len(primitives)):
        raise UsageError(f"--primitives: got {','.join(primitives)}, expected at least two, each once")
    return replace(variant, primitives=tuple(primitives))
