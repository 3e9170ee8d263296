"""The scales of least square error: of weights, row by row, and of activations, from all their values.

Shapes: rows of weights that have one scale each (O, N); terms of any shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import fused

# Values before a quantizer are often whole multiples of another scale. A scale with a plain ratio to it would put its
# rounding thresholds exactly on such values, where executions differ by float noise: keep the ratio odd.
_OFF_GRID = 1.0007
_WEIGHT_STEPS = 64  # of a sixteenth of an octave: the scale may be a sixteenth of the largest weight's
_BINS = 1 << 16
_CHUNK = 1 << 22  # values a histogram: float32 counts exactly up to 1 << 24


@torch.no_grad()
def best_weight_scales(rows: Tensor, low: int, high: int) -> Tensor:
    """Return the scale of every row (O, N) that quantizes it to low..high with the least square error, (O,) float64.

    Plus or minus one (low = -1, high = 1 without zero, one bit) is best at the mean magnitude.

    >>> best_weight_scales(torch.tensor([[-2.0, 1.0, 0.0, -4.0], [0.5, -0.5, 0.25, 0.75]]), -4, 3)
    tensor([1.0000, 0.2500], dtype=torch.float64)
    """
    rows = rows.double()
    if low == -high == -1:
        return rows.abs().mean(1)
    largest = rows.abs().amax(1, keepdim=True).clamp_min(fused.MIN_SCALE)
    best, least = largest / high, torch.full_like(largest, torch.inf)
    for step in range(_WEIGHT_STEPS):
        scale = largest / high * 2 ** (-step / 16)
        error = ((rows / scale).round_().clamp_(low, high).mul_(scale) - rows).square_().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    rounded = (rows / best).round_().clamp_(low, high)  # the best scale of these integers is a ratio of two products
    squares = rounded.square().sum(1)
    return torch.where(squares > 0, (rounded * rows).sum(1) / squares.clamp_min(1), best[:, 0])


@torch.no_grad()
def best_scale(terms: Sequence[Tensor], low: int, high: int) -> float:
    """Return the scale of the integers low..high that quantizes all values of `terms` with the least square error.

    The error is that of a histogram fine enough for eight bits: every value counts, wherever it lies.

    >>> round(best_scale([torch.arange(8.0), torch.arange(8.0, 16.0)], 0, 15), 2)
    1.0
    """
    largest = max(float(term.amax() if low == 0 else term.abs().amax()) for term in terms)
    if largest <= 0:
        return 1.0 / high
    values, counts = _histogram(terms, 0.0 if low == 0 else -largest, largest)

    def error(scale: float) -> float:
        return float(((values / scale).round_().clamp_(low, high).mul_(scale) - values).square_() @ counts)

    coarse = min((largest / high * 2 ** (-step / 8) for step in range(48)), key=error)
    return _OFF_GRID * min((coarse * 2 ** (step / 64) for step in range(-7, 8)), key=error)


def _histogram(terms: Sequence[Tensor], lowest: float, largest: float) -> tuple[Tensor, Tensor]:
    """Return the middles of the bins that are not empty, and how many values fall into each, both in float64."""
    counts = torch.zeros(_BINS, dtype=torch.float64)
    for term in terms:
        is_rows = term.ndim == 4 and term.is_contiguous(memory_format=torch.channels_last)
        flat = (term.detach().permute(0, 2, 3, 1) if is_rows else term.detach()).reshape(-1)
        for chunk in flat.split(_CHUNK):
            counts += torch.histc(chunk.float(), _BINS, lowest, largest).cpu()
    width = (largest - lowest) / _BINS
    (filled,) = counts.nonzero(as_tuple=True)
    return lowest + (filled + 0.5).double() * width, counts[filled]
