"""Choose one option of each group, exactly: the cheapest choice that fits the board, as a MILP solved by HiGHS.

Groups with the same options are one class, of whose members a whole number takes each option: layers that repeat do
not multiply the choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .boards import RESOURCES
from .options import Group, Option, undominated

_TIME_LIMIT_S = 10.0  # of one MILP; what is not proven by then is told as a gap
_PRICE_UNIT = 1e-6  # prices are counted in millionths of the board, far above the absolute tolerance of HiGHS
_INFEASIBLE = 2  # a status of scipy.optimize.milp
_Class = tuple[Sequence[Option], Sequence[int]]  # options, and the positions of the groups that have them


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option of each group, in their order, and what is proven of it."""

    options: tuple[Option, ...] | None  # None: no choice is known
    is_refuted: bool = False  # there is none
    gap: float | None = None  # no choice is cheaper by more than this part of the price

    @property
    def used(self) -> dict[str, float]:
        """What is taken of each resource, as far as known."""
        return {name: sum(option.resources[name] or 0.0 for option in self.options or ()) for name in RESOURCES}


class Chooser:
    """All choices among the options of the groups."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        members: dict[int, list[int]] = {}
        for position, group in enumerate(groups):
            members.setdefault(id(group.options), []).append(position)
        self._classes: list[_Class] = [(groups[of[0]].options, of) for of in members.values()]

    def cheapest(self, max_cycles: int) -> Choice:
        """Return the cheapest choice on a board without limits; every group can be that fast."""
        picked = {id(options): self._groups[of[0]].cheapest(max_cycles) for options, of in self._classes}
        return Choice(options=tuple(picked[id(group.options)] for group in self._groups), gap=0.0)

    def within(self, max_cycles: int, limits: Mapping[str, float], *, any_price: bool = False) -> Choice:
        """Return the cheapest choice within the limits, or with `any_price` the first that is found."""
        cheapest = self.cheapest(max_cycles)
        if fits(cheapest.used, limits):
            return cheapest
        classes = self._fast_enough(max_cycles)
        if not fits(_least(classes), limits):
            return Choice(options=None, is_refuted=True)
        return self._solve([(undominated(options), of) for options, of in classes], limits, any_price=any_price)

    def least(self, max_cycles: int) -> dict[str, float]:
        """Return the least of each resource that a choice can take, each by itself."""
        return _least(self._fast_enough(max_cycles))

    def _fast_enough(self, max_cycles: int) -> list[_Class]:
        return [([option for option in options if option.cycles <= max_cycles], of) for options, of in self._classes]

    def _solve(self, classes: Sequence[_Class], limits: Mapping[str, float], *, any_price: bool) -> Choice:
        """Minimize the price: x[o] members of a class take option o, all members take one, and no resource runs out."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        options = [option for of_class, _ in classes for option in of_class]
        sizes = np.array([len(of) for _, of in classes])
        class_of = np.repeat(np.arange(len(classes)), [len(of_class) for of_class, _ in classes])
        is_of_class = (class_of == np.arange(len(classes))[:, None]).astype(float)
        result = milp(
            np.array([option.price for option in options]) / _PRICE_UNIT,
            integrality=np.ones(len(options)),
            bounds=Bounds(0, sizes[class_of]),
            constraints=[
                LinearConstraint(is_of_class, sizes, sizes),
                LinearConstraint(_used(options).T, -np.inf, [limits[name] for name in RESOURCES]),
            ],
            options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": 1e9 if any_price else 0.0},
        )
        if result.x is None:
            return Choice(options=None, is_refuted=result.status == _INFEASIBLE)
        picked: list[Option | None] = [None] * len(self._groups)
        counts = np.rint(result.x).astype(int)
        for number, (_, of) in enumerate(classes):
            taken = np.repeat(np.flatnonzero(class_of == number), counts[class_of == number])
            for position, chosen in zip(of, taken, strict=True):
                picked[position] = options[chosen]
        choice = Choice(options=tuple(picked), gap=float(result.mip_gap))
        return choice if fits(choice.used, limits) else Choice(options=None)  # too much by a rounding of HiGHS


def fits(used: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Tell whether nothing is over its limit."""
    return all(used[name] <= limits[name] for name in RESOURCES)


def _used(options: Sequence[Option]) -> np.ndarray:
    return np.array([[option.resources[name] or 0.0 for name in RESOURCES] for option in options])


def _least(classes: Sequence[_Class]) -> dict[str, float]:
    sums = sum(len(of) * _used(options).min(axis=0) for options, of in classes)
    return dict(zip(RESOURCES, sums.tolist(), strict=True))
