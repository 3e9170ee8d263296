"""What is simulated: the layers of a build, the streams between them, and the width converters FINN puts there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..base import manifest
from ..base.errors import IntegrityError, UsageError
from ..estimate.facts import facts_of
from ..graph.model import Model, custom_op
from ..handover.hdl import FOLDER as HDL_FOLDER
from ..handover.hdl import HASHES
from .modules import Module, converter_module, hls_module, rtl_module
from .repair import without_name

SOURCE, SINK = 0, 1  # the ends of the accelerator are the first two layers
MIN_DEPTH = 2  # what FINN gives every stream; such a FIFO holds five words (finn-rtllib/fifo/hdl/fifo.sv)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer or converter; the two ends have no module."""

    name: str
    module: Module | None
    memories: Mapping[str, Path]  # the files it reads when it starts, by the name it reads them with
    cycles: int = 0  # of a frame, by FINN


@dataclass(frozen=True, kw_only=True)
class Hop:
    """A stream from a port to a port."""

    source: int
    source_port: int
    target: int
    target_port: int
    bits: int
    words: int  # a frame


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A tensor on its way from layer to layer, at the width it is read with: there its FIFO is."""

    producer: str
    consumer: str
    port: int  # of the consumer
    hop: int
    bits: int
    words: int
    depth: int  # of the FIFO as it is written


@dataclass(frozen=True, kw_only=True)
class Design:
    """A whole accelerator."""

    name: str
    manifest: dict[str, Any]
    model: Model
    layers: tuple[Layer, ...]
    hops: tuple[Hop, ...]
    streams: tuple[Stream, ...]

    @property
    def input_hop(self) -> Hop:
        return next(hop for hop in self.hops if hop.source == SOURCE)

    @property
    def output_hop(self) -> Hop:
        return next(hop for hop in self.hops if hop.target == SINK)

    @property
    def modules(self) -> list[Module]:
        return [layer.module for layer in self.layers if layer.module is not None]


def read_design(folder: Path) -> Design:
    """Read what `nash-hw build --until hdl` wrote; FINN must be contained (`finn_env`).

    Raises:
        UsageError: the build has no RTL.
        IntegrityError: a file is not the one that was written.
        UnsupportedError: there is no model of a layer.
    """
    path = folder / "hardware.json"
    content = manifest.load(path, "hardware")
    if "hdl" not in content:
        raise UsageError(f"{path}: has no RTL to simulate; build it with --until hdl")
    graph = _checked(path, content)
    return make_design(content, Model(onnx.load(str(graph))), folder / HDL_FOLDER)


def make_design(content: dict[str, Any], model: Model, hdl: Path) -> Design:
    """Return the design of a folded model whose sources lie in `hdl`; `content` is its hardware.json.

    Raises:
        UnsupportedError: there is no model of a layer.
    """
    return _Designer(content, model, hdl).design()


def _checked(path: Path, content: Mapping[str, Any]) -> Path:
    """Return the dataflow graph after checking it and every file in hdl/."""
    found = {artifact["role"]: artifact for artifact in content["artifacts"] if artifact["role"] in ("dataflow", "hdl")}
    for role in ("dataflow", "hdl"):
        if role not in found:
            raise IntegrityError(f"{path}: artifacts: names no file of the role {role}; build it anew")
    graph, hashes = (manifest.resolve(path, found[role]["path"], found[role]["sha256"]) for role in ("dataflow", "hdl"))
    folder = hashes.parent
    listed = dict(reversed(line.split("  ", 1)) for line in hashes.read_text("utf-8").splitlines())
    for name, sha256 in listed.items():
        manifest.resolve(hashes, name, sha256)
    extra = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - set(listed) - {HASHES}
    if extra:
        raise IntegrityError(f"{folder / min(extra)}: is not in {HASHES}; remove it, or build anew")
    return graph


class _Designer:
    def __init__(self, content: dict[str, Any], model: Model, hdl: Path) -> None:
        self._content, self._model, self._hdl = content, model, hdl
        self._nodes = list(model.graph.node)
        self._instances = {node.name: custom_op(node) for node in self._nodes}
        self._numbers = {node.name: 2 + i for i, node in enumerate(self._nodes)}
        self._rtl = {layer["name"]: layer for layer in content["hdl"]["rtl"]}
        simulated = (content.get("simulated") or {}).get("fifos", ())
        self._written = {(one["consumer"], one["input"]): one.get("written_depth") for one in simulated}
        self._fifos = [stream for stream in content.get("streams", ()) if stream["kind"] == "fifo"]
        ends = (Layer(name=name, module=None, memories={}) for name in ("input", "output"))
        self._layers: list[Layer] = [*ends, *(self._layer(node) for node in self._nodes)]
        self._hops: list[Hop] = []
        self._streams: list[Stream] = []

    def design(self) -> Design:
        model = self._model
        entry, leave = model.graph.input[0].name, model.graph.output[0].name
        for node in self._nodes:
            for port, name in enumerate(node.input):
                if name == entry:
                    self._add_end(SOURCE, node, port)
                elif model.find_producer(name) is not None:
                    self._add(model.find_producer(name), node, port, name)
        self._add_end(SINK, model.find_producer(leave), 0)
        return Design(
            name=self._content["name"],
            manifest=self._content,
            model=model,
            layers=tuple(self._layers),
            hops=tuple(self._hops),
            streams=tuple(self._streams),
        )

    def _layer(self, node: onnx.NodeProto) -> Layer:
        instance = self._instances[node.name]
        if node.name in self._rtl:
            module = rtl_module(self._hdl, self._rtl[node.name], instance)
        else:
            fed = [name for name in node.input if name and self._model.get_initializer(name) is None]
            module = hls_module(node, instance, len(fed), facts_of(self._model, node, instance).factor)
        memories = {without_name(path.name, node.name): path for path in sorted((self._hdl / node.name).glob("*.dat"))}
        return Layer(name=node.name, module=module, memories=memories, cycles=int(instance.get_exp_cycles()))

    def _add_end(self, end: int, node: onnx.NodeProto, port: int) -> None:
        instance, number = self._instances[node.name], self._numbers[node.name]
        if end == SOURCE:
            bits, shape, ends = (
                instance.get_instream_width(port),
                instance.get_folded_input_shape(port),
                (end, 0, number, port),
            )
        else:
            bits, shape, ends = (
                instance.get_outstream_width(0),
                instance.get_folded_output_shape(0),
                (number, 0, end, 0),
            )
        self._add_hop(ends, bits, int(np.prod(shape[:-1])))

    def _add(self, producer: onnx.NodeProto, consumer: onnx.NodeProto, port: int, tensor: str) -> None:
        source, target = self._instances[producer.name], self._instances[consumer.name]
        out_port = list(producer.output).index(tensor)
        in_bits, out_bits = source.get_outstream_width(out_port), target.get_instream_width(port)
        words = int(np.prod(target.get_folded_input_shape(port)[:-1]))
        start, start_port = self._numbers[producer.name], out_port
        if in_bits != out_bits:
            sent = int(np.prod(source.get_folded_output_shape(out_port)[:-1]))
            number = len(self._layers)
            self._add_hop((start, start_port, number, 0), in_bits, sent)
            name = f"converter_{producer.name}_{out_port}"
            self._layers.append(
                Layer(name=name, module=converter_module(in_bits, out_bits), memories={}, cycles=max(sent, words))
            )
            start, start_port = number, 0
        self._streams.append(
            Stream(
                producer=producer.name,
                consumer=consumer.name,
                port=port,
                hop=len(self._hops),
                bits=out_bits,
                words=words,
                depth=self._written.get((consumer.name, port)) or self._depth(producer.name, consumer.name),
            )
        )
        self._add_hop((start, start_port, self._numbers[consumer.name], port), out_bits, words)

    def _add_hop(self, ends: tuple[int, int, int, int], bits: int, words: int) -> None:
        source, source_port, target, target_port = ends
        self._hops.append(
            Hop(source=source, source_port=source_port, target=target, target_port=target_port, bits=bits, words=words)
        )

    def _depth(self, producer: str, consumer: str) -> int:
        """Return the depth of the FIFO in hardware.json between two layers; several are in the order of the streams."""
        for fifo in self._fifos:
            if (fifo["producer"], fifo["consumer"]) == (producer, consumer):
                self._fifos.remove(fifo)
                return fifo["depth"]
        return MIN_DEPTH


def copy_memories(design: Design, folder: Path) -> dict[str, Path]:
    """Copy what layers read when they start, under the names they read it with; return the folder of each layer."""
    folders = {}
    for layer in design.layers:
        folders[layer.name] = folder / layer.name
        folders[layer.name].mkdir(parents=True, exist_ok=True)
        for name, path in layer.memories.items():
            shutil.copyfile(path, folders[layer.name] / name)
    return folders
