"""Price a search space: what its plain backbone takes at a frame rate, and what each candidate operation adds to it.

A candidate's surroundings (plain.py) go through the flow of `build` with the operation and without it, both folded the
cheapest way that reaches the rate; its resources are the difference. So are what waits in FIFOs for as long as the
operation reaches back, and the join of a layer that has none without it. Spaces of before they had their network are
priced beside a stand-in for one layer (fragment.py), and without a backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import onnx

from ..base import json_file, manifest
from ..base.errors import CapacityError, ManifestError, UsageError
from ..base.progress import Steps
from ..boards.board import RESOURCES, Board
from ..boards.boards import find_board
from ..boards.clocks import check_clock
from ..estimate.figures import sum_known
from ..finn.finn_env import contained_finn
from ..fold.options import Option
from .fragment import JOINS, OPERATION, Place, fragment
from .plain import PIXEL_BITS, Bits, Stretch, cells_of, part, refuse_newer, stretch, whole, widened
from .specialized import specialized

_BITS = range(1, 9)
_FIFOS = ("fifo", "converter_fifo")


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """What to price for."""

    board: str
    weight_bits: int
    act_bits: int
    target_fps: float
    clock_mhz: float = 200.0
    joins: str = "aligned"  # the kind that the network is to be trained with
    widths: tuple[int, ...] = ()  # of the plain backbone, beside the space's own
    quiet: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected {_BITS.start}..{_BITS.stop - 1}"
            for name in ("weight_bits", "act_bits")
            if getattr(self, name) not in _BITS
        ]
        if self.joins not in JOINS:
            problems.append(f"--joins: got '{self.joins}', expected one of {', '.join(JOINS)}")
        if not self.target_fps > 0:
            problems.append(f"--target-fps: got {self.target_fps:g}, expected more than 0")
        if not 10 <= self.clock_mhz <= 1000:
            problems.append(f"--clock-mhz: got {self.clock_mhz:g}, expected 10..1000")
        if min(self.widths, default=1) < 1:
            problems.append(f"--widths: got {min(self.widths)}, expected at least 1")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def max_cycles(self) -> int:
        """The cycles a frame may take."""
        return int(self.clock_mhz * 1e6 / self.target_fps)


@dataclass(frozen=True, kw_only=True)
class _Price:
    cycles: int
    resources: Mapping[str, float | None]
    fifos: Mapping[str, float | None]  # of these

    def less(self, other: _Price) -> _Price:
        """Return what this takes more than another."""
        return replace(self, resources=_more(self.resources, other.resources), fifos=_more(self.fifos, other.fifos))

    def as_json(self) -> dict[str, Any]:
        return {"cycles": self.cycles, "resources": dict(self.resources), "fifos": dict(self.fifos)}


def parse_widths(text: str) -> tuple[int, ...]:
    """Return the widths of `8,10,12`, each once, in ascending order.

    Raises:
        UsageError: one is not a whole number.

    >>> parse_widths("12,8,12")
    (8, 12)
    """
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f"--widths: got '{text}', expected whole numbers; write 8,10,12") from None


def price_space(space_path: Path, config: CostsConfig, out: Path) -> dict[str, Any]:
    """Price the candidates of a space.json and its plain backbone, write costs.json and return it.

    Raises:
        ManifestError: the space is malformed.
        UsageError: widths of a space that does not tell its network, or that have no whole number of channels.
        CapacityError: a candidate or a plain network does not reach the frame rate; it is named, with what it reaches.
    """
    space = manifest.load(space_path, "space")
    plain = _plain_networks(space_path, space, config)
    layers = [list(found) for _, found in groupby(enumerate(space["candidates"]), key=_place_of)]
    with Steps(len(plain) + len(layers), quiet=config.quiet) as steps, contained_finn():
        board = find_board(config.board)
        check_clock(board, config.clock_mhz)
        prices = _Prices(config, board, space.get("network"))
        whole_prices = {}
        for width, network in plain.items():
            with steps.step(f"the plain backbone at width {width}"):
                whole_prices[width] = {"width": width} | prices.of_network(network).as_json()
        candidates = []
        for found in layers:
            with steps.step("candidates of cells[{}].layers[{}]".format(*_place_of(found[0]))):
                candidates += [_priced(space_path, index, candidate, prices) for index, candidate in found]
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
    }
    if plain:
        own = space["network"]["stem"]["channels"]
        result |= {"backbone": whole_prices[own], "widths": [whole_prices[width] for width in config.widths]}
    result["candidates"] = candidates
    manifest.save(out, result, "costs")
    return result


def is_model(path: Path) -> bool:
    """Tell whether a file says of itself that it is a model manifest; whoever reads it checks the rest."""
    try:
        content = json_file.read(path)
    except json_file.Unreadable:
        return False
    return isinstance(content, dict) and str(content.get("schema")).startswith("nash.model/")


def _plain_networks(path: Path, space: Mapping[str, Any], config: CostsConfig) -> dict[int, Mapping[str, Any]]:
    """Return the plain networks to price, by width, the space's own first; none if the space does not tell it."""
    network = space.get("network")
    if network is None:
        if config.widths:
            raise UsageError(
                f"--widths: got {path}, which does not tell its network; write it anew with 'nash-search space'"
            )
        return {}
    refuse_newer(network, f"{path}: network")
    for index, candidate in enumerate(space["candidates"]):
        cells, cell, layer = network["cells"], candidate["cell"], candidate["layer"]
        if cell >= len(cells) or layer > len(cells[cell]["layers"]) or candidate["input"] >= layer:
            where = f"cell {cell}, layer {layer}, input {candidate['input']}"
            raise ManifestError(
                f"{path}: candidates[{index}]: got {where}, which its network lacks; write it anew with "
                "'nash-search space'"
            )
    return {width: widened(network, width) for width in (network["stem"]["channels"], *config.widths)}


def _place_of(found: tuple[int, Mapping[str, Any]]) -> tuple[int, int]:
    return found[1]["cell"], found[1]["layer"] - 1


def _priced(space_path: Path, index: int, candidate: Mapping[str, Any], prices: _Prices) -> dict[str, Any]:
    named = {key: candidate[key] for key in ("cell", "layer", "input", "op")}
    try:
        price = prices.of(candidate)
    except CapacityError as error:
        where = ", ".join(f"{key} {value}" for key, value in named.items())
        raise CapacityError(f"{space_path}: candidates[{index}] ({where}): {error}") from error
    return named | price.as_json()


class _Prices:
    """Prices of operations and of plain networks; parts that do not differ are folded once."""

    def __init__(self, config: CostsConfig, board: Board, network: Mapping[str, Any] | None) -> None:
        self._config, self._board = config, board
        self._cells = None if network is None else cells_of(network)
        self._bits = Bits(weight=config.weight_bits, act=config.act_bits)
        self._layers: dict[str, tuple[Option, ...]] = {}
        self._known: dict[Stretch | tuple[Place, str | None], _Price] = {}

    def of(self, candidate: Mapping[str, Any]) -> _Price:
        """Return what a candidate adds."""
        op = candidate["op"]
        if self._cells is None:
            return self._alone(candidate, op).less(self._alone(candidate, None))
        around, start = stretch(self._cells[candidate["cell"]], candidate["input"], candidate["layer"])
        with_op = self._among(around.with_operation(op, candidate["input"] - start))
        return with_op.less(self._among(around.with_operation(None, 0)))

    def of_network(self, network: Mapping[str, Any]) -> _Price:
        """Return what the accelerator of a network takes, and the cycles of its slowest layer."""
        try:
            return self._fold(whole(network, self._bits, self._config.joins), input_bits=PIXEL_BITS, begins="")
        except CapacityError as error:
            raise CapacityError(f"the plain backbone at width {network['stem']['channels']}: {error}") from error

    def _among(self, around: Stretch) -> _Price:
        if around not in self._known:
            source = part(around, self._bits, self._config.joins)
            self._known[around] = self._fold(source, input_bits=self._bits.act)
        return self._known[around]

    def _alone(self, candidate: Mapping[str, Any], op: str | None) -> _Price:
        """Return the price of a stand-in for a layer, with an operation or without."""
        has_weights = op not in (None, "max_pool_3x3")
        place = Place(
            in_channels=candidate["in_channels"],
            out_channels=candidate["out_channels"],
            stride=candidate["stride"],
            size=(candidate["input_height"], candidate["input_width"]),
            weight_bits=self._config.weight_bits if has_weights else _BITS.start,  # one price for all
            act_bits=self._config.act_bits,
        )
        if (place, op) not in self._known:
            source = fragment(place, op, self._config.joins)
            self._known[place, op] = self._fold(source, input_bits=place.act_bits)
        return self._known[place, op]

    def _fold(self, source: onnx.ModelProto, *, input_bits: int, begins: str = OPERATION) -> _Price:
        """Return the price of a network, and the cycles of the slowest layer whose name begins so."""
        from ..estimate.actors import cycles_of
        from ..estimate.estimate import layer_source
        from ..estimate.streams import fifo_depths, streams
        from ..fold.finn_config import set_fifo_depths
        from ..fold.folding import FoldingSpace, fold
        from ..graph.model import custom_op

        config, board = self._config, self._board
        model = specialized(source, board, config.max_cycles, input_bits=input_bits)
        folding = FoldingSpace(model, board, self._layers).for_fps(config.target_fps, config.clock_mhz)
        model, settings = fold(model, folding.settings)
        set_fifo_depths(model, settings, folding.fifo_depths)
        between = streams(model, fifo_depths(model) or {}, board.fpga_part)
        fifos = [stream.figures.resources for stream in between if stream.kind in _FIFOS]
        cycles = [
            cycles_of(node, custom_op(node))
            for node in model.graph.node
            if layer_source(model, node).startswith(begins)
        ]
        return _Price(
            cycles=max(cycles, default=0),
            resources=folding.resources,
            fifos={name: sum_known(part[name] for part in fifos) for name in RESOURCES},
        )


def _more(more: Mapping[str, float | None], less: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else max(0, value - (less[name] or 0)) for name, value in more.items()}


def summary(costs: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of what the plain backbone takes, and what the candidates of each operation add in the mean."""
    table = [["operation", "candidates", *(f"mean {name}" for name in RESOURCES)]]
    for op in dict.fromkeys(candidate["op"] for candidate in costs["candidates"]):
        found = [candidate["resources"] for candidate in costs["candidates"] if candidate["op"] == op]
        means = [_mean([resources[name] for resources in found]) for name in RESOURCES]
        table.append([op, str(len(found)), *means])
    for network in [costs["backbone"], *costs["widths"]] if "backbone" in costs else []:
        figures = [_mean([network["resources"][name]]) for name in RESOURCES]
        table.append([f"backbone, width {network['width']}", "", *figures])
    return table


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):,.1f}" if known else "unknown"
