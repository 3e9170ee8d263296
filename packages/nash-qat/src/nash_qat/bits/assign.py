"""Choose the bits of every tensor that lose least within budgets of the hardware: an integer program, by HiGHS.

x[t, b] is 1 if tensor t has b bits; the loss is the sum of what each tensor alone loses. What the hardware takes is
the sum over places, each a table over the bits of a few tensors: y[p, c] is 1 if the tensors of place p have the
choice c, so for each of its tensors the sum of y over the choices with b bits is x[t, b]. Integer x make integer y.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import manifest as manifests
from ..base.errors import CapacityError, ManifestError, UsageError
from ..quant.presets import QuantizationSpec

RESOURCES = ("LUT", "FF", "BRAM_18K", "URAM", "DSP")
_TIME_LIMIT_S = 60.0
_INFEASIBLE = 2  # a status of scipy.optimize.milp
_SLACK = 1e-9  # of a budget, for sums of floating-point numbers


@dataclass(frozen=True, kw_only=True)
class Place:
    """A piece of the accelerator: what it takes for every choice of bits of its tensors, the last one's fastest."""

    tensors: tuple[str, ...]
    resources: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What each tensor loses at each of its candidate bits, what places take, and the rest that no bits change."""

    losses: Mapping[str, Mapping[int, float]]
    own: Mapping[str, int]
    places: tuple[Place, ...]
    rest: Mapping[str, float]
    spec: QuantizationSpec

    @staticmethod
    def read(sensitivity_path: Path, bitcosts_path: Path) -> Problem:
        """Read a sensitivity.json and a bitcosts.json.

        Raises:
            ManifestError: one is malformed, or they are of different networks.
        """
        sensitivity = manifests.load(sensitivity_path, "sensitivity")
        costs = manifests.load(bitcosts_path, "bitcosts")
        measured = {tensor["name"]: tensor for tensor in sensitivity["tensors"]}
        priced = {tensor["name"]: tensor["candidates"] for tensor in costs["tensors"]}
        different = sorted(measured.keys() ^ priced.keys())
        if different:
            raise ManifestError(
                f"{bitcosts_path}: tensors: got {'no ' if different[0] in measured else ''}'{different[0]}', expected "
                f"those of {sensitivity_path.name} ({len(different)} differ); price and measure the same network"
            )
        base = sensitivity["base"]["loss"]
        losses = {
            name: {each["bits"]: each["loss"] - base for each in tensor["measured"] if each["bits"] in priced[name]}
            for name, tensor in measured.items()
        }
        without = [name for name, of_name in losses.items() if not of_name]
        if without:
            raise ManifestError(
                f"{bitcosts_path}: tensors: {without[0]}: got {priced[without[0]]} bits, expected one of those that "
                f"{sensitivity_path.name} has; give both the same --bits"
            )
        return Problem(
            losses=losses,
            own={name: tensor["bits"] for name, tensor in measured.items()},
            places=tuple(_place(bitcosts_path, place, priced, losses) for place in costs["places"]),
            rest=costs["rest"],
            spec=QuantizationSpec.from_dict(sensitivity["quantization"]),
        )

    def loss(self, bits: Mapping[str, int]) -> float:
        """Return the summed loss increase of a choice."""
        return sum(self.losses[name][each] for name, each in bits.items())

    def used(self, bits: Mapping[str, int]) -> dict[str, float]:
        """Return what a choice takes of each resource."""
        used = dict(self.rest)
        for place in self.places:
            position = 0
            for name in place.tensors:
                position = position * len(self.losses[name]) + list(self.losses[name]).index(bits[name])
            used = {name: used[name] + float(place.resources[name][position]) for name in RESOURCES}
        return used


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Bits of every tensor. gap: no choice loses less by more than this; 0 if that is proven of all."""

    bits: Mapping[str, int]
    loss: float
    gap: float
    used: Mapping[str, float]
    budgets: Mapping[str, float]
    spec: QuantizationSpec

    @property
    def quantization(self) -> dict[str, Any]:
        """Return the JSON of a --quantization file: all tensors by name."""
        return {**self.spec.to_dict(), "preset": None, "overrides": dict(self.bits)}

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "bits": dict(self.bits),
            "loss_increase": self.loss,
            "gap": self.gap,
            "resources": dict(self.used),
            "budgets": dict(self.budgets),
        }

    def text(self) -> str:
        """Return what a person wants to know of it."""
        proof = "proven least" if self.gap == 0 else f"none loses less by more than {self.gap:.4f}"
        lines = [f"{name}: {bits} bit" for name, bits in self.bits.items()]
        lines.append(f"summed loss increase {self.loss:+.4f}, {proof}")
        for name, amount in self.used.items():
            budget = f" of {self.budgets[name]:,.0f}" if name in self.budgets else ""
            lines.append(f"{name} {amount:,.0f}{budget}")
        return "\n".join(lines)


def parse_budgets(texts: Sequence[str]) -> dict[str, float]:
    """Return the budgets of options such as LUT=30000.

    Raises:
        UsageError: one is malformed, or none is given.
    """
    budgets: dict[str, float] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if name not in RESOURCES or not 0 <= value < math.inf:
            raise UsageError(f"--budget: got '{text}', expected RESOURCE=AMOUNT with one of {', '.join(RESOURCES)}")
        budgets[name] = value
    if not budgets:
        raise UsageError("--budget: got none, expected at least one, such as LUT=30000")
    return budgets


def solve(problem: Problem, budgets: Mapping[str, float]) -> Assignment:
    """Return the choice of least loss within the budgets.

    Raises:
        CapacityError: there is none; the least that a budget must be is named.
    """
    program = _Program(problem)
    result = program.minimize(program.loss, budgets)
    if result.x is None:
        raise CapacityError(_too_little(program, budgets, is_refuted=result.status == _INFEASIBLE))
    bits = program.picked(result.x)
    gap = 0.0 if result.status == 0 else max(0.0, problem.loss(bits) - float(result.mip_dual_bound))
    return Assignment(
        bits=bits, loss=problem.loss(bits), gap=gap, used=problem.used(bits), budgets=budgets, spec=problem.spec
    )


def _too_little(program: _Program, budgets: Mapping[str, float], *, is_refuted: bool) -> str:
    """Say which budget no choice keeps, or what the first must be while the others are kept."""
    if not is_refuted:
        return f"--budget: no choice was found in {_TIME_LIMIT_S:g} s; give a larger one"
    for name, budget in budgets.items():
        least = program.least(name, {})
        if least > budget:
            return f"--budget {name}: got {budget:,.0f}, expected at least {least:,.0f}, the least that any bits take"
    name, *others = budgets
    least = program.least(name, {other: budgets[other] for other in others})
    kept = " and ".join(f"{other}={budgets[other]:g}" for other in others)
    return f"--budget {name}: got {budgets[name]:,.0f}, expected at least {least:,.0f} beside {kept}"


def _place(
    path: Path, place: Mapping[str, Any], priced: Mapping[str, list[int]], losses: Mapping[str, Mapping[int, float]]
) -> Place:
    """Return a place's tables, cut down to the bits that were measured, too."""
    unknown = [name for name in place["tensors"] if name not in priced]
    shape = [len(priced[name]) for name in place["tensors"] if name in priced]
    if unknown or any(len(place["resources"][name]) != math.prod(shape) for name in RESOURCES):
        expected = f"{math.prod(shape)} figures for its tensors"
        raise ManifestError(f"{path}: places: {place['name']}: expected {expected}; write it anew with nash-hw costs")
    measured = np.ix_(*([priced[name].index(bits) for bits in losses[name]] for name in place["tensors"]))
    resources = {
        name: np.asarray(figures, np.float64).reshape(shape)[measured].reshape(-1)
        for name, figures in place["resources"].items()
    }
    return Place(tensors=tuple(place["tensors"]), resources=resources)


class _Program:
    """The variables: x of all tensors, then y of all places."""

    def __init__(self, problem: Problem) -> None:
        import scipy.sparse as sp

        self._problem = problem
        self._choices = [(name, bits) for name, of_name in problem.losses.items() for bits in of_name]
        position = {choice: number for number, choice in enumerate(self._choices)}
        rows: list[tuple[list[int], list[float], float]] = []
        for name, of_name in problem.losses.items():
            rows.append(([position[name, bits] for bits in of_name], [1.0] * len(of_name), 1.0))
        start = len(self._choices)
        used = {name: [0.0] * start for name in RESOURCES}
        for place in problem.places:
            combinations = list(product(*(problem.losses[name] for name in place.tensors)))
            for axis, name in enumerate(place.tensors):
                for bits in problem.losses[name]:
                    having = [start + k for k, combination in enumerate(combinations) if combination[axis] == bits]
                    rows.append(([*having, position[name, bits]], [1.0] * len(having) + [-1.0], 0.0))
            start += len(combinations)
            for name in RESOURCES:
                used[name].extend(place.resources[name])
        self.loss = np.zeros(start)
        self.loss[: len(self._choices)] = [problem.losses[name][bits] for name, bits in self._choices]
        self._used = {name: np.array(values) for name, values in used.items()}
        indices = [(number, column) for number, (columns, _, _) in enumerate(rows) for column in columns]
        values = [value for _, of_row, _ in rows for value in of_row]
        self._equalities = sp.csr_matrix((values, tuple(zip(*indices, strict=True))), shape=(len(rows), start))
        self._right = np.array([right for _, _, right in rows])

    def minimize(self, cost: NDArray[np.float64], budgets: Mapping[str, float]) -> Any:
        """Return what scipy's milp finds within the budgets."""
        from scipy.optimize import Bounds, LinearConstraint

        constraints = [LinearConstraint(self._equalities, self._right, self._right)]
        for name, budget in budgets.items():
            limit = budget - self._problem.rest[name]
            constraints.append(LinearConstraint(self._used[name][None], -np.inf, limit + _SLACK * max(1.0, abs(limit))))
        return _milp(
            cost,
            integrality=np.arange(len(cost)) < len(self._choices),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": 0.0},
        )

    def least(self, resource: str, budgets: Mapping[str, float]) -> float:
        """Return the least of a resource that a choice within the budgets takes."""
        bound = self.minimize(self._used[resource], budgets)
        return self._problem.rest[resource] + (math.inf if bound.x is None else float(bound.fun))

    def picked(self, solution: NDArray[np.float64]) -> dict[str, int]:
        """Return the bits that a solution gives the tensors."""
        return {name: bits for (name, bits), value in zip(self._choices, solution, strict=False) if value > 0.5}


def _milp(*args: Any, **given: Any) -> Any:
    """Solve with scipy's milp, whose HiGHS now and then prints a line of its own to the process's stdout."""
    from scipy.optimize import milp

    flush_c = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        return milp(*args, **given)
    finally:
        flush_c(None)
        os.dup2(stdout, 1)
        os.close(stdout)
