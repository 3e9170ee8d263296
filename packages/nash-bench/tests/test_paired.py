from __future__ import annotations

import math

import numpy as np
import pytest

from nash_bench.stats.paired import mcnemar_p, paired_difference, score_interval


@pytest.mark.parametrize(
    ("num_samples", "gained", "lost"),
    [(360, 0.03, 0.02), (360, 0.005, 0.015), (100, 0.05, 0.02), (1000, 0.02, 0.03), (10_000, 0.03, 0.02)],
)
def test_interval_covers_the_truth_in_95_percent(num_samples: int, gained: float, lost: float) -> None:
    rng = np.random.default_rng(0)
    cases = rng.multinomial(num_samples, [gained, lost, 1 - gained - lost], size=1000).tolist()
    intervals = [
        score_interval(only_candidate, only_baseline, num_samples) for only_candidate, only_baseline, _ in cases
    ]
    num_covered = sum(low <= gained - lost <= high for low, high in intervals)
    assert 930 <= num_covered <= 970


def score(gained: int, lost: int, n: int, difference: float) -> float:
    """Return Tango's z with the likeliest rate found on a grid, to check the closed form against."""
    rates = np.linspace(0, 1, 200_001)
    won = rates + difference
    is_possible = (won >= 0) & (rates + won <= 1)
    rates, won = rates[is_possible], won[is_possible]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [(gained, won), (lost, rates), (n - gained - lost, 1 - rates - won)]
        likelihood = sum(count * np.log(rate) for count, rate in parts if count)
    rate = rates[np.nanargmax(likelihood)]
    return (gained - lost - n * difference) / math.sqrt(n * (2 * rate + difference - difference**2))


@pytest.mark.parametrize(("gained", "lost", "n"), [(6, 8, 360), (9, 1, 50), (12, 2, 50), (0, 5, 40)])
def test_interval_ends_where_the_score_test_rejects(gained: int, lost: int, n: int) -> None:
    low, high = score_interval(gained, lost, n)
    assert score(gained, lost, n, low) == pytest.approx(1.96, abs=2e-3)
    assert score(gained, lost, n, high) == pytest.approx(-1.96, abs=2e-3)


@pytest.mark.parametrize("counts", [(0, 0, 1), (0, 0, 360), (360, 0, 360), (0, 360, 360), (180, 180, 360), (1, 0, 1)])
def test_interval_holds_the_difference_and_stays_in_range(counts: tuple[int, int, int]) -> None:
    low, high = score_interval(*counts)
    assert -1 <= low <= (counts[0] - counts[1]) / counts[2] <= high <= 1
    assert low < high


def test_interval_turns_with_its_networks() -> None:
    low, high = score_interval(7, 3, 90)
    assert score_interval(3, 7, 90) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (0, 6), (5, 5), (12, 3), (800, 700)])
def test_p_value_is_that_of_a_fair_coin(gained: int, lost: int) -> None:
    n, few = gained + lost, min(gained, lost)
    expected = min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)
    assert mcnemar_p(gained, lost) == pytest.approx(expected, rel=1e-12)


def test_difference_is_in_percentage_points() -> None:
    found = paired_difference(6, 8, 360)
    assert found.difference == pytest.approx(-100 * 2 / 360)
    assert found.low < found.difference < found.high


@pytest.mark.parametrize("counts", [(-1, 0, 10), (6, 5, 10), (0, 0, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected parts of the samples"):
        score_interval(*counts)
