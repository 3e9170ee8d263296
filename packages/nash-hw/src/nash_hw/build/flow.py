"""The steps from a quantized network to its folded, verified dataflow graph, and what each hands to the next."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..base import manifest
from ..base.errors import ManifestError, VerificationError
from ..boards.board import Board
from ..fold.folding import Folding, FoldingSpace, fold
from ..graph.integers import Dequantization
from ..graph.model import Model

_NUM_SAMPLES = {"lowered": 1}  # the slowest stage to execute


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model.json and the files it names, whose hashes were checked."""

    path: Path
    manifest: dict[str, Any]
    onnx: Path
    golden: Path

    @staticmethod
    def read(path: Path) -> Source:
        """Read a model.json.

        Raises:
            ManifestError: it is malformed.
            IntegrityError: a file is missing or has another hash.
        """
        content = manifest.load(path, "model")
        graph, golden = (
            manifest.resolve(path, content[key]["path"], content[key]["sha256"]) for key in ("onnx", "golden")
        )
        return Source(path=path, manifest=content, onnx=graph, golden=golden)


@dataclass
class State:
    """What the steps hand on: a graph, and beside it what fits into a small JSON."""

    model: Model
    dequantization: Dequantization
    input_shape: tuple[int, ...]  # (1, C, H, W)
    done: list[dict[str, Any]] = field(default_factory=list)  # the finished steps and their seconds
    integers: np.ndarray | None = None  # (N, K), the outputs of the first stage that was executed
    verification: list[dict[str, Any]] = field(default_factory=list)
    folding: dict[str, Any] = field(default_factory=dict)  # in FINN's format
    limit: float = 1.0  # the part of each resource the folding was to stay within
    gap: float = 0.0
    price_gap: float = 0.0
    depth_price: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return all but the graph."""
        return {
            "done": self.done,
            "scale": self.dequantization.scale.tolist(),
            "bias": self.dequantization.bias.tolist(),
            "input_shape": list(self.input_shape),
            "integers": None if self.integers is None else self.integers.tolist(),
            "verification": self.verification,
            "folding": self.folding,
            "limit": self.limit,
            "gap": self.gap,
            "price_gap": self.price_gap,
            "depth_price": self.depth_price,
        }

    @staticmethod
    def load(content: dict[str, Any], graph: Path) -> State:
        """Return the state that was kept as JSON and ONNX."""
        integers = content["integers"]
        return State(
            model=Model(onnx.load(str(graph))),
            dequantization=Dequantization(scale=np.array(content["scale"]), bias=np.array(content["bias"])),
            input_shape=tuple(content["input_shape"]),
            done=content["done"],
            integers=None if integers is None else np.array(integers),
            verification=content["verification"],
            folding=content["folding"],
            limit=content["limit"],
            gap=content["gap"],
            price_gap=content["price_gap"],
            depth_price=content["depth_price"],
        )


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to fold to: a frame rate at a clock, or else a part of the board."""

    board: Board
    clock_mhz: float
    fps: float | None
    utilization: float | None
    is_balanced: bool = False  # of a frame rate: the fullest resource as little full as it can be, not the least price

    def frame_cycles(self, num_pixels: int) -> int:
        """Return the cycles of a frame to choose layers for; where the board decides, one pixel a cycle."""
        return num_pixels if self.fps is None else int(self.clock_mhz * 1e6 / self.fps)


class Flow:
    """The steps by name; each takes the state of the one before it."""

    NAMES = (
        "streamline",
        "verify streamlined",
        "lower",
        "verify lowered",
        "hardware layers",
        "verify hardware",
        "specialize",
        "fold",
        "verify folded",
    )

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target

    def run(self, name: str, state: State | None) -> State:
        """Take one step; the first needs no state. A verification leaves the graph as it is."""
        if state is None:
            return self._streamline()
        match name.split():
            case "verify", stage:
                self._verify(state, stage)
            case ["lower"]:
                self._lower(state)
            case "hardware", "layers":
                self._to_hardware(state)
            case ["specialize"]:
                self._specialize(state)
            case ["fold"]:
                self._fold(state)
        return state

    def _streamline(self) -> State:
        from ..graph.qonnx_graph import load_onnx
        from ..graph.streamline import streamline

        model, dequantization = streamline(
            load_onnx(self._source.onnx), input_scale=self._source.manifest["input"]["scale"]
        )
        shape = tuple(model.get_tensor_shape(model.graph.input[0].name))
        return State(model=model, dequantization=dequantization, input_shape=shape)

    def _verify(self, state: State, stage: str) -> None:
        from ..verify.verify import Verifier, load_golden

        verifier = Verifier(
            load_golden(self._source.golden, state.input_shape),
            state.dequantization,
            act_bits=_act_bits(self._source),
            integers=state.integers,
        )
        try:
            record = verifier.check(stage, state.model, _NUM_SAMPLES.get(stage))
        except VerificationError as error:
            self._check_input_scale(error)
            raise
        state.verification.append(record.as_dict())
        state.integers = verifier.integers

    def _check_input_scale(self, error: VerificationError) -> None:
        """Name the input's scale where the manifest has another than the graph's own quantizer of pixels."""
        from ..graph.qonnx_graph import direct_scale, load_onnx

        given, own = self._source.manifest["input"]["scale"], direct_scale(load_onnx(self._source.onnx).graph)
        if own is not None and not np.isclose(given, own, rtol=1e-6, atol=0):
            raise ManifestError(
                f"{self._source.path}: input.scale: got {given:.9g}, the quantizer of the input in "
                f"{self._source.onnx.name} has {own:.9g}, and golden.npz was made with another than {given:.9g}; "
                "write the scale its pictures were given in"
            ) from error

    def _lower(self, state: State) -> None:
        from ..graph.lower import lower

        state.model = lower(state.model)

    def _to_hardware(self, state: State) -> None:
        from ..fold.quantizers import infer_requants
        from ..graph.steps import to_hardware

        _, _, height, width = state.input_shape
        model = infer_requants(state.model, self._target.board, self._target.frame_cycles(height * width))
        state.model = to_hardware(model)

    def _specialize(self, state: State) -> None:
        from ..graph import steps

        model = steps.minimize_bit_widths(steps.partition(state.model))
        state.model = steps.specialize(model, self._target.board.fpga_part)

    def _fold(self, state: State) -> None:
        from ..fold.finn_config import set_fifo_depths
        from ..fold.partitions import check_partitions, order_operands
        from ..graph.steps import name_tensors

        folding = self._choose(FoldingSpace(state.model, self._target.board))
        model, state.folding = fold(state.model, folding.settings)
        state.model = name_tensors(model)
        set_fifo_depths(state.model, state.folding, folding.fifo_depths)
        order_operands(state.model, state.folding)
        check_partitions(state.model)
        state.limit, state.gap = folding.limit, folding.gap
        state.price_gap, state.depth_price = folding.price_gap, folding.depth_price

    def _choose(self, space: FoldingSpace) -> Folding:
        if self._target.utilization is None:
            choose = space.balanced if self._target.is_balanced else space.for_fps
            return choose(self._target.fps, self._target.clock_mhz)
        return space.for_utilization(self._target.utilization)


def _act_bits(source: Source) -> int:
    """Return the bits of a model's widest activation, joins and pooled features aside where the manifest tells them."""
    quantization = source.manifest.get("quantization", {})
    resolved = quantization.get("resolved", {})
    single = [bits for name, bits in resolved.items() if re.split(r"[._]", name)[-1] in ("act", "state")]
    single = single or [quantization[key] for key in ("act_bits", "state_bits") if key in quantization]
    if not single:
        from ..graph.qonnx_graph import load_onnx, widest_activation

        single = [widest_activation(load_onnx(source.onnx))]
    return max(single)
