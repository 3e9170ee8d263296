"""What holds for every set of points, whatever they are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nash_bench.stats.pareto import hypervolume, pareto_front

LAWS = settings(max_examples=50, deadline=None, derandomize=True)
FIGURES = st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False, allow_infinity=False))


@st.composite
def sets(draw: st.DrawFn) -> tuple[list[tuple[float, ...]], list[bool]]:
    """Points, of which many are equal in some figure, and which figures are good when high."""
    maximize = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    return draw(st.lists(st.tuples(*[FIGURES] * len(maximize)), max_size=12)), maximize


def _dominates(one: tuple[float, ...], other: tuple[float, ...], maximize: list[bool]) -> bool:
    better = [a > b if up else a < b for a, b, up in zip(one, other, maximize, strict=True)]
    worse = [a < b if up else a > b for a, b, up in zip(one, other, maximize, strict=True)]
    return any(better) and not any(worse)


@LAWS
@given(sets())
def test_no_kept_point_is_dominated_and_a_kept_one_dominates_each_other(
    found: tuple[list[tuple[float, ...]], list[bool]],
) -> None:
    points, maximize = found
    front = [points[index] for index in pareto_front(points, maximize=maximize)]
    assert not any(_dominates(one, other, maximize) for one in points for other in front)
    for point in set(points) - set(front):
        assert any(_dominates(one, point, maximize) for one in front)


@LAWS
@given(sets(), st.randoms(use_true_random=False))
def test_the_order_of_the_points_says_nothing(
    found: tuple[list[tuple[float, ...]], list[bool]], random: object
) -> None:
    points, maximize = found
    order = list(range(len(points)))
    random.shuffle(order)  # type: ignore[attr-defined]
    front = pareto_front([points[index] for index in order], maximize=maximize)
    assert sorted(order[index] for index in front) == pareto_front(points, maximize=maximize)


@LAWS
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=10), st.tuples(st.booleans(), st.booleans())
)
def test_the_front_alone_has_the_whole_volume_and_no_point_lessens_it(
    points: list[tuple[int, int]], maximize: tuple[bool, bool]
) -> None:
    front = [points[index] for index in pareto_front(points, maximize=maximize)]
    whole = hypervolume(points, reference=(0, 0), maximize=maximize)
    assert hypervolume(front, reference=(0, 0), maximize=maximize) == whole
    assert hypervolume(points[:-1], reference=(0, 0), maximize=maximize) <= whole
