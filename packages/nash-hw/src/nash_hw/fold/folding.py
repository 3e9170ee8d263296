"""Choose how much of each layer works in parallel (PE, SIMD), its memories and its arithmetic, by price, exactly.

The accelerator is a pipeline: a frame leaves every II cycles, II being the cycles of its slowest layer. So the
layers are independent once II is given, but for FIFOs and width converters between them and the board they share. All
options of a layer are priced once; the cheapest design for a frame rate is then a choice within the board (choice.py),
and the highest frame rate that fits a part of the board is searched for among the cycles that options have: what fits
at an II fits at any longer one.

Every stream has a FIFO. The choice counts the shallowest; how deep each has to be follows from the folding of all
layers (schedule.py). So a choice that leaves no room for its own is made again with that room kept free, and where that
is in vain, with the FIFOs priced at each width they may be read with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..base.errors import CapacityError
from ..boards.board import RESOURCES, Board
from ..graph.model import Model
from .choice import Choice, Chooser, fits
from .fifos import Fifos, fifos_of, with_fifos
from .finn_config import Settings, fold
from .options import Group, Option, price_groups, price_of

__all__ = ["Folding", "FoldingSpace", "fold"]

_PRICE_GAP = 5e-3  # of two designs of one frame rate that fit, a price this near the other's is as good
_ROUTABLE = 0.7  # of each resource: what a design should stay within, and does if it can
_BALANCE_GAP = 0.02  # how near the least part of the fullest resource is brought
_FIFO_ROUNDS = 10
_PRICED_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Folding:
    """A folding of the whole accelerator."""

    settings: Settings
    ii_cycles: int
    fifo_depths: tuple[int, ...]  # in the order of the layers and their inputs
    resources: Mapping[str, int | None]  # of the layers, their FIFOs and converters
    limit: float  # the part of each resource it was to stay within
    gap: float  # within that, none is cheaper (for a frame rate) or faster (for a utilization) by more than this part
    price_gap: float  # none that is as fast, and leaves as much room for FIFOs, is cheaper by more than this part
    depth_price: float  # the part of its price that FIFOs take for being deeper than the shallowest


class FoldingSpace:
    """Every folding of a specialized model on a board, priced.

    known: prices of layers for other models of the board (see `price_groups`).
    """

    def __init__(self, model: Model, board: Board, known: dict[str, tuple[Option, ...]] | None = None) -> None:
        self._model = model
        self._board = board
        self._groups = price_groups(model, board, known)
        self._chooser = Chooser(self._groups, board)
        self._known: tuple[tuple[Option, ...], Fifos] | None = None  # the FIFOs asked for last
        self._too_slow: tuple[int, str] | None = None  # the best pace that missed a rate, and the layer that needs it

    @property
    def fastest_cycles(self) -> int:
        """The smallest II any folding reaches."""
        return max(group.options[0].cycles for group in self._groups)

    def for_fps(self, target_fps: float, clock_mhz: float) -> Folding:
        """Return the cheapest folding that reaches a frame rate within 70 % of each resource, or else on the board.

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
        self._too_slow = None
        for limit in (_ROUTABLE, 1.0):
            found = self._cheapest(max_cycles, limit)
            if found is not None:
                return found
        if self._too_slow is not None:
            raise CapacityError(
                f"--target-fps: got {target_fps:g}, expected at most {clock_mhz * 1e6 / self._too_slow[0]:,.1f} or so: "
                f"{self._too_slow[1]} waits for the width converter behind it; lower --target-fps"
            )
        needs = self._needs(max_cycles, 1.0)
        best = self.for_utilization(1.0)
        raise CapacityError(
            f"--target-fps: {target_fps:g} fps need {needs}; {self._board.name} reaches at most "
            f"{clock_mhz * 1e6 * (1 + best.gap) / best.ii_cycles:,.1f} fps: lower --target-fps or choose a larger "
            "--board"
        )

    def balanced(self, target_fps: float, clock_mhz: float) -> Folding:
        """Return the cheapest folding of a frame rate that takes as small a part of its fullest resource as any.

        `limit` is that part, to a fiftieth of itself.

        Raises:
            CapacityError: no folding reaches the frame rate.
        """
        best = self.for_fps(target_fps, clock_mhz)
        low, high = 0.0, self._fullest(best)
        while high - low > _BALANCE_GAP * high:
            middle = (low + high) / 2
            found = self._cheapest(int(clock_mhz * 1e6 / target_fps), middle)
            if found is None:
                low = middle
            else:
                best, high = found, self._fullest(found)
        return replace(best, limit=high)

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
        search = _Search(self._chooser, candidates[low:])
        _, choice = self._with_fifos(max_utilization, search.fastest)
        if choice.options is None:
            raise CapacityError(
                f"--board {self._board.name}: too small, the slowest design needs "
                f"{self._needs(candidates[-1], max_utilization)}; "
                "choose a larger --board, fewer bits or a narrower network"
            )
        return self._folding(choice, max_utilization, self._ii_cycles(choice.options) / search.unrefuted - 1)

    def _cheapest(self, max_cycles: int, limit: float) -> Folding | None:
        """Return the cheapest folding of at most so many cycles within a part of each resource, if one is found."""
        first, choice = self._with_fifos(limit, lambda left: self._at_pace(max_cycles, left))
        if choice.options is None and first.options is not None:
            choice = self._with_priced_fifos(first.options, max_cycles, limit)
        if choice.options is None:
            return None
        cheapest = first.price * (1 - first.gap)  # none is below that, however shallow its FIFOs
        return self._folding(choice, limit, max(0.0, 1 - cheapest / self._price(choice.options)))

    def _fullest(self, folding: Folding) -> float:
        """Return the part of its fullest resource that a folding takes."""
        return max((folding.resources[name] or 0.0) / max(self._board.resources[name], 1) for name in RESOURCES)

    def _at_pace(self, max_cycles: int, limits: Mapping[str, float]) -> Choice:
        """Return the cheapest choice of at most so many cycles, faster where converters would make a layer wait longer.

        What is found too slow for them alone is kept, for the message if nothing else is found.
        """
        first = choice = self._chooser.within(max_cycles, limits)
        cycles = max_cycles
        while choice.options is not None:
            pace = self._fifos(choice.options).pace
            if pace[0] <= max_cycles:
                gap = 1 - first.price * (1 - first.gap) / choice.price
                return choice if choice is first else replace(choice, gap=max(gap, choice.gap))
            self._too_slow = min(self._too_slow or pace, pace)
            cycles = min(cycles * max_cycles // pace[0], cycles - 1)
            choice = self._chooser.within(cycles, limits) if cycles >= self.fastest_cycles else Choice(options=None)
        return Choice(options=None, is_refuted=choice.is_refuted and choice is first)

    def _with_fifos(self, limit: float, choose: Callable[[Mapping[str, float]], Choice]) -> tuple[Choice, Choice]:
        """Return the choice as if FIFOs were nothing, and the one that leaves room for its own, if any is found."""
        limits = self._limits(limit)
        first = choice = choose(limits)
        room = dict.fromkeys(RESOURCES, 0.0)
        for _ in range(_FIFO_ROUNDS):
            if choice.options is None:
                break
            fifos = self._fifos(choice.options).resources
            used = self._chooser.used(choice.options)
            if fits({name: used[name] + fifos[name] for name in RESOURCES}, limits):
                return first, choice
            before, room = room, {name: min(max(room[name], fifos[name]), limits[name]) for name in RESOURCES}
            if room == before:
                break
            choice = choose({name: limits[name] - room[name] for name in RESOURCES})
        return first, Choice(options=None)

    def _with_priced_fifos(self, options: tuple[Option, ...], max_cycles: int, limit: float) -> Choice:
        """Return a choice in which joins bear their FIFOs, which in wide words may need fewer memories.

        How much waits depends on the choice itself, so it is taken from one choice for the next.
        """
        limits, waiting = self._limits(limit), self._fifos(options).waiting_bits
        for _ in range(_PRICED_ROUNDS):
            groups = [with_fifos(group, waiting, self._board) for group in self._groups]
            choice = Chooser(groups, self._board).within(max_cycles, limits)
            if choice.options is None:
                break
            options = tuple(
                next(option for option in group.options if option.settings == chosen.settings)
                for group, chosen in zip(self._groups, choice.options, strict=True)
            )
            fifos, used = self._fifos(options), self._chooser.used(options)
            is_small = fits({name: used[name] + fifos.resources[name] for name in RESOURCES}, limits)
            if is_small and fifos.pace[0] <= max_cycles:
                return replace(choice, options=options)
            waiting = {name: max(waiting.get(name, 0), bits) for name, bits in (waiting | fifos.waiting_bits).items()}
        return Choice(options=None)

    def _price(self, options: tuple[Option, ...]) -> float:
        """Return the price of a choice with FIFOs as deep as it needs them."""
        return price_of(self._chooser.used(options), self._board) + price_of(
            self._fifos(options).resources, self._board
        )

    def _fifos(self, options: tuple[Option, ...]) -> Fifos:
        if self._known is None or self._known[0] != options:
            self._known = options, fifos_of(self._model, self._settings(options), self._board.fpga_part)
        return self._known[1]

    def _ii_cycles(self, options: tuple[Option, ...]) -> int:
        return max(self._fifos(options).pace[0], *(option.cycles for option in options))

    def _limits(self, limit: float) -> dict[str, float]:
        return {name: self._board.resources[name] * limit for name in RESOURCES}

    def _settings(self, options: tuple[Option, ...]) -> Settings:
        return {
            name: dict(values)
            for group, option in zip(self._groups, options, strict=True)
            for name, values in zip(group.names, option.settings, strict=True)
        }

    def _folding(self, choice: Choice, limit: float, gap: float) -> Folding:
        found = self._fifos(choice.options)
        fifos, used = found.resources, self._chooser.used(choice.options)
        is_known = {name: any(option.resources[name] is not None for option in choice.options) for name in RESOURCES}
        return Folding(
            settings=self._settings(choice.options),
            ii_cycles=self._ii_cycles(choice.options),
            fifo_depths=found.depths,
            resources={name: round(used[name] + fifos[name]) if is_known[name] else None for name in RESOURCES},
            limit=limit,
            gap=gap,
            price_gap=choice.gap,
            depth_price=max(price_of(fifos, self._board), 0.0) / self._price(choice.options),
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


class _Search:
    """The search for the fewest cycles of a frame."""

    def __init__(self, chooser: Chooser, candidates: list[int]) -> None:
        """`candidates`: cycles in ascending order; below the first all are refuted."""
        self._chooser = chooser
        self._candidates = candidates
        self.unrefuted = candidates[0]  # the fewest cycles of which it is not proven, at the limits asked for first
        self._is_first = True

    def fastest(self, limits: Mapping[str, float]) -> Choice:
        """Return the choice of the fewest cycles that is found.

        The first candidates are the likeliest: what fits without converters and FIFOs mostly fits with them.
        """
        candidates, last = self._candidates, len(self._candidates) - 1
        low, tried, step, high = 0, -1, 1, 0  # below low all are refuted; at `tried` and before nothing is found
        while (found := self._at(high, limits)).options is None:
            low = high + 1 if found.is_refuted else low
            if high == last:
                return found
            tried, high, step = high, min(high + step, last), 2 * step
        while tried + 1 < high:
            middle = (tried + high) // 2
            choice = self._at(middle, limits)
            if choice.options is not None:
                found, high = choice, middle
            else:
                tried, low = middle, middle + 1 if choice.is_refuted else low
        if self._is_first:
            self.unrefuted, self._is_first = candidates[low], False
        return found

    def _at(self, position: int, limits: Mapping[str, float]) -> Choice:
        return self._chooser.within(self._candidates[position], limits, max_gap=_PRICE_GAP)


def _fastest(group: Group) -> int:
    return group.options[0].cycles


def _least(group: Group, max_cycles: int) -> dict[str, float]:
    """Return the least of each resource that a group of layers can take, each by itself."""
    fast_enough = [option.resources for option in group.options if option.cycles <= max_cycles]
    return {name: min(resources[name] or 0.0 for resources in fast_enough) for name in RESOURCES}
