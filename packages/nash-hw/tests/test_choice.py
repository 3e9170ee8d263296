"""The choice among options, against brute force over all of them and the FIFOs and converters between them."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from nash_hw.base.errors import CapacityError
from nash_hw.boards.board import RESOURCES, Board

BOARD = Board(
    name="small",
    fpga_part="xczu7ev-ffvc1156-2-e",
    resources={"LUT": 500, "FF": 1500, "BRAM_18K": 60, "URAM": 30, "DSP": 80},
    num_slrs=1,
    source="finn",
)
SEEDS = range(10)
# a stream is duplicated, one copy passes a layer, and both meet again; the first and third have the same options
STREAMS = ((("in",), ("a",)), (("a",), ("b", "c")), (("b",), ("d",)), (("c", "d"), ("e",)), (("e",), ("out",)))
WIDTHS = (4, 8, 12, 32)


def price_of(used):
    return sum(used[name] / BOARD.resources[name] * (2 if name == "LUT" else 1) for name in RESOURCES)


def random_groups(seed, *, num_options=5):
    """Five groups with one split and one join; each option needs much of one resource."""
    from nash_hw.fold.options import Group, Option, undominated

    random = np.random.default_rng(seed)
    groups = []
    for number, (inputs, outputs) in enumerate(STREAMS):
        options = []
        for cycles in sorted(random.integers(1, 9, num_options)):
            used = {name: float(random.integers(0, 4)) for name in RESOURCES}
            much = ("LUT", "BRAM_18K", "URAM", "DSP")[random.integers(4)]
            used[much] += round(BOARD.resources[much] * random.uniform(1, 3) / (4 + cycles))
            price = price_of(used)
            widths = random.choice(WIDTHS, 2)
            options.append(
                Option(
                    settings=((),),
                    cycles=int(cycles),
                    resources=used,
                    price=price,
                    stream_bits=(*[int(widths[0])] * len(inputs), *[int(widths[1])] * len(outputs)),
                )
            )
        priced = undominated(options, by_cycles=True, by_streams=True) if number != 2 else groups[0].options
        groups.append(
            Group(
                names=(f"layer{number}",),
                source=f"layer{number}",
                options=priced,
                inputs=tuple(inputs),
                outputs=tuple(outputs),
            )
        )
    return groups


def brute_force(groups, part):
    """Return (cycles, price) of every choice within a part of the board.

    Every stream has a FIFO of five words at its reader, and where its ends differ a converter with a FIFO before it.
    """
    from nash_hw.estimate.streams import converter_figures, fifo_figures

    fifos = {width: fifo_figures(width, 5, BOARD.fpga_part).resources for width in WIDTHS}
    between = {
        (a, b): [fifos[b]] if a == b else [fifos[a], converter_figures(a, b).resources, fifos[b]]
        for a, b in itertools.product(WIDTHS, repeat=2)
    }
    found = []
    for options in itertools.product(*(group.options for group in groups)):
        parts = [option.resources for option in options]
        for (_, outputs), writer in zip(STREAMS, options, strict=True):
            for (inputs, _), reader in zip(STREAMS, options, strict=True):
                for name in set(outputs) & set(inputs):
                    at_writer = writer.stream_bits[len(writer.stream_bits) - len(outputs) + outputs.index(name)]
                    parts += between[at_writer, reader.stream_bits[inputs.index(name)]]
        used = {name: sum(each[name] or 0 for each in parts) for name in RESOURCES}
        if all(used[name] <= part * BOARD.resources[name] for name in RESOURCES):
            price = price_of(used)
            found.append((max(option.cycles for option in options), price))
    return found


def space_of(groups, monkeypatch):
    from nash_hw.fold import folding
    from nash_hw.fold.fifos import Fifos

    monkeypatch.setattr(folding, "price_groups", lambda model, board, known: groups)
    no_fifos = Fifos(resources=dict.fromkeys(RESOURCES, 0.0), waiting_bits={})
    monkeypatch.setattr(folding, "fifos_of", lambda *_: no_fifos)
    return folding.FoldingSpace(SimpleNamespace(), BOARD)


@pytest.mark.usefixtures("finn")
@pytest.mark.parametrize("seed", SEEDS)
def test_cheapest_choice_within_limits_equals_brute_force(seed):
    from nash_hw.fold.choice import Chooser

    groups = random_groups(seed)
    chooser = Chooser(groups, BOARD)
    fastest = max(min(option.cycles for option in group.options) for group in groups)
    for part in (0.5, 0.7, 1.0, 3.0):
        fitting = brute_force(groups, part)
        for cycles in range(fastest, 9):
            prices = [price for other, price in fitting if other <= cycles]
            choice = chooser.within(cycles, {name: part * BOARD.resources[name] for name in RESOURCES})
            if not prices:
                assert choice.options is None
                assert choice.is_refuted
            else:
                assert price_of(chooser.used(choice.options)) == pytest.approx(min(prices), rel=1e-9)
                assert choice.gap == pytest.approx(0, abs=1e-9)
                assert all(option in group.options for group, option in zip(groups, choice.options, strict=True))


@pytest.mark.usefixtures("finn")
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
        fastest = min(cycles for cycles, _ in fitting)
        assert (folding.ii_cycles, folding.gap) == (fastest, 0)
        cheapest = min(price for cycles, price in fitting if cycles == fastest)
        price = price_of(folding.resources)
        assert cheapest * (1 - 1e-9) <= price <= cheapest * (1 + folding.price_gap + 1e-9)


@pytest.mark.usefixtures("finn")
def test_limits_and_converters_bind_in_the_random_cases():
    """Else the tests above would try nothing but the choice of each by itself."""
    from nash_hw.fold.choice import Chooser, fits

    limits = {name: 0.7 * BOARD.resources[name] for name in RESOURCES}
    solved = swayed = late = 0
    for seed in SEEDS:
        groups = random_groups(seed)
        chooser = Chooser(groups, BOARD)
        free = [group.cheapest(8) for group in groups]
        choice = chooser.within(8, limits)
        solved += not fits(chooser.used(free), limits) and choice.options is not None
        anywhere = chooser.within(8, {name: 9.0 * BOARD.resources[name] for name in RESOURCES})
        swayed += list(anywhere.options) != free
        fastest = max(group.options[0].cycles for group in groups)
        late += any(
            chooser.may_fit(cycles, limits) and chooser.within(cycles, limits).is_refuted
            for cycles in range(fastest, 9)
        )
    assert solved >= 2
    assert swayed >= 2
    assert late >= 1


@pytest.mark.usefixtures("finn")
def test_what_is_not_proven_is_a_gap(monkeypatch):
    """A solver that gives up: faster designs are neither found nor refuted."""
    from nash_hw.fold.choice import Choice, Chooser

    groups = random_groups(3)
    space = space_of(groups, monkeypatch)
    slowest = max(option.cycles for group in groups for option in group.options)
    within = Chooser.within

    def gives_up(self, max_cycles, limits, **given):
        return within(self, max_cycles, limits, **given) if max_cycles == slowest else Choice(options=None)

    monkeypatch.setattr(Chooser, "within", gives_up)
    monkeypatch.setattr(Chooser, "may_fit", lambda *_: True)
    folding = space.for_utilization(3.0)
    assert folding.gap == pytest.approx(slowest / space.fastest_cycles - 1)
    assert folding.gap > 0


def test_the_solver_prints_nothing(capfd, monkeypatch):
    """HiGHS writes with C's printf, which a pipe buffers; what was on stdout before and comes after stays."""
    import ctypes

    import scipy.optimize

    from nash_hw.fold import choice

    monkeypatch.setattr(scipy.optimize, "milp", lambda: ctypes.CDLL(None).puts(b"noise"))
    print("before")
    choice._milp()
    print("after", flush=True)
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"
