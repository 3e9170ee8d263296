"""How the state an operation leads to differs from the one it reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the state an operation leads to differs from the one it reads."""

    in_channels: int
    out_channels: int
    stride: int

    @property
    def is_same(self) -> bool:
        """Whether it does not."""
        return self.stride == 1 and self.in_channels == self.out_channels
