"""All foldings of a layer, priced, and those worth taking.

The values PE and SIMD may take are the divisors of what they split, as in FINN's SetFolding
(finn/transformation/fpgadataflow/set_folding.py), and the weights of a matrix-vector unit lie in block RAM, in LUTs or
in UltraRAM; cycles and most resources are what FINN's own layer answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx

from .boards import RESOURCES, Board
from .estimate import has_narrow_weights, layer_figures, layer_source, sum_known
from .model import Model, custom_op
from .steps import is_layer

_MAX_HLS_BITS = 8191  # the widest ap_int Vitis HLS takes (finn.util.basic.MAX_ALLOWED_AP_INT_W)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One folding of a group of layers."""

    settings: tuple[tuple[tuple[str, int | str], ...], ...]  # for each layer of the group
    cycles: int
    resources: Mapping[str, float | None]
    price: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that can only be folded together, and their foldings worth taking, the fastest first."""

    names: tuple[str, ...]
    source: str  # the operation of the network they belong to
    options: tuple[Option, ...]

    @property
    def title(self) -> str:
        return f"{self.names[-1]} ({self.source})"

    def cheapest(self, max_cycles: int) -> Option | None:
        """Return the cheapest folding of at most that many cycles, None if there is none."""
        fast_enough = (option for option in self.options if option.cycles <= max_cycles)
        return min(fast_enough, key=lambda option: option.price, default=None)


def price_groups(model: Model, board: Board) -> list[Group]:
    """Price every folding; layers that differ in nothing but their weights' values are priced once."""
    priced: dict[str, tuple[Option, ...]] = {}
    groups = []
    for nodes in _group_nodes(model):
        instances = [custom_op(node) for node in nodes]
        narrow = [has_narrow_weights(model, node, instance) for node, instance in zip(nodes, instances, strict=True)]
        key = json.dumps([[node.op_type, *sorted(map(str, node.attribute))] for node in nodes]) + str(narrow)
        if key not in priced:
            options = sorted(_options(nodes, instances, narrow, board), key=lambda option: option.cycles)
            priced[key] = undominated(options, with_cycles=True)
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
    before = [deepcopy(list(node.attribute)) for node in nodes]
    for settings in _settings(nodes, instances, board):
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
    for node, attributes in zip(nodes, before, strict=True):
        del node.attribute[:]
        node.attribute.extend(attributes)


def _price(resources: Mapping[str, float | None], instances: Sequence[Any], board: Board) -> float:
    """Return the parts of the board that a folding takes, summed.

    Where FINN has no figure, parallelism itself is a small price: of two such foldings the narrower is the cheaper.
    """
    known = sum((resources[name] or 0.0) / max(board.resources[name], 1) for name in RESOURCES)
    width = sum(instance.get_nodeattr(name) for instance in instances for name in _folded_attributes(instance))
    return known + 1e-9 * width


def undominated(options: Sequence[Option], *, with_cycles: bool = False) -> tuple[Option, ...]:
    """Keep, in their order, the options that no other equals or beats in price and every resource (and in cycles)."""
    figures = np.array(
        [
            [option.price, *(option.resources[name] or 0.0 for name in RESOURCES), option.cycles * with_cycles]
            for option in options
        ]
    )
    kept: list[int] = []
    for position in np.argsort(figures[:, 0], kind="stable"):
        if not (figures[kept] <= figures[position]).all(axis=1).any():
            kept.append(int(position))
    return tuple(options[position] for position in sorted(kept))


def _is_buildable(node: onnx.NodeProto, instance: Any) -> bool:
    """Tell whether HLS can take the streams of a folding; RTL has no such limit."""
    if not node.op_type.endswith("_hls"):
        return True
    widths = [instance.get_instream_width(), instance.get_outstream_width()]
    if is_layer(node, "MVAU"):
        widths.append(instance.get_instream_width(1))
    return max(widths) <= _MAX_HLS_BITS


def _settings(
    nodes: Sequence[onnx.NodeProto], instances: Sequence[Any], board: Board
) -> Iterator[list[dict[str, int | str]]]:
    if len(nodes) == 2:  # a sliding window and the pool behind it
        for channels in _divisors(instances[1].get_nodeattr("Channels")):
            yield [{"SIMD": channels, "parallel_window": 0}, {"PE": channels}]
        return
    kind = nodes[0].op_type[:-4]
    memories = _weight_memories(board) if kind == "MVAU" else [{}]
    for values, memory in product(_LAYER_SETTINGS.get(kind, _pe_settings)(instances[0]), memories):
        yield [values | memory]


def _weight_memories(board: Board) -> list[dict[str, int | str]]:
    """Return where weights can lie on a board.

    UltraRAM of an UltraScale+ starts empty; FINN refuses it there unless the host can write the weights
    (finn/custom_op/fpgadataflow/matrixvectoractivation.py, generate_infra_hdl).
    """
    from finn.util.basic import is_versal

    styles = ["block", "distributed"] + (["ultra"] if board.resources["URAM"] else [])
    return [
        {
            "ram_style": style,
            "runtime_writeable_weights": int(style == "ultra" and not is_versal(board.fpga_part)),
        }
        for style in styles
    ]


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
