"""Choose how much of each layer works in parallel (PE, SIMD), by price, exactly.

The accelerator is a pipeline: a frame leaves every II cycles, II being the cycles of its slowest layer. So the
layers are independent once II is given, and the cheapest design is the cheapest folding of each that takes at most
II cycles. All foldings of a layer are priced once; two questions then cost a look-up each: the cheapest design for a
frame rate, and the highest frame rate that fits a part of the board.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .boards import RESOURCES, Board
from .errors import CapacityError
from .estimate import sum_known
from .model import Model, custom_op
from .options import Group, price_groups

_EXPORTED = (
    "PE",
    "SIMD",
    "parallel_window",
    "ram_style",
    "resType",
    "mem_mode",
    "runtime_writeable_weights",
    "depth_trigger_uram",
    "depth_trigger_bram",
)
Settings = dict[str, dict[str, int]]  # layer name -> attribute -> value


@dataclass(frozen=True, kw_only=True)
class Folding:
    """A folding of the whole accelerator."""

    settings: Settings
    ii_cycles: int
    resources: Mapping[str, float | None]


class FoldingSpace:
    """Every folding of a specialized model on a board, priced."""

    def __init__(self, model: Model, board: Board) -> None:
        self._board = board
        self._groups = price_groups(model, board)

    @property
    def fastest_cycles(self) -> int:
        """The smallest II any folding reaches."""
        return max(group.options[0].cycles for group in self._groups)

    def for_cycles(self, max_cycles: int) -> Folding:
        """Return the cheapest folding of at most that many cycles.

        Raises:
            CapacityError: a layer needs more, fully unfolded.
        """
        chosen = [(group, group.cheapest(max_cycles)) for group in self._groups]
        slow = max((group for group, option in chosen if option is None), key=_fastest, default=None)
        if slow is not None:
            raise CapacityError(
                f"layer {slow.title}: takes {_fastest(slow)} cycles a frame fully unfolded, "
                f"expected at most {max_cycles}; lower --target-fps or raise --clock-mhz"
            )
        settings = {
            name: dict(values)
            for group, option in chosen
            for name, values in zip(group.names, option.settings, strict=True)
        }
        resources = {name: sum_known(option.resources[name] for _, option in chosen) for name in RESOURCES}
        return Folding(settings=settings, ii_cycles=max(option.cycles for _, option in chosen), resources=resources)

    def for_fps(self, target_fps: float, clock_mhz: float) -> Folding:
        """Return the cheapest folding that reaches a frame rate.

        Raises:
            CapacityError: no folding does, or the board does not hold it.
        """
        max_cycles = int(clock_mhz * 1e6 / target_fps)
        if max_cycles < self.fastest_cycles:
            slow = max(self._groups, key=_fastest)
            raise CapacityError(
                f"--target-fps: got {target_fps:g}, expected at most {clock_mhz * 1e6 / self.fastest_cycles:,.1f} at "
                f"{clock_mhz:g} MHz; the bottleneck is {slow.title} with {self.fastest_cycles:,} cycles a frame, "
                "fully unfolded"
            )
        folding = self.for_cycles(max_cycles)
        excess = self._excess(folding, 1.0)
        if excess:
            best = self.for_utilization(1.0)
            raise CapacityError(
                f"--target-fps: {target_fps:g} fps need {excess}; {self._board.name} reaches at most "
                f"{clock_mhz * 1e6 / best.ii_cycles:,.1f} fps: lower --target-fps or choose a larger --board"
            )
        return folding

    def for_utilization(self, max_utilization: float) -> Folding:
        """Return the fastest folding that uses at most a part of each resource FINN has a figure of.

        Raises:
            CapacityError: none does.
        """
        candidates = sorted({option.cycles for group in self._groups for option in group.options})
        candidates = [cycles for cycles in candidates if cycles >= self.fastest_cycles]
        slowest = self.for_cycles(candidates[-1])
        excess = self._excess(slowest, max_utilization)
        if excess:
            raise CapacityError(
                f"--board {self._board.name}: too small, the slowest design needs {excess}; "
                "choose a larger --board, fewer bits or a narrower network"
            )
        low, high = 0, len(candidates) - 1  # candidates[high] fits
        while low < high:
            middle = (low + high) // 2
            if self._excess(self.for_cycles(candidates[middle]), max_utilization):
                low = middle + 1
            else:
                high = middle
        return self.for_cycles(candidates[high])

    def _excess(self, folding: Folding, max_utilization: float) -> str | None:
        """Return in words what a folding uses too much of, None if it fits."""
        too_much = []
        for name in RESOURCES:
            used, limit = folding.resources[name], self._board.resources[name] * max_utilization
            if used is not None and used > limit:
                too_much.append(f"{used:,.0f} {name} of {limit:,.0f}")
        if not too_much:
            return None
        part = "" if max_utilization == 1.0 else f" ({max_utilization:.0%} of the board)"
        return " and ".join(too_much) + part


def to_finn_config(model: Model, settings: Settings) -> dict[str, Any]:
    """Return the folding in the format of FINN's folding_config_file."""
    config: dict[str, Any] = {"Defaults": {}}
    for node in model.graph.node:
        instance = custom_op(node)
        known = instance.get_nodeattr_types()
        values = {name: instance.get_nodeattr(name) for name in _EXPORTED if name in known}
        config[node.name] = values | settings.get(node.name, {})
    return config


def apply_finn_config(model: Model, config: dict[str, Any]) -> Model:
    """Fold a model as a folding configuration of FINN says, through FINN's own ApplyConfig."""
    from finn.transformation.general import ApplyConfig

    # its `apply` takes nothing but the base class; the graph inside is what it works on
    ApplyConfig(config).configure_network(model.graph, config, None)
    return model


def _fastest(group: Group) -> int:
    return group.options[0].cycles
