"""Small QONNX networks and manifests, made by hand: what the other packages write, without them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nash_bench.measure.execute import Reference

QONNX = "qonnx.custom_op.general"
OPERATIONS = ("conv_3x3", "max_pool_3x3", "skip_connect", "conv_5x5", "conv_1x1")


class Network:
    """Builds a graph operator by operator; each method returns the name of its output."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self._shape = shape
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self._initializers)}"
        array = np.asarray(value)
        array = array if array.dtype == np.int64 else array.astype(np.float32)
        self._initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        made = helper.make_node(op_type, list(inputs), [name], name=f"{op_type}_{name}", domain=domain, **attributes)
        self._nodes.append(made)
        return name

    def quant(
        self,
        x: str,
        scale: Any,
        bits: float,
        *,
        zero_point: float = 0,
        signed: int = 1,
        narrow: int = 0,
        rounding_mode: str = "ROUND",
    ) -> str:
        constants = (self.constant(scale), self.constant(zero_point), self.constant(bits))
        kind = {"signed": signed, "narrow": narrow, "rounding_mode": rounding_mode}
        return self.node("Quant", x, *constants, domain=QONNX, **kind)

    def bipolar(self, x: str, scale: Any) -> str:
        return self.node("BipolarQuant", x, self.constant(scale), domain=QONNX)

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5)

    def conv(self, x: str, weight: str, kernel: int, stride: int = 1) -> str:
        pads = [kernel // 2] * 4
        return self.node("Conv", x, weight, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def batch_norm(self, x: str, channels: int) -> str:
        values = [self.rng.uniform(0.5, 1.5, channels), self.rng.normal(size=channels) * 0.1]
        values += [self.rng.normal(size=channels) * 0.1, self.rng.uniform(0.5, 1.5, channels)]
        return self.node("BatchNormalization", x, *(self.constant(value) for value in values))

    def model(self, output: str, num_classes: int, *, opset: int = 13) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, (1, num_classes))],
            self._initializers,
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def digits_network(
    *, weight_bits: int = 4, act_bits: int = 4, width: int = 4, side: int = 8, num_classes: int = 10, seed: int = 0
) -> onnx.ModelProto:
    """Return two layers: one joined by a pooled, concatenated state, one by a binary 5x5 convolution."""
    net = Network((1, 1, side, side), seed)
    x = net.quant("x", 1 / 255, 8, signed=0)
    stem = net.conv(x, _weights(net, 8, width, 1, 3, 3), 3)
    act_scale = 3.0021 / (2**act_bits - 1)  # no simple ratio to the joins': a tie is decided by float32's noise
    state = net.quant(net.node("Relu", net.batch_norm(stem, width)), act_scale, act_bits, signed=0)

    layer = net.conv(state, _weights(net, weight_bits, 2 * width, width, 3, 3), 3, stride=2)
    layer = net.batch_norm(layer, 2 * width)
    pooled = net.node("MaxPool", state, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    pooled = net.batch_norm(net.node("Concat", pooled, pooled, axis=1), 2 * width)
    joined = net.node("Add", net.quant(layer, 0.05, 8, narrow=1), net.quant(pooled, 0.05, 8, narrow=1))
    state = net.quant(net.node("Relu", joined), act_scale, act_bits, signed=0)

    binary = net.bipolar(net.weight(2 * width, 2 * width, 5, 5), 0.1)
    nas = net.batch_norm(net.conv(state, binary, 5), 2 * width)
    joined = net.node("Add", net.quant(state, 0.05, 8, narrow=1), net.quant(nas, 0.05, 8, narrow=1))
    state = net.quant(net.node("Relu", joined), act_scale, act_bits, signed=0)

    features = net.quant(net.node("GlobalAveragePool", state), 0.1, max(4, act_bits), signed=0)
    head = net.quant(net.weight(2 * width, num_classes), 0.02, 8, narrow=1)
    return net.model(net.node("MatMul", net.node("Flatten", features, axis=1), head), num_classes)


def _weights(net: Network, bits: int, *shape: int) -> str:
    if bits == 1:
        return net.bipolar(net.weight(*shape), 0.1)
    scale = net.rng.uniform(0.5, 1, (shape[0], 1, 1, 1)) / 2 ** (bits - 1)
    return net.quant(net.weight(*shape), scale, bits, narrow=1)


def genotype(
    *,
    backbone: str | None = "resnet18",
    variant: str | None = None,
    width: int = 4,
    num_cells: int = 2,
    num_classes: int = 10,
    side: int = 8,
    search: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a genotype manifest of four-layer cells; a variant gives each layer a NAS operation.

    search: what it says of its search; by default that one was there where the variant is.
    """
    cells = []
    for cell in range(num_cells):
        channels = width * 2**cell
        layers = []
        for layer in range(1, 5):
            op = OPERATIONS[(cell + layer) % len(OPERATIONS)]
            layers.append(
                {
                    "kernel": 3,
                    "channels": channels,
                    "stride": 2 if layer == 1 and cell else 1,
                    "groups": 1,
                    "residual_from": layer - 2 if layer % 2 == 0 else None,
                    "projection": layer == 2,
                    "nas_op": None
                    if variant is None
                    else {"op": op, "input": (layer * cell + layer - 1) % layer, "probability": 0.5},
                }
            )
        cells.append({"in_channels": max(width, channels // 2), "layers": layers})
    return {
        "schema": "nash.genotype/1.0",
        "created_by": {"package": "nash-search", "version": "0.1.0"},
        "inputs": [],
        "artifacts": [],
        "name": "-".join(filter(None, (backbone, variant))) or "network",
        "backbone": backbone,
        "variant": variant,
        "num_classes": num_classes,
        "input": {"channels": 1, "height": side, "width": side},
        "stem": {"channels": width, "kernel": 3, "stride": 1, "max_pool": False},
        "search": ({"gradient": "swap"} if variant else None) if search is None else search,
        "cells": cells,
        "head": {"pool": "global_avg"},
    }


ACCURACY = {"dataset": "digits", "split": "test", "num_samples": 360, "top1": 90.0, "top5": 99.0, "float_top1": None}


def write_model(
    folder: Path,
    *,
    name: str = "resnet18-w4a4",
    network: onnx.ModelProto | None = None,
    accuracy: dict[str, Any] | None = ACCURACY,
    preset: str = "w4a4",
    seed: int = 0,
    has_files: bool = True,
    **genotype_options: Any,
) -> Path:
    """Write a model manifest as nash-qat does, with its network and golden outputs; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = genotype(**genotype_options)
    side = copy["input"]["height"]
    weight_bits, act_bits = int(preset[1]), int(preset[3])
    if has_files:
        network = network or digits_network(weight_bits=weight_bits, act_bits=act_bits, side=side, seed=seed)
        onnx.save(network, folder / "model.onnx")
        pixels = np.random.default_rng(1).integers(0, 256, (8, 1, side, side)).astype(np.uint8)
        np.savez(folder / "golden.npz", input=pixels, output=Reference(network, scale=1 / 255)(pixels))
    num_params = 1000 + 200 * (copy["variant"] is not None)
    return write_json(
        folder / "model.json",
        {
            "schema": "nash.model/1.0",
            "created_by": {"package": "nash-qat", "version": "0.1.0"},
            "inputs": [],
            "artifacts": [],
            "name": name,
            "genotype": {"sha256": "0" * 64, "copy": copy},
            "onnx": {"path": "model.onnx", "sha256": _sha256(folder / "model.onnx"), "format": "qonnx", "opset": 13},
            "golden": {"path": "golden.npz", "sha256": _sha256(folder / "golden.npz"), "num_samples": 8},
            "input": {
                "shape": [1, 1, side, side],
                "layout": "NCHW",
                "dtype": "uint8",
                "scale": 1 / 255,
                "resize": side,
                "crop": [side, side],
            },
            "class_names": None,
            "quantization": {
                "preset": preset,
                "weight_bits": weight_bits,
                "nas_weight_bits": weight_bits,
                "act_bits": act_bits,
                "state_bits": act_bits,
                "join_bits": 8,
                "stem_weight_bits": 8,
                "projection_weight_bits": 8,
                "head_weight_bits": 8,
                "feature_bits": max(4, act_bits),
            },
            "accuracy": accuracy,
            "complexity": {"num_params": num_params, "macs": 90_000, "weight_bits": 4 * num_params, "bops": 1_440_000},
            "training": {"dataset": "digits", "recipe": "quick", "epochs": 3, "seed": seed, "seconds": 12.0},
        },
    )


def write_hardware(
    folder: Path,
    model_path: Path,
    *,
    board: str = "U250",
    clock_mhz: float = 200.0,
    throughput_fps: float = 1000.0,
    latency_us: float | None = 2500.0,
    resources: dict[str, float | None] | None = None,
    measured: dict[str, Any] | None = None,
    target_fps: float | None = 1000.0,
) -> Path:
    """Write a hardware manifest as nash-hw does, for the model at `model_path`; return its path."""
    used = {"LUT": 50_000, "FF": None, "BRAM_18K": 120, "URAM": 0, "DSP": 64} | (resources or {})
    totals = {"LUT": 1_728_000, "FF": 3_456_000, "BRAM_18K": 5376, "URAM": 1280, "DSP": 12_288}
    return write_json(
        folder / "hardware.json",
        {
            "schema": "nash.hardware/1.0",
            "created_by": {"package": "nash-hw", "version": "0.1.0"},
            "inputs": [],
            "artifacts": [],
            "name": "accelerator",
            "model": {"sha256": _sha256(model_path)},
            "toolchain": {"finn_plus": "1.6.1", "vivado": None},
            "board": board,
            "fpga_part": "xcu250-figd2104-2L-e",
            "clock_mhz": clock_mhz,
            "target": {"target_fps": target_fps, "max_utilization": 0.7 if target_fps is None else None},
            "folding": "folding.json",
            "estimated": {
                "throughput_fps": throughput_fps,
                "latency_us": latency_us,
                "ii_cycles": max(1, round(clock_mhz * 1e6 / throughput_fps)),
                "bottleneck": "MVAU_rtl_3",
                "resources": used,
                "not_counted": ["stream FIFOs"],
                "utilization": {k: None if used[k] is None else used[k] / totals[k] for k in totals},
            },
            "measured": measured,
            "layers": [],
            "verification": [],
        },
    )


Built = tuple[str | None, int, int, float, float | None]  # variant, width, seed, top-1, LUT


def write_networks(
    root: Path,
    networks: list[Built],
    *,
    accuracy: dict[str, Any] | None = None,
    resources: dict[str, float] | None = None,
    search: dict[str, Any] | None = None,
    **hardware: Any,
) -> list[Path]:
    """Write models with accelerators, each in a folder of its own; return the paths of the models."""
    paths = []
    for index, (variant, width, seed, top1, luts) in enumerate(networks):
        model = write_model(
            root / str(index) / "qat",
            name=f"net-{variant}",
            variant=variant,
            width=width,
            seed=seed,
            accuracy=ACCURACY | (accuracy or {}) | {"top1": top1},
            search=search,
            has_files=False,
        )
        write_hardware(root / str(index) / "hw", model, resources=(resources or {}) | {"LUT": luts}, **hardware)
        paths.append(model)
    return paths


def write_runs(root: Path) -> Path:
    """Write a baseline and a NASH network at two bit widths, built for one board; return the folder."""
    accuracies = {(None, "w2a2"): 88.0, ("v3", "w2a2"): 90.0, (None, "w4a4"): 94.0, ("v3", "w4a4"): 95.5}
    for seed, ((variant, preset), top1) in enumerate(accuracies.items()):
        name = "-".join(filter(None, ("resnet18", variant, preset)))
        model = write_model(
            root / name / "qat",
            name=name,
            variant=variant,
            preset=preset,
            seed=seed,
            accuracy=ACCURACY | {"top1": top1},
            has_files=False,
        )
        luts = int(preset[1]) * 10_000 + (1_500 if variant else 0)
        write_hardware(root / name / "hw", model, resources={"LUT": luts, "DSP": None if variant else 8})
    return root


def write_json(path: Path, value: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


def change_json(path: Path, **changes: Any) -> Path:
    """Replace keys of a manifest."""
    return write_json(path, json.loads(path.read_text("utf-8")) | changes)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
