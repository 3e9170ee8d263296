"""A folding as FINN's own folding_config_file, and its application to a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph.model import Model, custom_op
from .options import as_hls, needs_hls
from .pools import Settings, separate_pools

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


def fold(model: Model, settings: Settings) -> tuple[Model, dict[str, Any]]:
    """Fold a specialized model; return it with the folding in the format of FINN's folding_config_file.

    A layer whose arithmetic lies in LUTs becomes the HLS one, a separated pool two. Then all layers get new names, as
    FINN numbers each kind of them for itself; the configuration has the new ones.
    """
    from qonnx.transformation.general import GiveUniqueNodeNames

    settings = separate_pools(model, settings)
    before = []
    for node in model.graph.node:
        before.append(node.name)
        if needs_hls(node, settings[node.name]):
            node.CopyFrom(as_hls(node))
    model = model.transform(GiveUniqueNodeNames())
    renamed = {node.name: settings[name] for name, node in zip(before, model.graph.node, strict=True)}
    config = to_finn_config(model, renamed)
    return apply_finn_config(model, config), config


def set_fifo_depths(model: Model, config: dict[str, Any], depths: Sequence[int]) -> None:
    """Write how deep the FIFO of each stream between layers is into a folded model and its configuration.

    FINN makes a FIFO as deep as its reader's inFIFODepths say, or its writer's outFIFODepths, which stay at 2
    (finn/transformation/fpgadataflow/insert_fifo.py). `depths` are in the order of the layers and their inputs.
    """
    left = iter(depths)
    for node in model.graph.node:
        wanted = [next(left) for name in node.input if model.find_producer(name) is not None]
        if wanted:
            custom_op(node).set_nodeattr("inFIFODepths", wanted)
            config[node.name]["inFIFODepths"] = wanted


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
