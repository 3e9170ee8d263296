"""Published accelerators, rebuilt layer by layer as FINN builds them: thresholds in the HLS units, a label at the end.

Shapes and folding are the published ones (tests/data/synthesized.json says whose); constants have the range of their
datatype and no values, as no estimate reads them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from qonnx.core.datatype import DataType

from nash_hw.boards.board import RESOURCES
from nash_hw.boards.boards import find_board
from nash_hw.boards.shells import shell_of, with_shell
from nash_hw.estimate.actors import pace_of
from nash_hw.estimate.estimate import Layer, parts, restart_cycles
from nash_hw.estimate.schedule import Schedule
from nash_hw.estimate.streams import LEAST_DEPTH, Stream
from nash_hw.graph.model import FINN_DOMAIN, GraphBuilder, Model, range_datatype

BOARD = "RFSoC2x2"
STORED = Path(__file__).parent / "data" / "synthesized.json"


def converter_luts(in_width: int, out_width: int) -> float:
    """Return the LUTs of the converter these designs have, dwc.sv before vpc.sv: a shift register, loaded at once."""
    return 10.0 + (in_width + 2 * out_width if in_width > out_width else 2 * in_width)


def designs() -> list[dict[str, Any]]:
    """Return what is published of each design."""
    return json.loads(STORED.read_text())["designs"]


def others(kind: str) -> list[dict[str, Any]]:
    """Return what is published of designs "without_shell", or of single "layers"."""
    return json.loads(STORED.read_text())[kind]


class Chain:
    """A chain of FINN's layers; each method adds one and notes the shape (H, W, C) and datatype it gives."""

    def __init__(self, shape: Sequence[int], datatype: str, folding: Mapping[str, Mapping[str, Any]]) -> None:
        self._graph = GraphBuilder("published")
        self._folding = folding
        self._numbers: Counter[str] = Counter()
        self.shape, self.datatype = tuple(shape), DataType[datatype]
        self.tensor = self._graph.input("input", (1, *self.shape), self.datatype)

    def model(self) -> Model:
        """Return the finished graph, its nodes named as FINN names them."""
        self._graph.output(self.tensor)
        return self._graph.model()

    def thresholds(self, datatype: str, *, shared: bool = False) -> None:
        """Add RTL thresholds, on each channel of the last axis."""
        channels, target = self.shape[-1], DataType[datatype]
        source = self.datatype
        rows = 1 if shared else 2
        values = np.zeros((rows, target.get_num_possible_values() - 1))
        name = self._graph.constant(f"{self.tensor}_thresholds", values, source)
        self._layer(
            "Thresholding_rtl",
            [name],
            self.shape,
            target,
            NumChannels=channels,
            numSteps=target.get_num_possible_values() - 1,
            inputDataType=source.name,
            weightDataType=source.name,
            outputDataType=target.name,
            numInputVectors=[1, *self.shape[:-1]],
            ActVal=int(target.min()),
        )

    def pad(self, padding: Sequence[int]) -> None:
        """Add zeros around a map: top, left, bottom, right."""
        height, width, channels = self.shape
        top, left, bottom, right = padding
        shape = (height + top + bottom, width + left + right, channels)
        self._layer(
            "FMPadding_rtl",
            [],
            shape,
            self.datatype,
            ImgDim=[height, width],
            Padding=list(padding),
            NumChannels=channels,
            inputDataType=self.datatype.name,
        )

    def window(self, kernel: Sequence[int], stride: Sequence[int], *, depthwise: bool = False) -> None:
        """Add a sliding window."""
        height, width, channels = self.shape
        out = [(size - k) // s + 1 for size, k, s in zip((height, width), kernel, stride, strict=True)]
        self._layer(
            "ConvolutionInputGenerator_rtl",
            [],
            (*out, prod(kernel) * channels),
            self.datatype,
            ConvKernelDim=list(kernel),
            IFMChannels=channels,
            IFMDim=[height, width],
            OFMDim=out,
            Stride=list(stride),
            Dilation=[1, 1],
            inputDataType=self.datatype.name,
            outputDataType=self.datatype.name,
            depthwise=int(depthwise),
            is1D=int(width == 1),
        )

    def pool(
        self, kernel: Sequence[int], channels: int, function: str = "MaxPool", datatype: str | None = None
    ) -> None:
        """Add a pool behind its window."""
        target = self.datatype if datatype is None else DataType[datatype]
        accumulator = range_datatype(0, self.datatype.max() * prod(kernel))
        self._layer(
            "Pool_hls",
            [],
            (*self.shape[:-1], channels),
            target,
            Channels=channels,
            KernelSize=list(kernel),
            Function=function,
            OutImgDims=list(self.shape[:-1]),
            InputDataType=self.datatype.name,
            OutputDataType=target.name,
            AccumBits=accumulator.bitwidth() if function != "MaxPool" else 0,
            Size=prod(kernel),
        )

    def product(self, outputs: int, weights: str, activation: str | None = None, *, backend: str = "hls") -> None:
        """Add a matrix-vector unit, with the thresholds of an activation in it if there is one."""
        *vectors, inputs = self.shape
        kind = DataType[weights]
        is_xnor = weights == "BIPOLAR" and self.datatype.bitwidth() == 1
        largest = max(abs(self.datatype.min()), self.datatype.max()) * max(abs(kind.min()), kind.max())
        reach = inputs if is_xnor else 0.75 * inputs * largest  # as trained weights have both signs
        accumulator = range_datatype(0 if is_xnor else -reach, reach)
        target = accumulator if activation is None else DataType[activation]
        name = self._graph.constant(f"{self.tensor}_weights", np.full((1, 1), kind.min() + (kind.bitwidth() > 1)), kind)
        names = [name]
        if activation is not None:
            names.append(self._graph.constant(f"{self.tensor}_thresholds", np.zeros((1, 1)), accumulator))
        self._layer(
            f"MVAU_{backend}",
            names,
            (*vectors, outputs),
            target,
            MW=inputs,
            MH=outputs,
            inputDataType="BINARY" if is_xnor else self.datatype.name,
            weightDataType="BINARY" if is_xnor else kind.name,
            outputDataType=target.name,
            accDataType=accumulator.name,
            binaryXnorMode=int(is_xnor),
            noActivation=int(activation is None),
            numInputVectors=[1, *vectors],
            mem_mode="internal_decoupled",
        )

    def depthwise(self, channels: int, kernel: Sequence[int], weights: str) -> None:
        """Add a vector-vector unit in LUTs."""
        kind = DataType[weights]
        reach = 0.75 * prod(kernel) * self.datatype.max() * abs(kind.min())
        accumulator = range_datatype(-reach, reach)
        name = self._graph.constant(f"{self.tensor}_weights", np.full((1, 1), kind.min() + 1), kind)
        self._layer(
            "VVAU_hls",
            [name],
            (*self.shape[:-1], channels),
            accumulator,
            Dim=list(self.shape[:-1]),
            Channels=channels,
            Kernel=list(kernel),
            inputDataType=self.datatype.name,
            weightDataType=kind.name,
            outputDataType=accumulator.name,
            accDataType=accumulator.name,
            noActivation=1,
            mem_mode="internal_decoupled",
        )

    def label(self) -> None:
        """Add the choice of the largest."""
        labels = self.shape[-1]
        self._layer(
            "LabelSelect_hls",
            [],
            (*self.shape[:-1], 1),
            range_datatype(0, labels - 1),
            Labels=labels,
            K=1,
            inputDataType=self.datatype.name,
            outputDataType=range_datatype(0, labels - 1).name,
            numInputVectors=[1, *self.shape[:-1]],
        )

    def flatten(self) -> None:
        """Read the map as one vector."""
        self.shape = (prod(self.shape),)

    def _layer(self, op_type: str, constants: Sequence[str], shape: Sequence[int], datatype: Any, **given: Any) -> None:
        name = f"{op_type}_{self._numbers[op_type]}"
        self._numbers[op_type] += 1
        values = dict(self._folding.get(name, {}))
        if op_type == "VVAU_hls" and values.get("ram_style") == "auto":
            values["ram_style"] = "distributed"
        given |= values
        given.setdefault("PE" if op_type not in _BY_SIMD else "SIMD", 1)
        backend = op_type.rpartition("_")[2]
        self.tensor = self._graph.node(
            op_type,
            [self.tensor, *constants],
            (name, (1, *shape), datatype),
            domain=f"{FINN_DOMAIN}.{backend}",
            backend="fpgadataflow",
            **given,
        )
        self.shape, self.datatype = tuple(shape), datatype


_BY_SIMD = ("FMPadding_rtl", "ConvolutionInputGenerator_rtl")


def _cnv(chain: Chain, weights: str, activation: str, classes: int) -> None:
    """FINN's CNV: six 3x3 convolutions without padding, two pools, three linear layers."""
    chain.thresholds("INT8", shared=True)
    channels = 3
    for number, outputs in enumerate((64, 64, 128, 128, 256, 256)):
        chain.window((3, 3), (1, 1))
        chain.product(outputs, weights, activation)
        channels = outputs
        if number in (1, 3):
            chain.window((2, 2), (2, 2), depthwise=True)
            chain.pool((2, 2), channels)
    chain.flatten()
    for outputs in (512, 512):
        chain.product(outputs, weights, activation)
    chain.product(classes, weights)
    chain.label()


def _tfc(chain: Chain, weights: str, activation: str) -> None:
    """FINN's TFC: four linear layers of 64."""
    chain.shape = (28, 28)
    chain.thresholds("BINARY" if activation == "BINARY" else "INT2", shared=True)
    chain.flatten()
    for outputs in (64, 64, 64):
        chain.product(outputs, weights, activation)
    chain.product(10, weights)
    chain.label()


def _kws(chain: Chain) -> None:
    chain.thresholds("INT8", shared=True)
    for outputs in (256, 256, 256):
        chain.product(outputs, "INT3", "UINT3")
    chain.product(12, "INT3")
    chain.label()


def _cybsec(chain: Chain) -> None:
    for outputs in (64, 64, 64):
        chain.product(outputs, "INT2", "UINT2")
    chain.product(1, "INT2", "BINARY")


def _vgg10(chain: Chain) -> None:
    """Seven convolutions of 32 over time, each with a pool, and three linear layers, for radio signals."""
    for _ in range(7):
        chain.pad((1, 0, 1, 0))
        chain.window((3, 1), (1, 1))
        chain.product(32, "INT4", backend="rtl")
        chain.thresholds("UINT4")
        chain.window((2, 1), (2, 1), depthwise=True)
        chain.pool((2, 1), 32)
    chain.flatten()
    for outputs in (128, 128):
        chain.product(outputs, "INT4", backend="rtl")
        chain.thresholds("UINT4")
    chain.product(24, "INT4", backend="rtl")
    chain.label()


def _mobilenet(chain: Chain) -> None:
    """MobileNetV1 for pictures of 224 x 224; the first convolution has no padding."""
    chain.window((3, 3), (2, 2))
    chain.product(32, "INT8", backend="rtl")
    chain.thresholds("UINT4")
    channels = 32
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    widths = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for stride, outputs in zip(strides, widths, strict=True):
        chain.pad((1, 1, 1, 1))
        chain.window((3, 3), (stride, stride), depthwise=True)
        chain.depthwise(channels, (3, 3), "INT4")
        chain.thresholds("UINT4")
        chain.product(outputs, "INT4", backend="rtl")
        chain.thresholds("UINT4")
        channels = outputs
    chain.window((7, 7), (7, 7), depthwise=True)
    chain.pool((7, 7), channels, "QuantAvgPool", "UINT4")
    chain.product(1000, "INT4", backend="rtl")
    chain.label()


# what FINN's SetFolding gives for 100 cycles and weights of at most 80 bits a PE
_CYBSEC_FOLDING = {
    "MVAU_hls_0": {"PE": 16, "SIMD": 40},
    "MVAU_hls_1": {"PE": 2, "SIMD": 32},
    "MVAU_hls_2": {"PE": 2, "SIMD": 32},
    "MVAU_hls_3": {"PE": 1, "SIMD": 1},
}
# FINN stores weights of 1 bit in 2 wherever activations have more (MinimizeWeightBitWidth)
_CNV_BITS = {"w1a1": ("BIPOLAR", "BINARY"), "w1a2": ("INT2", "INT2"), "w2a2": ("INT2", "INT2")}


def published(design: Mapping[str, Any]) -> Model:
    """Return the specialized, folded graph of a published design."""
    network, bits = design["name"].rsplit("-", 1)
    folding = design["folding"] or _CYBSEC_FOLDING
    match network:
        case "cnv" | "gtsrb":
            chain = Chain((32, 32, 3), "UINT8", folding)
            _cnv(chain, *_CNV_BITS[bits], 10 if network == "cnv" else 44)
        case "tfc":
            chain = Chain((784,), "UINT8", folding)
            _tfc(chain, *_CNV_BITS[bits])
        case "kws":
            chain = Chain((490,), "INT8", folding)
            _kws(chain)
        case "cybsec":
            chain = Chain((600,), "BINARY", folding)
            _cybsec(chain)
        case "vgg10":
            chain = Chain((1024, 1, 2), "INT4", folding)
            _vgg10(chain)
        case _:
            chain = Chain((224, 224, 3), "UINT8", folding)
            _mobilenet(chain)
    return chain.model()


def parts_of(design: Mapping[str, Any]) -> tuple[tuple[Layer, ...], tuple[Stream, ...], int]:
    """Return the layers of a published design, what lies between them, and the cycles from frame to frame.

    FIFOs are as deep as published, else as the schedule asks for.
    """
    model, board = published(design), find_board(BOARD)
    cycles, _ = pace_of(model)
    given = iter(design.get("fifo_depths", ()))
    if (
        "fifo_depths" in design
    ):  # of all FIFOs in the order of the streams: at the input, before converters, behind them
        order = parts(model, board, defaultdict(lambda: 1))[1]
        deep = [(stream, next(given)) for stream in order if stream.depth is not None]
        depths = {stream.tensor: max(depth, LEAST_DEPTH) for stream, depth in deep if stream.kind == "fifo"}
    else:
        depths = Schedule(model).depths(cycles)
    layers, streams = parts(model, board, depths)
    return layers, streams, cycles + restart_cycles(layers, cycles)


def estimated(design: Mapping[str, Any], *, shell: bool = True) -> dict[str, float]:
    """Return the estimate of a published design, resources and cycles from frame to frame."""
    layers, streams, cycles = parts_of(design)
    resources = {name: sum(part.figures.resources[name] or 0.0 for part in (*layers, *streams)) for name in RESOURCES}
    for stream in streams:
        if stream.kind == "converter":
            own = converter_luts(stream.in_width, stream.out_width)
            resources["LUT"] += own - stream.figures.resources["LUT"]
    if shell:
        resources = with_shell(resources, shell_of(find_board(BOARD)))
    return resources | {"cycles": cycles}
