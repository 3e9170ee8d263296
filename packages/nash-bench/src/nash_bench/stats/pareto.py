"""The non-dominated set, and how much it dominates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(points: Sequence[Sequence[float]], *, maximize: Sequence[bool]) -> list[int]:
    """Return the indices of the points that no other dominates, in their order.

    A point dominates another if it is at least as good everywhere and better somewhere; equal points keep each other.

    >>> pareto_front([(90.0, 100), (92.0, 150), (89.0, 120)], maximize=(True, False))
    [0, 1]

    Raises:
        ValueError: a coordinate is not finite, or the points' length is not that of `maximize`.
    """
    if not len(points):
        return []
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(maximize):
        raise ValueError(f"points: got shape {values.shape}, expected (N, {len(maximize)})")
    if not np.isfinite(values).all():
        raise ValueError("points: got NaN or infinity, expected finite figures")
    gains = np.where(maximize, values, -values)
    return [index for index, gain in enumerate(gains) if not _is_dominated(gain, gains)]


def _is_dominated(gain: np.ndarray, gains: np.ndarray) -> bool:
    return bool(((gains >= gain).all(axis=1) & (gains > gain).any(axis=1)).any())


def hypervolume(
    points: Sequence[tuple[float, float]], *, reference: tuple[float, float], maximize: tuple[bool, bool]
) -> float:
    """Return the area that points of two coordinates dominate, up to a reference point; one not better adds nothing.

    E. Zitzler and L. Thiele, "Multiobjective optimization using evolutionary algorithms - a comparative case study",
    PPSN V (1998), for two coordinates: rectangles from the best first coordinate down.

    >>> hypervolume([(90.0, 100), (92.0, 150)], reference=(89.0, 200), maximize=(True, False))
    200.0

    Raises:
        ValueError: a coordinate is not finite.
    """
    if not np.isfinite([*reference, *(value for point in points for value in point)]).all():
        raise ValueError("points: got NaN or infinity, expected finite figures")
    signs = [1 if is_high_good else -1 for is_high_good in maximize]
    gains = [tuple(s * (value - r) for s, value, r in zip(signs, point, reference, strict=True)) for point in points]
    area = height = 0.0
    for first, second in sorted(gains, reverse=True):
        if first > 0 and second > height:
            area += first * (second - height)
            height = second
    return area
