"""Price every candidate operation of a search space: what its presence adds to an accelerator at a frame rate.

A candidate's small network (fragment.py) goes through the flow of `build` with the operation and without it, both
folded the cheapest way that reaches the rate; its resources are the difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import manifest
from .boards import RESOURCES, Board, find_board
from .errors import CapacityError, UsageError
from .finn_env import contained_finn
from .fragment import JOINS, OPERATION, Place, fragment
from .specialized import specialized

_BITS = range(1, 9)


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """What to price for."""

    board: str
    weight_bits: int
    act_bits: int
    target_fps: float
    clock_mhz: float = 200.0
    joins: str = JOINS[0]  # the kind that the network is to be trained with

    def __post_init__(self) -> None:
        problems = [
            f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected {_BITS.start}..{_BITS.stop - 1}"
            for name in ("weight_bits", "act_bits")
            if getattr(self, name) not in _BITS
        ]
        if self.joins not in JOINS:
            problems.append(f"--joins: got '{self.joins}', expected {' or '.join(JOINS)}")
        if not self.target_fps > 0:
            problems.append(f"--target-fps: got {self.target_fps:g}, expected more than 0")
        if not 10 <= self.clock_mhz <= 1000:
            problems.append(f"--clock-mhz: got {self.clock_mhz:g}, expected 10..1000")
        if problems:
            raise UsageError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class _Price:
    cycles: int
    resources: Mapping[str, float | None]


def price_space(space_path: Path, config: CostsConfig, out: Path) -> dict[str, Any]:
    """Price the candidates of a space.json, write costs.json and return it.

    Raises:
        ManifestError: the space is malformed.
        CapacityError: a candidate does not reach the frame rate; it is named, with what it reaches.
    """
    space = manifest.load(space_path, "space")
    with contained_finn():
        board = find_board(config.board)
        prices = _Prices(config, board)
        candidates = [_priced(space_path, index, found, prices) for index, found in enumerate(space["candidates"])]
    result = manifest.header("costs", inputs=[manifest.input_record(space_path, space)]) | {
        "name": space["name"],
        "board": board.name,
        "fpga_part": board.fpga_part,
        "clock_mhz": config.clock_mhz,
        "weight_bits": config.weight_bits,
        "act_bits": config.act_bits,
        "target_fps": config.target_fps,
        "joins": config.joins,
        "available": dict(board.resources),
        "candidates": candidates,
    }
    manifest.save(out, result, "costs")
    return result


def is_model(path: Path) -> bool:
    """Tell whether a file says of itself that it is a model manifest; whoever reads it checks the rest."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("schema")).startswith("nash.model/")


def _priced(space_path: Path, index: int, candidate: Mapping[str, Any], prices: _Prices) -> dict[str, Any]:
    named = {key: candidate[key] for key in ("cell", "layer", "input", "op")}
    try:
        price = prices.of(candidate)
    except CapacityError as error:
        where = ", ".join(f"{key} {value}" for key, value in named.items())
        raise CapacityError(f"{space_path}: candidates[{index}] ({where}): {error}") from error
    return named | {"cycles": price.cycles, "resources": dict(price.resources)}


class _Prices:
    """Prices of operations; those that do not differ in shape are priced once."""

    def __init__(self, config: CostsConfig, board: Board) -> None:
        self._config = config
        self._board = board
        self._known: dict[tuple[Place, str | None], _Price] = {}

    def of(self, candidate: Mapping[str, Any]) -> _Price:
        """Return what a candidate adds."""
        place = Place(
            in_channels=candidate["in_channels"],
            out_channels=candidate["out_channels"],
            stride=candidate["stride"],
            size=(candidate["input_height"], candidate["input_width"]),
            weight_bits=self._config.weight_bits,
            act_bits=self._config.act_bits,
        )
        if candidate["op"] == "max_pool_3x3":
            place = replace(place, weight_bits=_BITS.start)  # it has none: one price for all
        with_op, without = self._network(place, candidate["op"]), self._network(replace(place, weight_bits=1), None)
        added = {name: _difference(with_op.resources[name], without.resources[name]) for name in RESOURCES}
        return _Price(cycles=with_op.cycles, resources=added)

    def _network(self, place: Place, op: str | None) -> _Price:
        if (place, op) not in self._known:
            self._known[place, op] = self._fold(place, op)
        return self._known[place, op]

    def _fold(self, place: Place, op: str | None) -> _Price:
        from .estimate import estimate
        from .folding import FoldingSpace, fold

        config, board = self._config, self._board
        max_cycles = int(config.clock_mhz * 1e6 / config.target_fps)
        model = specialized(fragment(place, op, config.joins), board, max_cycles, input_bits=place.act_bits)
        folding = FoldingSpace(model, board).for_fps(config.target_fps, config.clock_mhz)
        layers = estimate(fold(model, folding.settings)[0], board).layers
        cycles = [layer.cycles for layer in layers if layer.source.startswith(OPERATION)]
        return _Price(cycles=max(cycles, default=0), resources=folding.resources)


def _difference(more: float | None, less: float | None) -> float | None:
    return None if more is None else max(0.0, more - (less or 0.0))


def summary(costs: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of what the candidates of each operation add: their number, and the mean of each resource."""
    table = [["operation", "candidates", *(f"mean {name}" for name in RESOURCES)]]
    for op in dict.fromkeys(candidate["op"] for candidate in costs["candidates"]):
        found = [candidate["resources"] for candidate in costs["candidates"] if candidate["op"] == op]
        means = [_mean([resources[name] for resources in found]) for name in RESOURCES]
        table.append([op, str(len(found)), *means])
    return table


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):,.1f}" if known else "unknown"
