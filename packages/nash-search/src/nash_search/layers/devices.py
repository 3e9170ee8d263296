"""Where a search computes: what lies on the device, and how the device multiplies.

Alphas, penalty and sampling stay on the CPU, whose generators make a search repeatable on any device; only the gates of
a sampled path move. The weights, and pictures as uint8 where they lie in memory, are on the device. The choice of
kernels is made here and nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from ..base.errors import UsageError
from .convolution import multiplies_bfloat16

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A device, and whether the pictures of a split that is in memory lie on it, too, where they are changed then."""

    device: torch.device
    holds_pictures: bool


def resolve(name: str) -> Device:
    """Return the device that an option asks for; auto is a GPU if torch sees one.

    Raises:
        UsageError: it is cuda, and torch sees no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise UsageError("--device: got cuda, but torch sees no CUDA device; pass cpu or auto, or install torch for it")
    return "cuda" if has_gpu and name != "cpu" else "cpu"


def placement(name: Device) -> Placement:
    """Return where this process computes; of several on one machine each has a GPU of its own."""
    if name == "cpu":
        return Placement(device=torch.device("cpu"), holds_pictures=False)
    number = int(os.environ.get("LOCAL_RANK", "0"))
    return Placement(device=torch.device("cuda", number), holds_pictures=True)


def low_precision(placed: Placement, precision: str) -> torch.dtype | None:
    """Set how the device multiplies, and return the type that convolutions multiply in instead of their own.

    mixed: on a CPU bfloat16 where that is fast, on a GPU TF32, in which products of +1 and -1 and their sums are exact.
    A GPU's kernels are those that give the same bits each time.
    """
    is_mixed = precision == "mixed"
    if placed.device.type == "cuda":
        torch.cuda.set_device(placed.device)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = is_mixed
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        return None
    return torch.bfloat16 if is_mixed and multiplies_bfloat16() else None
