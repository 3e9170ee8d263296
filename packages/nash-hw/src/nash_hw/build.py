"""Build an accelerator: from model.json to hardware.json, step by step, each step verified."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import manifest
from .boards import RESOURCES, Board, find_board
from .errors import OutputError, UnsupportedError, UsageError
from .estimate import NOT_COUNTED, Estimate, Layer, estimate, utilization
from .finn_env import contained_finn, finn_version, require_vivado, vivado_version
from .folding import Folding, FoldingSpace, fold
from .progress import Steps

DEFAULT_MAX_UTILIZATION = 0.7
STAGES = ("estimate", "hdl", "bitfile")
_STEPS = (
    "start FINN",
    "read the model",
    "streamline",
    "verify streamlined",
    "lower",
    "verify lowered",
    "hardware layers",
    "verify hardware",
    "specialize",
    "fold",
    "estimate",
    "verify folded",
    "write",
)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """What to build; give `target_fps` or `max_utilization`, or neither for the default utilization."""

    board: str
    clock_mhz: float
    out: Path
    target_fps: float | None = None
    max_utilization: float | None = None
    until: str = "estimate"
    quiet: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not 10 <= self.clock_mhz <= 1000:
            problems.append(f"--clock-mhz: got {self.clock_mhz:g}, expected 10..1000")
        if self.target_fps is not None and self.max_utilization is not None:
            problems.append("--target-fps and --max-utilization: got both, expected one")
        if self.target_fps is not None and not self.target_fps > 0:
            problems.append(f"--target-fps: got {self.target_fps:g}, expected more than 0")
        if self.max_utilization is not None and not 0 < self.max_utilization <= 1:
            problems.append(f"--max-utilization: got {self.max_utilization:g}, expected more than 0, at most 1")
        if self.until not in STAGES:
            problems.append(f"--until: got '{self.until}', expected one of {', '.join(STAGES)}")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def utilization_limit(self) -> float | None:
        """The part of the board to fill, None if a frame rate is asked for instead."""
        if self.target_fps is not None:
            return None
        return DEFAULT_MAX_UTILIZATION if self.max_utilization is None else self.max_utilization


def build(model_path: Path, config: BuildConfig) -> dict[str, Any]:
    """Build the accelerator of a model and return its hardware manifest.

    Raises:
        NashError: of the kind that tells what is wrong; then nothing is written.
    """
    finn_version()
    _refuse_unfinished(config.until)
    model_manifest = manifest.load(model_path, "model")
    onnx_path, golden_path = (
        manifest.resolve(model_path, model_manifest[key]["path"], model_manifest[key]["sha256"])
        for key in ("onnx", "golden")
    )
    with _staging(config.out) as folder, Steps(len(_STEPS), quiet=config.quiet) as steps:
        return _Build(model_path, model_manifest, config, steps).run(onnx_path, golden_path, folder)


def _refuse_unfinished(until: str) -> None:
    if until != "estimate":
        require_vivado(f"--until {until}")
        raise UnsupportedError(
            f"--until {until}: this release ends at estimates; give dataflow.onnx and folding.json to FINN's builder"
        )


class _Build:
    def __init__(self, path: Path, model_manifest: dict[str, Any], config: BuildConfig, steps: Steps) -> None:
        self._path = path
        self._manifest = model_manifest
        self._config = config
        self._step = steps.step
        self._steps = steps

    def run(self, onnx_path: Path, golden_path: Path, folder: Path) -> dict[str, Any]:
        with self._start() as version:
            board = find_board(self._config.board)
            self._convert(onnx_path, golden_path, board)
            return self._write(folder, board, version)

    @contextmanager
    def _start(self) -> Iterator[str]:
        with ExitStack() as stack:
            with self._step("start FINN"):
                version = stack.enter_context(contained_finn())
            yield version

    def _convert(self, onnx_path: Path, golden_path: Path, board: Board) -> None:
        from . import steps
        from .lower import lower
        from .qonnx_graph import load_onnx
        from .quantizers import infer_requants
        from .streamline import streamline
        from .verify import Verifier, load_golden

        bits = self._manifest["quantization"]
        with self._step("read the model"):
            source = load_onnx(onnx_path)
        with self._step("streamline"):
            model, self._dequantization = streamline(source)
            shape = tuple(model.get_tensor_shape(model.graph.input[0].name))
            golden = load_golden(golden_path, shape)
        verifier = Verifier(golden, self._dequantization, act_bits=max(bits["act_bits"], bits["state_bits"]))
        with self._step("verify streamlined"):
            verifier.check("streamlined", model)
        with self._step("lower"):
            model = lower(model)
        with self._step("verify lowered"):
            verifier.check("lowered", model, num_samples=1)
        with self._step("hardware layers"):
            model = steps.to_hardware(infer_requants(model, board, self._frame_cycles(shape)))
        with self._step("verify hardware"):
            verifier.check("hardware", model)
        with self._step("specialize"):
            model = steps.minimize_bit_widths(steps.partition(model))
            model = steps.specialize(model, board.fpga_part)
        with self._step("fold"):
            self._folding = self._fold(FoldingSpace(model, board))
            model, self._folding_config = fold(model, self._folding.settings)
        with self._step("estimate"):
            self._estimate = estimate(model, board)
        with self._step("verify folded"):
            verifier.check("folded", model)
        self._model, self._records = model, verifier.records

    def _frame_cycles(self, shape: tuple[int, ...]) -> int:
        """Return the cycles of a frame to choose layers for; where the board decides, one pixel a cycle."""
        if self._config.target_fps is None:
            return shape[2] * shape[3]
        return int(self._config.clock_mhz * 1e6 / self._config.target_fps)

    def _fold(self, space: FoldingSpace) -> Folding:
        limit = self._config.utilization_limit
        if limit is None:
            return space.for_fps(self._config.target_fps, self._config.clock_mhz)
        return space.for_utilization(limit)

    def _write(self, folder: Path, board: Board, version: str) -> dict[str, Any]:
        with self._step("write"):
            (folder / "folding.json").write_text(json.dumps(self._folding_config, indent=2) + "\n", "utf-8")
            _write_layers(folder / "layers.csv", self._estimate.layers)
            self._model.save(str(folder / "dataflow.onnx"))
        roles = {"folding.json": "folding", "layers.csv": "layers", "dataflow.onnx": "dataflow"}
        result = manifest.header(
            "hardware",
            inputs=[manifest.input_record(self._path, self._manifest)],
            artifacts=[manifest.artifact_record(folder / name, folder, role) for name, role in roles.items()],
        ) | self._describe(board, version)
        manifest.save(folder / "hardware.json", result, "hardware")
        _move_in(folder, self._config.out, (*roles, "hardware.json"))
        return result

    def _describe(self, board: Board, version: str) -> dict[str, Any]:
        config = self._config
        return {
            "name": self._manifest["name"],
            "model": {"sha256": manifest.file_sha256(self._path)},
            "toolchain": {"finn_plus": version, "vivado": vivado_version()},
            "board": board.name,
            "fpga_part": board.fpga_part,
            "clock_mhz": config.clock_mhz,
            "target": {
                "target_fps": config.target_fps,
                "max_utilization": config.utilization_limit,
                "gap": self._folding.gap,
                "price_gap": self._folding.price_gap,
            },
            "folding": "folding.json",
            "interface": self._interface(),
            "estimated": _estimated(self._estimate, board, config.clock_mhz),
            "measured": None,
            "layers": [_layer(layer) for layer in self._estimate.layers],
            "verification": [record.as_dict() for record in self._records],
            "steps": self._steps.seconds,
        }

    def _interface(self) -> dict[str, Any]:
        model = self._model
        source, target = model.graph.input[0].name, model.graph.output[0].name
        return {
            "input": {
                "datatype": model.get_tensor_datatype(source).name,
                "shape": model.get_tensor_shape(source),
                "layout": "NHWC",
            },
            "output": {
                "datatype": model.get_tensor_datatype(target).name,
                "shape": model.get_tensor_shape(target),
                "scale": self._dequantization.scale.tolist(),
                "bias": self._dequantization.bias.tolist(),
            },
        }


def _estimated(result: Estimate, board: Board, clock_mhz: float) -> dict[str, Any]:
    return {
        "throughput_fps": clock_mhz * 1e6 / result.ii_cycles,
        "latency_us": result.latency_cycles / clock_mhz,
        "ii_cycles": result.ii_cycles,
        "bottleneck": result.bottleneck,
        "resources": dict(result.resources),
        "utilization": utilization(result.resources, board),
        "num_unknown": dict(result.num_unknown),
        "not_counted": list(NOT_COUNTED),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op_type": layer.op_type,
        "backend": layer.backend,
        "source": layer.source,
        "cycles": layer.cycles,
        "PE": layer.pe,
        "SIMD": layer.simd,
        "resources": dict(layer.figures.resources),
        "origins": dict(layer.figures.origins),
    }


def _write_layers(path: Path, layers: tuple[Layer, ...]) -> None:
    """Write one line a layer; an unknown figure is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "op_type", "source", "cycles", "PE", "SIMD", *RESOURCES])
        for layer in layers:
            figures = [
                "" if layer.figures.resources[name] is None else layer.figures.resources[name] for name in RESOURCES
            ]
            settings = ["" if value is None else value for value in (layer.pe, layer.simd)]
            writer.writerow([layer.name, layer.op_type, layer.source, layer.cycles, *settings, *figures])


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, on the same disk, that is gone afterwards."""
    try:
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is a file, expected a folder; choose another --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    with staging as folder:
        try:
            yield Path(folder)
        except OSError as error:
            raise OutputError(f"{out}: cannot be written ({error.strerror}); nothing is changed") from error


def _move_in(folder: Path, out: Path, names: tuple[str, ...]) -> None:
    """Move finished files into `out`, the manifest last: what it names is there when it appears."""
    out.mkdir(exist_ok=True)
    for name in names:
        os.replace(folder / name, out / name)
