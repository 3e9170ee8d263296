"""Choose one option of each group, exactly: the cheapest choice that fits the board, as a MILP solved by HiGHS.

FIFOs and width converters couple the groups at either end of a stream (network.py). Without them groups share nothing
but the board, and those with the same options are one class, of whose members a whole number takes each option: a
relaxation that is solved at once, and refutes most frame rates that are out of reach.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..boards.board import RESOURCES, Board
from .links import link_resources, links_between
from .network import Network
from .options import Group, Option, undominated

_TIME_LIMIT_S = 10.0  # of one MILP; what is not proven by then is told as a gap
_PRICE_UNIT = 1e-6  # prices are counted in millionths of the board, far above the absolute tolerance of HiGHS
_INFEASIBLE = 2  # a status of scipy.optimize.milp
_Class = tuple[Sequence[Option], int]  # options, and how many groups have them


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One option of each group, in their order, and what is proven of it."""

    options: tuple[Option, ...] | None  # None: no choice is known
    is_refuted: bool = False  # there is none
    price: float = math.inf
    gap: float = 0.0  # no choice is cheaper by more than this part of the price


class Chooser:
    """All choices among the options of the groups on a board."""

    def __init__(self, groups: Sequence[Group], board: Board) -> None:
        self._groups = groups
        self._board = board
        self._links = links_between(groups)
        members: dict[int, list[Group]] = {}
        for group in groups:
            members.setdefault(id(group.options), []).append(group)
        self._classes: list[_Class] = [(of[0].options, len(of)) for of in members.values()]

    def used(self, options: Sequence[Option]) -> dict[str, float]:
        """Return what a choice takes of each resource as far as known, with converters and the shallowest FIFOs."""
        parts = [option.resources for option in options]
        parts += [
            link_resources(
                options[link.producer].stream_bits[link.producer_entry],
                options[link.consumer].stream_bits[link.consumer_entry],
                self._board.fpga_part,
            )
            for link in self._links
        ]
        return {name: sum(part[name] or 0.0 for part in parts) for name in RESOURCES}

    def within(self, max_cycles: int, limits: Mapping[str, float], *, max_gap: float = 0.0) -> Choice:
        """Return the cheapest choice within the limits, or one that is dearer by at most `max_gap` of its price."""
        from scipy.optimize import Bounds, LinearConstraint

        if not self.may_fit(max_cycles, limits):
            return Choice(options=None, is_refuted=True)
        network = Network(self._groups, self._links, self._board, max_cycles)
        program = network.program()
        result = _milp(
            program.cost / _PRICE_UNIT,
            integrality=np.arange(len(program.cost)) < program.num_options,
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(program.equalities, program.right, program.right),
                LinearConstraint(program.used, -np.inf, [limits[name] for name in RESOURCES]),
            ],
            options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": max_gap},
        )
        if result.x is None:
            return Choice(options=None, is_refuted=result.status == _INFEASIBLE)
        choice = Choice(
            options=tuple(network.picked(result.x)), price=result.fun * _PRICE_UNIT, gap=float(result.mip_gap)
        )
        # a choice that is over a limit is so by a rounding of HiGHS
        return choice if fits(self.used(choice.options), limits) else Choice(options=None)

    def may_fit(self, max_cycles: int, limits: Mapping[str, float]) -> bool:
        """Tell whether some choice may fit; if not, it is proven that none does."""
        from scipy.optimize import Bounds, LinearConstraint

        classes = self._fast_enough(max_cycles)
        least = sum(size * _used(options).min(axis=0) for options, size in classes)
        if not fits(dict(zip(RESOURCES, least.tolist(), strict=True)), limits):
            return False
        classes = [(undominated(options), size) for options, size in classes]
        options = [option for of_class, _ in classes for option in of_class]
        sizes = np.array([size for _, size in classes])
        class_of = np.repeat(np.arange(len(classes)), [len(of_class) for of_class, _ in classes])
        result = _milp(
            np.zeros(len(options)),
            integrality=np.ones(len(options)),
            bounds=Bounds(0, sizes[class_of]),
            constraints=[
                LinearConstraint((class_of == np.arange(len(classes))[:, None]).astype(float), sizes, sizes),
                LinearConstraint(_used(options).T, -np.inf, [limits[name] for name in RESOURCES]),
            ],
            options={"time_limit": _TIME_LIMIT_S},
        )
        return result.status != _INFEASIBLE

    def _fast_enough(self, max_cycles: int) -> list[_Class]:
        return [
            ([option for option in options if option.cycles <= max_cycles], size) for options, size in self._classes
        ]


def _milp(*args: Any, **given: Any) -> Any:
    """Solve with scipy's milp, whose HiGHS now and then prints a line of its own to the process's stdout."""
    from scipy.optimize import milp

    flush_c = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush_c(None)
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        return milp(*args, **given)
    finally:
        flush_c(None)
        os.dup2(stdout, 1)
        os.close(stdout)


def fits(used: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Tell whether nothing is over its limit."""
    return all(used[name] <= limits[name] for name in RESOURCES)


def _used(options: Sequence[Option]) -> np.ndarray:
    return np.array([[option.resources[name] or 0.0 for name in RESOURCES] for option in options])
