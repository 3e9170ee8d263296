"""The choice among options, against brute force over all of them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from nash_hw.boards import RESOURCES, Board
from nash_hw.errors import CapacityError

BOARD = Board(
    name="small",
    fpga_part="xczu7ev-ffvc1156-2-e",
    resources={"LUT": 100, "FF": 100, "BRAM_18K": 60, "URAM": 30, "DSP": 80},
    num_slrs=1,
    source="finn",
)
SEEDS = range(8)


def random_groups(seed, *, num_options=8):
    """Four groups, two of them with the same options; each option needs much of one resource."""
    from nash_hw.options import Group, Option, undominated

    random = np.random.default_rng(seed)
    priced = []
    for _ in range(3):
        options = []
        for cycles in sorted(random.integers(1, 9, num_options)):
            used = {name: float(random.integers(0, 4)) for name in RESOURCES}
            much = ("LUT", "BRAM_18K", "URAM", "DSP")[random.integers(4)]
            used[much] += round(BOARD.resources[much] * random.uniform(1, 3) / (4 + cycles))
            price = sum(used[name] / BOARD.resources[name] for name in RESOURCES if name != "FF")
            options.append(Option(settings=(), cycles=int(cycles), resources=used | {"FF": None}, price=price))
        priced.append(undominated(options, with_cycles=True))
    return [Group(names=(), source=f"layer{i}", options=options) for i, options in enumerate([*priced, priced[0]])]


def brute_force(groups, part):
    """Return (cycles, price) of every choice within a part of the board."""
    found = []
    for options in itertools.product(*(group.options for group in groups)):
        used = {name: sum(option.resources[name] or 0 for option in options) for name in RESOURCES}
        if all(used[name] <= part * BOARD.resources[name] for name in RESOURCES):
            found.append((max(option.cycles for option in options), sum(option.price for option in options)))
    return found


def space_of(groups, monkeypatch):
    from nash_hw import folding

    monkeypatch.setattr(folding, "price_groups", lambda model, board: groups)
    return folding.FoldingSpace(SimpleNamespace(), BOARD)


@pytest.mark.parametrize("seed", SEEDS)
def test_cheapest_choice_within_limits_equals_brute_force(seed):
    from nash_hw.choice import Chooser

    groups = random_groups(seed)
    chooser = Chooser(groups)
    fastest = max(min(option.cycles for option in group.options) for group in groups)
    for part in (0.5, 0.7, 1.0):
        for cycles in range(fastest, 9):
            prices = [price for other, price in brute_force(groups, part) if other <= cycles]
            choice = chooser.within(cycles, {name: part * BOARD.resources[name] for name in RESOURCES})
            if not prices:
                assert choice.options is None
                assert choice.is_refuted
            else:
                assert sum(option.price for option in choice.options) == pytest.approx(min(prices), rel=1e-9)
                assert choice.gap == pytest.approx(0, abs=1e-9)
                assert all(option in group.options for group, option in zip(groups, choice.options, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_fastest_design_within_a_utilization_equals_brute_force(seed, monkeypatch):
    groups = random_groups(seed)
    space = space_of(groups, monkeypatch)
    for part in (0.5, 0.7, 1.0):
        fitting = brute_force(groups, part)
        if not fitting:
            with pytest.raises(CapacityError, match="too small"):
                space.for_utilization(part)
            continue
        folding = space.for_utilization(part)
        assert (folding.ii_cycles, folding.gap) == (min(cycles for cycles, _ in fitting), 0)


def test_limits_bind_in_the_random_cases():
    """Else the tests above would try nothing but the choice of each by itself."""
    from nash_hw.choice import Chooser, fits

    limits = {name: 0.7 * BOARD.resources[name] for name in RESOURCES}
    solved = 0
    for seed in SEEDS:
        chooser = Chooser(random_groups(seed))
        free = chooser.cheapest(8)
        solved += not fits(free.used, limits) and chooser.within(8, limits).options is not None
    assert solved >= 2


def test_what_is_not_proven_is_a_gap(monkeypatch):
    """A solver that gives up: faster designs are neither found nor refuted."""
    from nash_hw.choice import Choice, Chooser

    groups = random_groups(3)
    space = space_of(groups, monkeypatch)
    slowest = max(option.cycles for group in groups for option in group.options)

    def gives_up(self, max_cycles, limits, *, any_price=False):
        return self.cheapest(max_cycles) if max_cycles == slowest else Choice(options=None)

    monkeypatch.setattr(Chooser, "within", gives_up)
    folding = space.for_utilization(1.0)
    assert folding.gap == pytest.approx(slowest / space.fastest_cycles - 1)
    assert folding.gap > 0
