"""Choose how much of each layer works in parallel (PE, SIMD), by price, exactly.

The accelerator is a pipeline: a frame leaves every II cycles, II being the cycles of its slowest layer. So the
layers are independent once II is given, and the cheapest design is the cheapest folding of each that takes at most
II cycles. All foldings of a layer are priced once; two questions then cost a look-up each: the cheapest design for a
frame rate, and the highest frame rate that fits a part of the board.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from .boards import RESOURCES, Board
from .errors import CapacityError
from .estimate import has_narrow_weights, layer_figures, layer_source, sum_known
from .model import Model, custom_op
from .steps import is_layer

_MAX_HLS_BITS = 8191  # the widest ap_int Vitis HLS takes (finn.util.basic.MAX_ALLOWED_AP_INT_W)
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
class Option:
    """One folding of a group of layers."""

    settings: tuple[tuple[tuple[str, int], ...], ...]  # for each layer of the group
    cycles: int
    resources: Mapping[str, float | None]
    price: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that can only be folded together, and their foldings worth taking: fewer cycles, higher price."""

    names: tuple[str, ...]
    source: str  # the operation of the network they belong to
    options: tuple[Option, ...]

    @property
    def title(self) -> str:
        return f"{self.names[-1]} ({self.source})"

    def cheapest(self, max_cycles: int) -> Option | None:
        """Return the cheapest folding of at most that many cycles, None if there is none."""
        position = bisect_right(self.options, max_cycles, key=lambda option: option.cycles)
        return self.options[position - 1] if position else None


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
        self._groups = _price_groups(model, board)

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


def _price_groups(model: Model, board: Board) -> list[Group]:
    """Price every folding; layers that differ in nothing but their weights' values are priced once."""
    priced: dict[str, tuple[Option, ...]] = {}
    groups = []
    for nodes in _group_nodes(model):
        instances = [custom_op(node) for node in nodes]
        narrow = [has_narrow_weights(model, node, instance) for node, instance in zip(nodes, instances, strict=True)]
        key = json.dumps([[node.op_type, *sorted(map(str, node.attribute))] for node in nodes]) + str(narrow)
        if key not in priced:
            options = _options(nodes, instances, narrow, board)
            priced[key] = _worth_taking(options)
        names = tuple(node.name for node in nodes)
        groups.append(Group(names=names, source=layer_source(model, nodes[-1]), options=priced[key]))
    return groups


def _group_nodes(model: Model) -> list[list[onnx.NodeProto]]:
    """Return the layers, each pool with the sliding window that feeds it: they must work on as many channels."""
    groups, grouped = [], set()
    for node in model.graph.node:
        if is_layer(node, "Pool", "VVAU"):
            window = model.find_producer(node.input[0])
            if window is not None and is_layer(window, "ConvolutionInputGenerator"):
                groups.append([window, node])
                grouped.update((window.name, node.name))
    return groups + [[node] for node in model.graph.node if node.name not in grouped]


def _options(
    nodes: Sequence[onnx.NodeProto], instances: Sequence[Any], narrow: Sequence[bool], board: Board
) -> Iterator[Option]:
    before = [{name: instance.get_nodeattr(name) for name in _folded_attributes(instance)} for instance in instances]
    for settings in _settings(nodes, instances):
        for instance, values in zip(instances, settings, strict=True):
            for name, value in values.items():
                instance.set_nodeattr(name, value)
        if not all(_is_buildable(node, instance) for node, instance in zip(nodes, instances, strict=True)):
            continue
        figures = [
            layer_figures(node, instance, board.fpga_part, narrow_weights=is_narrow).resources
            for node, instance, is_narrow in zip(nodes, instances, narrow, strict=True)
        ]
        resources = {name: sum_known(each[name] for each in figures) for name in RESOURCES}
        yield Option(
            settings=tuple(tuple(values.items()) for values in settings),
            cycles=max(int(instance.get_exp_cycles()) for instance in instances),
            resources=resources,
            price=_price(resources, instances, board),
        )
    for instance, values in zip(instances, before, strict=True):
        for name, value in values.items():
            instance.set_nodeattr(name, value)


def _price(resources: Mapping[str, float | None], instances: Sequence[Any], board: Board) -> float:
    """Return the parts of the board that a folding takes, summed.

    Where FINN has no figure, parallelism itself is a small price: of two such foldings the narrower is the cheaper.
    """
    known = sum((resources[name] or 0.0) / max(board.resources[name], 1) for name in RESOURCES)
    width = sum(instance.get_nodeattr(name) for instance in instances for name in _folded_attributes(instance))
    return known + 1e-9 * width


def _worth_taking(options: Iterator[Option]) -> tuple[Option, ...]:
    """Keep the options that no other beats in cycles and price, by rising cycles."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.cycles, option.price)):
        if not kept or option.price < kept[-1].price:
            kept.append(option)
    return tuple(kept)


def _is_buildable(node: onnx.NodeProto, instance: Any) -> bool:
    """Tell whether HLS can take the streams of a folding; RTL has no such limit."""
    if not node.op_type.endswith("_hls"):
        return True
    widths = [instance.get_instream_width(), instance.get_outstream_width()]
    if is_layer(node, "MVAU"):
        widths.append(instance.get_instream_width(1))
    return max(widths) <= _MAX_HLS_BITS


def _settings(nodes: Sequence[onnx.NodeProto], instances: Sequence[Any]) -> Iterator[list[dict[str, int]]]:
    if len(nodes) == 2:  # a sliding window and the pool behind it
        for channels in _divisors(instances[1].get_nodeattr("Channels")):
            yield [{"SIMD": channels, "parallel_window": 0}, {"PE": channels}]
        return
    kind = nodes[0].op_type[:-4]
    for values in _LAYER_SETTINGS.get(kind, _pe_settings)(instances[0]):
        yield [values]


def _mvau_settings(instance: Any) -> Iterator[dict[str, int]]:
    for pe in _divisors(instance.get_nodeattr("MH")):
        for simd in _divisors(instance.get_nodeattr("MW")):
            yield {"PE": pe, "SIMD": simd}


def _window_settings(instance: Any) -> Iterator[dict[str, int]]:
    channels = instance.get_nodeattr("IFMChannels")
    for simd in _divisors(channels):
        yield {"SIMD": simd, "parallel_window": 0}
    if "parallel_window" in instance.get_nodeattr_types():
        yield {"SIMD": channels, "parallel_window": 1}


def _simd_settings(instance: Any) -> Iterator[dict[str, int]]:
    for simd in _divisors(instance.get_nodeattr("NumChannels")):
        yield {"SIMD": simd}


def _concat_settings(instance: Any) -> Iterator[dict[str, int]]:
    streams = instance.get_nodeattr("ChannelsPerStream")
    for simd in _divisors(min(streams)):
        if all(channels % simd == 0 for channels in streams):
            yield {"SIMD": simd}


def _pe_settings(instance: Any) -> Iterator[dict[str, int]]:
    known = instance.get_nodeattr_types()
    channels = (
        instance.get_nodeattr("NumChannels") if "NumChannels" in known else instance.get_normal_output_shape()[-1]
    )
    for pe in _divisors(int(channels)):
        yield {"PE": pe}


_LAYER_SETTINGS: dict[str, Callable[[Any], Iterator[dict[str, int]]]] = {
    "MVAU": _mvau_settings,
    "ConvolutionInputGenerator": _window_settings,
    "FMPadding": _simd_settings,
    "StreamingConcat": _concat_settings,
}


def _folded_attributes(instance: Any) -> list[str]:
    return [name for name in ("PE", "SIMD", "parallel_window") if name in instance.get_nodeattr_types()]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
