"""How sure a difference of accuracies is, over training seeds and pictures together.

A difference is a sum of weighted mean accuracies, each over the seeds of one configuration, all on the same pictures.
Two things would turn out differently another time: the seeds, and the pictures. The variance of a mean over seeds is
that of the seeds' accuracies; that of the pictures is the variance of each picture's weighted difference. Where a
picture's outcome depends on the seed, both count it; it is subtracted once (a two-way layout with random effects).
The interval takes Student's t with the degrees of freedom of F. E. Satterthwaite, "An approximate distribution of
estimates of variance components", Biometrics Bulletin 2 (1946), 110-114.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Part:
    """One configuration in a difference: its weight, the top-1 of each seed in percent, and each seed's hits (N,).

    hits: None where outcomes were not kept; the pictures of all parts are then taken to be independent, which widens
    the interval. source: what the part is of; two parts of one source are of the same seeds.
    """

    weight: float
    top1: tuple[float, ...]
    num_samples: int
    hits: tuple[NDArray[np.bool_], ...] | None = None
    source: object = None

    @property
    def mean(self) -> float:
        """Return the mean top-1 over the seeds."""
        return math.fsum(self.top1) / len(self.top1)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference in percentage points and its 95 % interval; of pictures alone where a part has one seed."""

    value: float
    low: float
    high: float
    is_of_pictures_alone: bool


def interval(parts: Sequence[Part]) -> Interval:
    """Return the weighted sum of the parts' means with its interval.

    >>> hits = np.arange(400) % 10
    >>> better, worse = (Part(weight=w, top1=(100 * (hits < k).mean(),), num_samples=400, hits=(hits < k,))
    ...                  for w, k in ((1.0, 9), (-1.0, 8)))
    >>> found = interval([better, worse])
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2), found.is_of_pictures_alone
    (10.0, 7.05, 12.95, True)
    """
    value = math.fsum(part.weight * part.mean for part in parts)
    of_seeds = [(_of_seeds(part), len(part.top1) - 1) for part in parts if len(part.top1) > 1]
    terms = [*of_seeds, (_of_pictures(parts), max(min(part.num_samples for part in parts) - 1, 1))]
    half = _half(terms)
    return Interval(
        value=value,
        low=value - half,
        high=value + half,
        is_of_pictures_alone=any(len(part.top1) == 1 for part in parts),
    )


def _of_seeds(part: Part) -> float:
    return part.weight**2 * float(np.var(part.top1, ddof=1)) / len(part.top1)


def _of_pictures(parts: Sequence[Part]) -> float:
    """Return the variance that other pictures would bring, without what seeds bring already."""
    if any(part.hits is None for part in parts):
        rates = [(part.weight, part.mean / 100, part.num_samples) for part in parts]
        return math.fsum((100 * weight) ** 2 * rate * (1 - rate) / count for weight, rate, count in rates)
    differences = sum(part.weight * 100 * np.mean(part.hits, axis=0) for part in parts)
    counted_twice = sum(_of_both(part) for part in parts)
    return max(float(np.var(differences, ddof=1)) / len(differences) - counted_twice, 0.0)


def _of_both(part: Part) -> float:
    """Return the variance by pictures whose outcome depends on the seed."""
    if len(part.top1) == 1:
        return 0.0
    within = float(np.var(np.asarray(part.hits, dtype=np.float64), axis=0, ddof=1).mean())
    return (100 * part.weight) ** 2 * within / (len(part.top1) * part.num_samples)


def _half(terms: Sequence[tuple[float, int]]) -> float:
    from scipy import stats

    variance = math.fsum(value for value, _ in terms)
    if variance <= 0:
        return 0.0
    freedom = variance**2 / math.fsum(value**2 / degrees for value, degrees in terms)
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)


def of_pictures(top1: float, num_samples: int) -> tuple[float, float]:
    """Return the 95 % interval of a top-1 accuracy in percent over the pictures alone (E. B. Wilson, 1927).

    >>> [round(bound, 2) for bound in of_pictures(90.0, 1000)]
    [87.98, 91.71]
    """
    from scipy.stats import binomtest

    found = binomtest(round(top1 * num_samples / 100), num_samples).proportion_ci(CONFIDENCE, "wilson")
    return 100 * float(found.low), 100 * float(found.high)
