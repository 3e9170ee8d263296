"""Compare two networks on the same pictures: the interval of their accuracies' difference, and whether it is chance.

Of n pictures, `num_gained` only the candidate got right and `num_lost` only the baseline; the rest say nothing of the
difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959963984540054  # the normal distribution's two-sided 5 % point
_NUM_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Candidate minus baseline in percentage points, with its 95 % interval and McNemar's exact p value."""

    difference: float
    low: float
    high: float
    p_value: float
    num_samples: int
    num_gained: int
    num_lost: int


def paired_difference(num_gained: int, num_lost: int, num_samples: int) -> PairedDifference:
    """Return the difference of two accuracies on the same pictures with its interval and p value."""
    low, high = score_interval(num_gained, num_lost, num_samples)
    return PairedDifference(
        difference=100 * (num_gained - num_lost) / num_samples,
        low=100 * low,
        high=100 * high,
        p_value=mcnemar_p(num_gained, num_lost),
        num_samples=num_samples,
        num_gained=num_gained,
        num_lost=num_lost,
    )


def score_interval(num_gained: int, num_lost: int, num_samples: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two paired proportions, a fraction from -1 to 1.

    The score interval of T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998), 891-908: all differences d whose score test keeps
    abs(z(d)) <= 1.96. It holds its coverage where few pictures differ, and is not empty where none does.

    >>> [round(end, 4) for end in score_interval(0, 0, 100)]
    [-0.037, 0.037]

    Raises:
        ValueError: the counts are negative or do not fit into the samples.
    """
    if min(num_gained, num_lost) < 0 or not 0 < num_samples >= num_gained + num_lost:
        raise ValueError(f"counts: got {num_gained} and {num_lost} of {num_samples}, expected parts of the samples")
    difference = (num_gained - num_lost) / num_samples

    def end(z: float, low: float, high: float) -> float:
        for _ in range(_NUM_BISECTIONS):  # z falls as the difference grows
            middle = (low + high) / 2
            is_below = _score(num_gained, num_lost, num_samples, middle) > z
            low, high = (middle, high) if is_below else (low, middle)
        return (low + high) / 2

    return end(_Z, -1.0, difference), end(-_Z, difference, 1.0)


def _score(gained: int, lost: int, n: int, difference: float) -> float:
    """Return Tango's z of one difference, its variance at the likeliest `only the baseline` rate for it."""
    distance = gained - lost - n * difference
    if distance == 0:
        return 0.0
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    lost_rate = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * lost_rate + difference * (1 - difference))
    return math.copysign(math.inf, distance) if variance <= 0 else distance / math.sqrt(variance)


def mcnemar_p(num_gained: int, num_lost: int) -> float:
    """Return the two-sided p value of the exact McNemar test: a fair coin for each picture only one got right.

    Q. McNemar, Psychometrika 12 (1947), 153-157, with the binomial distribution in place of its approximation.

    >>> mcnemar_p(6, 0), mcnemar_p(3, 3)
    (0.03125, 1.0)
    """
    num_coins = num_gained + num_lost
    term, tail = 1, 0
    for heads in range(min(num_gained, num_lost) + 1):
        tail += term
        term = term * (num_coins - heads) // (heads + 1)
    return min(1.0, 2 * tail / 2**num_coins)
