from __future__ import annotations

import numpy as np
import pytest

from nash_bench.pareto import pareto_front


def dominates(a: list[float], b: list[float], maximize: list[bool]) -> bool:
    gains = [(x - y) if up else (y - x) for x, y, up in zip(a, b, maximize, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@pytest.mark.parametrize("seed", range(60))
def test_front_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_axes = int(rng.integers(1, 5))
    maximize = rng.integers(0, 2, num_axes).astype(bool).tolist()
    points = rng.integers(0, 6 if seed % 2 else 1000, (int(rng.integers(0, 60)), num_axes)).astype(float).tolist()
    expected = [k for k, point in enumerate(points) if not any(dominates(q, point, maximize) for q in points)]
    assert pareto_front(points, maximize=maximize) == expected


def test_equal_points_keep_each_other() -> None:
    assert pareto_front([(1, 1), (1, 1), (0, 0)], maximize=(True, True)) == [0, 1]


def test_no_points_have_no_front() -> None:
    assert pareto_front([], maximize=(True,)) == []


def test_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([(1, float("nan"))], maximize=(True, True))


def test_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="got shape"):
        pareto_front([(1, 2, 3)], maximize=(True, True))
