"""All foldings of a layer, priced, and those worth taking.

Most resources are what FINN's own layer answers; settings.py says which foldings there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import onnx

from ..boards.board import RESOURCES, Board
from ..estimate.actors import cycles_of
from ..estimate.estimate import layer_figures, layer_source, sum_known
from ..estimate.facts import NO_FACTS, Facts, facts_of
from ..estimate.streams import LEAST_DEPTH, fifo_figures
from ..graph.model import FINN_DOMAIN, Model, custom_op
from ..graph.steps import is_layer
from .pools import SEPARATED, is_separable, separated, separated_settings
from .settings import Values, folded_attributes, settings_of

_MAX_HLS_BITS = 8191  # the widest ap_int Vitis HLS takes (finn.util.basic.MAX_ALLOWED_AP_INT_W)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One folding of a group of layers."""

    settings: tuple[tuple[tuple[str, int | str], ...], ...]  # for each layer of the group
    cycles: int
    resources: Mapping[str, float | None]
    price: float
    stream_bits: tuple[int, ...] = ()  # the widths of the group's streams, in their order


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that can only be folded together, and their foldings worth taking, the fastest first."""

    names: tuple[str, ...]
    source: str  # the operation of the network they belong to
    options: tuple[Option, ...]
    inputs: tuple[str, ...] = ()  # the streams: those it reads, then those it writes
    outputs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.names[-1]} ({self.source})"

    def cheapest(self, max_cycles: int) -> Option | None:
        """Return the cheapest folding of at most that many cycles, None if there is none."""
        fast_enough = (option for option in self.options if option.cycles <= max_cycles)
        return min(fast_enough, key=lambda option: option.price, default=None)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    node: onnx.NodeProto
    instance: Any
    facts: Facts


def price_groups(model: Model, board: Board, known: dict[str, tuple[Option, ...]] | None = None) -> list[Group]:
    """Price every folding that a board can hold; layers that differ in nothing but their weights are priced once.

    A layer that no folding fits on the board keeps all of them. `known` keeps prices for other models of the board.
    """
    priced = {} if known is None else known
    groups = []
    for nodes in _group_nodes(model):
        layers = [_copy(model, node) for node in nodes]
        inputs, outputs = _streams(model, nodes)
        key = json.dumps(
            [[layer.node.op_type, repr(layer.facts), *sorted(map(str, layer.node.attribute))] for layer in layers]
        )
        if key not in priced:
            found = [*_options(layers, inputs, outputs, board), *_separated_options(layers, board)]
            options = sorted(found, key=lambda option: option.cycles)
            fitting = [option for option in options if _fits_alone(option, board)]
            priced[key] = undominated(fitting or options, by_cycles=True, by_streams=True)
        groups.append(
            Group(
                names=tuple(node.name for node in nodes),
                source=layer_source(model, nodes[-1]),
                options=priced[key],
                inputs=inputs,
                outputs=outputs,
            )
        )
    return groups


def as_hls(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the HLS form of a specialized layer, with the same attributes as far as it has them."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.op_type, result.domain = f"{node.op_type[:-4]}_hls", f"{FINN_DOMAIN}.hls"
    known = custom_op(result).get_nodeattr_types()
    del result.attribute[:]
    result.attribute.extend(attribute for attribute in node.attribute if attribute.name in known)
    return result


def needs_hls(node: onnx.NodeProto, values: Mapping[str, int | str]) -> bool:
    """Tell whether a layer with these settings has to be the HLS one: the RTL matrix-vector unit has only DSPs."""
    return node.op_type == "MVAU_rtl" and values.get("resType") == "lut"


def undominated(options: Sequence[Option], *, by_cycles: bool = False, by_streams: bool = False) -> tuple[Option, ...]:
    """Keep, in their order, the options that no other equals or beats in price and every resource.

    With `by_cycles` also in cycles, and with `by_streams` none but one whose streams are as wide.
    """
    figures = np.array(
        [
            [option.price, *(option.resources[name] or 0.0 for name in RESOURCES), option.cycles * by_cycles]
            for option in options
        ]
    )
    kept: dict[tuple[int, ...], list[int]] = {}
    for position in np.argsort(figures[:, 0], kind="stable"):
        rivals = kept.setdefault(options[position].stream_bits if by_streams else (), [])
        if not (figures[rivals] <= figures[position]).all(axis=1).any():
            rivals.append(int(position))
    return tuple(options[position] for position in sorted(chain.from_iterable(kept.values())))


def _group_nodes(model: Model) -> list[list[onnx.NodeProto]]:
    """Return the layers, each pool with the sliding window that feeds it: they must work on as many channels.

    So the stream between them is as wide at both ends.
    """
    groups, grouped = [], set()
    for node in model.graph.node:
        if is_layer(node, "Pool", "VVAU"):
            window = model.find_producer(node.input[0])
            if window is not None and is_layer(window, "ConvolutionInputGenerator"):
                groups.append([window, node])
                grouped.update((window.name, node.name))
    return groups + [[node] for node in model.graph.node if node.name not in grouped]


def _copy(model: Model, node: onnx.NodeProto) -> _Layer:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    instance = _remembering(custom_op(copy))
    return _Layer(node=copy, instance=instance, facts=facts_of(model, node, instance))


def _remembering(instance: Any) -> Any:
    """Let the object that knows a node keep the attributes it was asked for; it searches the node for each anew."""
    values: dict[str, Any] = {}
    read, write = instance.get_nodeattr, instance.set_nodeattr

    def get_nodeattr(name: str) -> Any:
        if name not in values:
            values[name] = read(name)
        return values[name]

    def set_nodeattr(name: str, value: Any) -> None:
        if values.get(name) != value:
            write(name, value)
            values.pop(name, None)

    instance.get_nodeattr, instance.set_nodeattr = get_nodeattr, set_nodeattr
    return instance


def _streams(model: Model, nodes: Sequence[onnx.NodeProto]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tensors that enter the first of the layers and leave the last, constants aside."""
    constants = {entry.name for entry in model.graph.initializer}
    return tuple(name for name in nodes[0].input if name not in constants), tuple(nodes[-1].output)


def _options(layers: Sequence[_Layer], inputs: Sequence[str], outputs: Sequence[str], board: Board) -> Iterator[Option]:
    """Yield the foldings, less those of a matrix-vector unit that is wider than one the board cannot hold."""
    twins = [_hls_twin(layer) for layer in layers]
    too_wide: list[Values] = []
    for settings in settings_of([layer.node for layer in layers], [layer.instance for layer in layers], board):
        if any(_is_wider(settings[0], other) for other in too_wide):
            continue
        built = [
            twin if twin is not None and needs_hls(layer.node, values) else layer
            for layer, twin, values in zip(layers, twins, settings, strict=True)
        ]
        for layer, values in zip(built, settings, strict=True):
            for name, value in values.items():
                layer.instance.set_nodeattr(name, value)
        if all(_is_buildable(layer) for layer in built):
            option = _option(built, settings, (len(inputs), len(outputs)), board)
            if is_layer(layers[0].node, "MVAU") and _outgrows(option, board):
                too_wide.append(settings[0])
            yield option


def _separated_options(layers: Sequence[_Layer], board: Board) -> Iterator[Option]:
    """Yield the foldings of a max-pool in two (pools.py); that it is stands in the settings of its window."""
    nodes = [layer.node for layer in layers]
    if len(nodes) < 2 or not is_separable(*nodes):
        return
    built = [_Layer(node=node, instance=_remembering(custom_op(node)), facts=NO_FACTS) for node in separated(*nodes)]
    for window, pool in settings_of(nodes, [layer.instance for layer in layers], board):
        settings = separated_settings(window, pool)
        for layer, values in zip(built, settings, strict=True):
            for name, value in values.items():
                layer.instance.set_nodeattr(name, value)
        if all(_is_buildable(layer) for layer in built):
            of_group = (tuple((window | {SEPARATED: 1}).items()), tuple(pool.items()))
            yield replace(_option(built, settings, (1, 1), board), settings=of_group)


def _outgrows(option: Option, board: Board) -> bool:
    """Tell whether the arithmetic of a matrix-vector unit, of DSPs or of LUTs, is more than a board has."""
    values = dict(option.settings[0])
    if values["ram_style"] == "distributed":
        return False  # its LUTs hold the weights, too
    resource = "DSP" if values["resType"] == "dsp" else "LUT"
    return (option.resources[resource] or 0.0) > board.resources[resource]


def _is_wider(values: Values, other: Values) -> bool:
    return values["resType"] == other["resType"] and values["PE"] >= other["PE"] and values["SIMD"] >= other["SIMD"]


def _hls_twin(layer: _Layer) -> _Layer | None:
    """Return the HLS form of an RTL matrix-vector unit."""
    if layer.node.op_type != "MVAU_rtl":
        return None
    node = as_hls(layer.node)
    return replace(layer, node=node, instance=_remembering(custom_op(node)))


def _option(layers: Sequence[_Layer], settings: Sequence[Values], num_streams: tuple[int, int], board: Board) -> Option:
    instances = [layer.instance for layer in layers]
    figures = [layer_figures(layer.node, layer.instance, board.fpga_part, layer.facts).resources for layer in layers]
    figures += [
        fifo_figures(int(reader.get_instream_width(0)), LEAST_DEPTH, board.fpga_part).resources
        for reader in instances[1:]  # the streams inside the group
    ]
    resources = {name: sum_known(each[name] for each in figures) for name in RESOURCES}
    return Option(
        settings=tuple(tuple(values.items()) for values in settings),
        cycles=max(cycles_of(layer.node, layer.instance) for layer in layers),
        resources=resources,
        price=price_of(resources, board) + _price_of_width(instances),
        stream_bits=(
            *(int(instances[0].get_instream_width(position)) for position in range(num_streams[0])),
            *(int(instances[-1].get_outstream_width(position)) for position in range(num_streams[1])),
        ),
    )


def _fits_alone(option: Option, board: Board) -> bool:
    return all((option.resources[name] or 0.0) <= board.resources[name] for name in RESOURCES)


def price_of(resources: Mapping[str, float | None], board: Board) -> float:
    """Return the parts of the board that resources take, each weighed with its price, summed."""
    prices = unit_prices(board)
    return sum((resources[name] or 0.0) * prices[name] for name in RESOURCES)


def unit_prices(board: Board) -> dict[str, float]:
    """Return the price of one of each resource."""
    return {name: board.price[name] / max(board.resources[name], 1) for name in RESOURCES}


def _price_of_width(instances: Sequence[Any]) -> float:
    """Where nobody has a figure, parallelism itself is a small price: of two such foldings take the narrower."""
    return 1e-9 * sum(instance.get_nodeattr(name) for instance in instances for name in folded_attributes(instance))


def _is_buildable(layer: _Layer) -> bool:
    """Tell whether HLS can take the streams of a folding, and RTL keeps all of its words.

    FINN's RTL matrix-vector unit (mvu_vvu_axi.sv) has a queue for what is under way when its reader stops, short by one
    word where it makes a word in each cycle: then all that is in it is lost.
    """
    if not layer.node.op_type.endswith("_hls"):
        return not (is_layer(layer.node, "MVAU", "VVAU") and _makes_a_word_each_cycle(layer.instance))
    widths = [layer.instance.get_instream_width(), layer.instance.get_outstream_width()]
    if is_layer(layer.node, "MVAU"):
        widths.append(layer.instance.get_instream_width(1))
    return max(widths) <= _MAX_HLS_BITS


def _makes_a_word_each_cycle(instance: Any) -> bool:
    """Tell whether a matrix-vector or vector-vector unit multiplies a whole row at once."""
    get = instance.get_nodeattr
    length = get("MW") if "MW" in instance.get_nodeattr_types() else math.prod(get("Kernel"))
    return get("SIMD") == length
