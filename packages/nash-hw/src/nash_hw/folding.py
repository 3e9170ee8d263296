"""Choose how much of each layer works in parallel (PE, SIMD) and where its weights lie, by price, exactly.

The accelerator is a pipeline: a frame leaves every II cycles, II being the cycles of its slowest layer. So the
layers are independent once II is given, but for the board they share. All options of a layer are priced once; the
cheapest design for a frame rate is then a choice within the board (choice.py), and the highest frame rate that fits a
part of the board is searched for among the cycles that options have: what fits at an II fits at any longer one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .boards import RESOURCES, Board
from .choice import Choice, Chooser, fits
from .errors import CapacityError
from .model import Model, custom_op
from .options import Group, as_hls, needs_hls, price_groups

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
_PRICE_GAP = 5e-3  # of two designs of one frame rate that fit, a price this near the other's is as good
Settings = dict[str, dict[str, int | str]]  # layer name -> attribute -> value


@dataclass(frozen=True, kw_only=True)
class Folding:
    """A folding of the whole accelerator."""

    settings: Settings
    ii_cycles: int
    resources: Mapping[str, float | None]
    gap: float  # no design is cheaper (for a frame rate) or faster (for a utilization) by more than this part
    price_gap: float  # none that is as fast is cheaper by more than this part


class FoldingSpace:
    """Every folding of a specialized model on a board, priced."""

    def __init__(self, model: Model, board: Board) -> None:
        self._board = board
        self._groups = price_groups(model, board)
        self._chooser = Chooser(self._groups, board)

    @property
    def fastest_cycles(self) -> int:
        """The smallest II any folding reaches."""
        return max(group.options[0].cycles for group in self._groups)

    def for_fps(self, target_fps: float, clock_mhz: float) -> Folding:
        """Return the cheapest folding that reaches a frame rate and fits the board.

        Raises:
            CapacityError: no folding does.
        """
        max_cycles = int(clock_mhz * 1e6 / target_fps)
        if max_cycles < self.fastest_cycles:
            slow = max(self._groups, key=_fastest)
            raise CapacityError(
                f"--target-fps: got {target_fps:g}, expected at most {clock_mhz * 1e6 / self.fastest_cycles:,.1f} at "
                f"{clock_mhz:g} MHz; the bottleneck is {slow.title} with {self.fastest_cycles:,} cycles a frame, "
                f"as far unfolded as {self._board.name} has room for it"
            )
        choice = self._chooser.within(max_cycles, self._limits(1.0))
        if choice.options is None:
            needs = self._needs(max_cycles, 1.0)
            best = self.for_utilization(1.0)
            raise CapacityError(
                f"--target-fps: {target_fps:g} fps need {needs}; {self._board.name} reaches at most "
                f"{clock_mhz * 1e6 * (1 + best.gap) / best.ii_cycles:,.1f} fps: lower --target-fps or choose a larger "
                "--board"
            )
        return self._folding(choice, choice.gap)

    def for_utilization(self, max_utilization: float) -> Folding:
        """Return the fastest folding that uses at most a part of each resource there is a figure of.

        Raises:
            CapacityError: none does.
        """
        limits = self._limits(max_utilization)
        candidates = sorted({option.cycles for group in self._groups for option in group.options})
        candidates = [cycles for cycles in candidates if cycles >= self.fastest_cycles]
        low, high = 0, len(candidates) - 1  # all below low are refuted
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._chooser.may_fit(candidates[middle], limits) else (middle + 1, high)
        choice, low, high = self._search(candidates, low, limits)
        if choice is None:
            raise CapacityError(
                f"--board {self._board.name}: too small, the slowest design needs "
                f"{self._needs(candidates[-1], max_utilization)}; "
                "choose a larger --board, fewer bits or a narrower network"
            )
        return self._folding(choice, candidates[high] / candidates[low] - 1)

    def _search(self, candidates: list[int], low: int, limits: Mapping[str, float]) -> tuple[Choice | None, int, int]:
        """Return the choice for the fewest cycles that is found, None if none is, and two positions in `candidates`.

        Below the first position all are refuted, as they are below the given one; the choice has the cycles of the
        second. The first candidates are the likeliest: what fits without converters mostly fits with them.
        """
        tried, step, high = low - 1, 1, low  # at `tried` and before, nothing is found
        while (found := self._chooser.within(candidates[high], limits, max_gap=_PRICE_GAP)).options is None:
            low = high + 1 if found.is_refuted else low
            if high == len(candidates) - 1:
                return None, low, high
            tried, high, step = high, min(high + step, len(candidates) - 1), 2 * step
        while tried + 1 < high:
            middle = (tried + high) // 2
            choice = self._chooser.within(candidates[middle], limits, max_gap=_PRICE_GAP)
            if choice.options is not None:
                found, high = choice, middle
            else:
                tried = middle
                low = middle + 1 if choice.is_refuted else low
        return found, low, high

    def _limits(self, max_utilization: float) -> dict[str, float]:
        return {name: self._board.resources[name] * max_utilization for name in RESOURCES}

    def _folding(self, choice: Choice, gap: float) -> Folding:
        settings = {
            name: dict(values)
            for group, option in zip(self._groups, choice.options, strict=True)
            for name, values in zip(group.names, option.settings, strict=True)
        }
        is_known = {name: any(option.resources[name] is not None for option in choice.options) for name in RESOURCES}
        return Folding(
            settings=settings,
            ii_cycles=max(option.cycles for option in choice.options),
            resources={
                name: used if is_known[name] else None for name, used in self._chooser.used(choice.options).items()
            },
            gap=gap,
            price_gap=choice.gap,
        )

    def _needs(self, max_cycles: int, max_utilization: float) -> str:
        """Return in words what a frame rate needs too much of, and which layer most, where no folding fits.

        If each resource suffices by itself, though not all at once, it is what the cheapest folding takes.
        """
        limits = self._limits(max_utilization)
        parts = [_least(group, max_cycles) for group in self._groups]
        used = {name: sum(part[name] for part in parts) for name in RESOURCES}
        if fits(used, limits):
            cheapest = self._chooser.within(max_cycles, dict.fromkeys(RESOURCES, math.inf)).options
            if cheapest is None:
                return "more than there is at once"
            parts = [{name: option.resources[name] or 0.0 for name in RESOURCES} for option in cheapest]
            used = self._chooser.used(cheapest)
        too_much = []
        for name in RESOURCES:
            if used[name] > limits[name]:
                most, group = max((part[name], group.title) for part, group in zip(parts, self._groups, strict=True))
                too_much.append(f"{used[name]:,.0f} {name} of {limits[name]:,.0f}, {most:,.0f} of them for {group}")
        part = "" if max_utilization == 1.0 else f" ({max_utilization:.0%} of the board)"
        return " and ".join(too_much) + part


def fold(model: Model, settings: Settings) -> tuple[Model, dict[str, Any]]:
    """Fold a specialized model; return it with the folding in the format of FINN's folding_config_file.

    A layer whose arithmetic lies in LUTs becomes the HLS one. Then all layers get new names, as FINN numbers each kind
    of them for itself; the configuration has the new ones.
    """
    from qonnx.transformation.general import GiveUniqueNodeNames

    before = []
    for node in model.graph.node:
        before.append(node.name)
        if needs_hls(node, settings[node.name]):
            node.CopyFrom(as_hls(node))
    model = model.transform(GiveUniqueNodeNames())
    renamed = {node.name: settings[name] for name, node in zip(before, model.graph.node, strict=True)}
    config = to_finn_config(model, renamed)
    return apply_finn_config(model, config), config


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


def _least(group: Group, max_cycles: int) -> dict[str, float]:
    """Return the least of each resource that a group of layers can take, each by itself."""
    fast_enough = [option.resources for option in group.options if option.cycles <= max_cycles]
    return {name: min(resources[name] or 0.0 for resources in fast_enough) for name in RESOURCES}
