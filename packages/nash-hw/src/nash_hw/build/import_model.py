"""Write the model.json of a QONNX network that nash-qat did not make.

What a graph does not say is found or asked for: what one step of a pixel stands for (the scale of the input), by which
of the usual ones the network gives the outputs of golden.npz, and how the pictures lie in there. Outputs that are not
given are those of qonnx's own execution.

Shapes: pictures (N, C, H, W) uint8, logits (N, K) float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..base import atomic, binary_file, json_file, manifest
from ..base.errors import IntegrityError, ManifestError, NashError, UnsupportedError, UsageError
from ..base.quoting import brief
from ..finn.finn_env import contained_finn
from ..graph.model import attributes
from ..graph.qonnx_graph import direct_scale, load_onnx, widest_activation

LAYOUTS = ("NCHW", "NHWC")
_USUAL_SCALES = (1 / 255, 1 / 256, 1 / 128, 1.0)
_NUM_PICTURES = 8
_SAME_LOGITS = 1e-3  # of the largest: float32 sums in another order differ by less, another scale by more
_WHOLE = 1e-3  # how far from a whole number of steps a float picture may lie


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What to write and what is known; without `golden` the pictures are random."""

    out: Path
    golden: Path | None = None
    input_scale: float | None = None
    layout: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.out.suffix != ".json":
            problems.append(f"--out: got {self.out}, expected a file that ends in .json")
        if self.input_scale is not None and not 0 < self.input_scale < np.inf:
            problems.append(f"--input-scale: got {self.input_scale:g}, expected more than 0")
        if self.layout not in (None, *LAYOUTS):
            problems.append(f"--layout: got '{self.layout}', expected NCHW or NHWC")
        if problems:
            raise UsageError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class _Examples:
    """Pictures, the scale they were given in, and the logits of whoever made them, if known."""

    pictures: np.ndarray
    scale: float | None
    logits: np.ndarray | None


def import_model(path: Path, config: ImportConfig) -> dict[str, Any]:
    """Write the manifest of a QONNX network, and the graph and its examples beside it; return the manifest.

    Raises:
        UsageError: something has to be asked for.
        ManifestError: golden.npz is not this network's.
        UnsupportedError: the network has no exact integer form; the operation is named.
        VerificationError: it has one that gives other outputs.
    """
    source = _channels_first(load_onnx(path))
    shape = _input_shape(path, source)
    examples = _read_examples(config, shape)
    with contained_finn():
        reference = _Reference(source)
        scale, logits = _found_scale(path, config, examples, source, reference)
        record = _verified(source, scale, examples.pictures, logits)
    folder = config.out.resolve().parent
    origin = {"source": path.name, "sha256": manifest.file_sha256(path), "verification": record}
    graph, golden = (
        _unlike(folder / f"{config.out.stem}{suffix}", path, config.golden) for suffix in (".onnx", ".npz")
    )
    with atomic.atomic_paths(graph, golden) as (new_graph, new_golden):
        onnx.save(source, str(new_graph))
        with new_golden.open("wb") as file:
            np.savez_compressed(file, input=examples.pictures, output=logits.astype(np.float32))
        files = {
            role: manifest.artifact_record(new, folder, role) | {"path": path.name}
            for role, new, path in (("onnx", new_graph, graph), ("golden", new_golden, golden))
        }
        written = manifest.header("model", artifacts=files.values()) | {
            "name": config.name or path.stem,
            "genotype": None,
            "onnx": _named(files["onnx"]) | {"format": "qonnx", "opset": _opset(source)},
            "golden": _named(files["golden"]) | {"num_samples": len(examples.pictures)},
            "input": {"shape": list(shape), "layout": "NCHW", "dtype": "uint8", "scale": scale},
            "class_names": None,
            "quantization": {"act_bits": widest_activation(source)},
            "import": origin,
        }
        manifest.save(config.out, written, "model")  # the files it names take their places next
    return written


def _unlike(path: Path, *given: Path | None) -> Path:
    """Return a path to write that is none of the files that were given."""
    taken = {one.resolve() for one in given if one is not None}
    return path.with_stem(f"{path.stem}.imported") if path.resolve() in taken else path


def _named(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("path", "sha256")}


def _opset(source: onnx.ModelProto) -> int:
    return next(entry.version for entry in source.opset_import if entry.domain in ("", "ai.onnx"))


def _channels_first(source: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network for one picture in NCHW, without a transposition of the input that makes it so."""
    constants = {entry.name for entry in source.graph.initializer}
    entry = next((entry for entry in source.graph.input if entry.name not in constants), None)
    if entry is None:
        return source
    dims = entry.type.tensor_type.shape.dim
    if len(dims) and (dims[0].dim_value < 1):
        dims[0].ClearField("dim_param")
        dims[0].dim_value = 1
    readers = [node for node in source.graph.node if entry.name in node.input]
    if len(readers) != 1 or readers[0].op_type != "Transpose" or attributes(readers[0]).get("perm") != [0, 3, 1, 2]:
        return source
    sizes = [dim.dim_value for dim in dims]
    entry.CopyFrom(
        helper.make_tensor_value_info(readers[0].output[0], onnx.TensorProto.FLOAT, [sizes[i] for i in (0, 3, 1, 2)])
    )
    source.graph.node.remove(readers[0])
    return source


def _input_shape(path: Path, source: onnx.ModelProto) -> tuple[int, ...]:
    constants = {entry.name for entry in source.graph.initializer}
    shapes = [
        tuple(dim.dim_value for dim in entry.type.tensor_type.shape.dim)
        for entry in source.graph.input
        if entry.name not in constants
    ]
    if len(shapes) != 1 or len(shapes[0]) != 4 or min(shapes[0]) < 1 or shapes[0][0] != 1:
        raise ManifestError(
            f"{path}: got inputs of shape {', '.join(str(list(shape)) for shape in shapes) or 'none'}, expected one "
            "picture, [1, C, H, W]; export the network for one picture of a fixed size"
        )
    return shapes[0]


def _read_examples(config: ImportConfig, shape: tuple[int, ...]) -> _Examples:
    if config.golden is None:
        pictures = np.random.default_rng(0).integers(0, 256, (_NUM_PICTURES, *shape[1:]), dtype=np.uint8)
        return _Examples(pictures=pictures, scale=None, logits=None)
    path = config.golden
    try:
        arrays = binary_file.arrays(path, "input", optional=("output",))
    except json_file.Unreadable as error:
        raise IntegrityError(
            f"{path}: not a .npz with an array 'input' ({error}); write it with numpy.savez"
        ) from error
    pictures, logits = arrays["input"], arrays.get("output")
    pictures = _first_channels(path, config, np.asarray(pictures), shape)
    scale = None
    if pictures.dtype != np.uint8:
        scale, pictures = _as_bytes(path, config, pictures)
    if logits is not None:
        logits = np.asarray(logits, np.float64).reshape(len(logits), -1)
        if len(logits) != len(pictures) or not np.isfinite(logits).all():
            raise ManifestError(f"{path}: output: got {list(logits.shape)}, expected {len(pictures)} rows of logits")
    return _Examples(pictures=np.ascontiguousarray(pictures), scale=scale, logits=logits)


def _first_channels(path: Path, config: ImportConfig, pictures: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pictures in NCHW."""
    _, channels, height, width = shape
    expected = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}
    fitting = [layout for layout, size in expected.items() if pictures.ndim == 4 and pictures.shape[1:] == size]
    if config.layout is not None:
        fitting = [layout for layout in fitting if layout == config.layout]
    if not fitting or not len(pictures):
        raise ManifestError(
            f"{path}: input: got shape {list(pictures.shape)}, expected [N, {channels}, {height}, {width}] or "
            f"[N, {height}, {width}, {channels}] as the network takes it"
        )
    if len(fitting) > 1 and channels > 1:
        raise UsageError(
            f"--layout: {path} has pictures of {list(pictures.shape[1:])}, which fits both; pass NCHW or NHWC"
        )
    return pictures if fitting[0] == "NCHW" else pictures.transpose(0, 3, 1, 2)


def _as_bytes(path: Path, config: ImportConfig, pictures: np.ndarray) -> tuple[float, np.ndarray]:
    """Return pictures given as real numbers as bytes, and what one step of these stands for."""
    for scale in (config.input_scale,) if config.input_scale is not None else _USUAL_SCALES:
        steps = pictures.astype(np.float64) / scale
        whole = np.round(steps)
        if np.abs(steps - whole).max() <= _WHOLE and whole.min() >= 0 and whole.max() <= 255:
            return scale, whole.astype(np.uint8)
    raise ManifestError(
        f"{path}: input: got {pictures.dtype} from {pictures.min():g} to {pictures.max():g}, expected bytes, or whole "
        "multiples of 1/255, of 1/256, 1/128, 1 or of --input-scale up to 255; the accelerator takes bytes"
    )


class _Reference:
    """Executes a network with qonnx."""

    def __init__(self, source: onnx.ModelProto) -> None:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.util.cleanup import cleanup_model

        self._model = cleanup_model(ModelWrapper(source, make_deepcopy=True))

    def logits(self, pictures: np.ndarray, scale: float) -> np.ndarray:
        """Return the outputs (N, K) for pictures, float64.

        Raises:
            UnsupportedError: qonnx does not execute it.
        """
        from qonnx.core.onnx_exec import execute_onnx

        source, target = self._model.graph.input[0].name, self._model.graph.output[0].name
        real = pictures.astype(np.float32) * np.float32(scale)
        try:
            outputs = [execute_onnx(self._model, {source: picture[None]})[target] for picture in real]
        except NashError:
            raise
        except Exception as error:  # qonnx, onnx and onnxruntime each raise their own
            reason = brief(" ".join(str(error).split()), 160, is_text=True)
            raise UnsupportedError(
                f"qonnx cannot execute the network to compare with ({reason}); export it with the shapes of all tensors"
            ) from error
        return np.stack([output.reshape(-1) for output in outputs]).astype(np.float64)


def _found_scale(
    path: Path, config: ImportConfig, examples: _Examples, source: onnx.ModelProto, reference: _Reference
) -> tuple[float, np.ndarray]:
    """Return the scale of the input and the logits of the pictures."""
    tried = list(dict.fromkeys(_scales(config, examples, source)))
    if examples.logits is None:
        if not tried:
            raise UsageError(
                f"--input-scale: {path} does not say what a pixel of 1 stands for; pass 0.00392156862745098 (1/255) if "
                "the network takes pictures from 0 to 1, or the outputs of some pictures in --golden"
            )
        return tried[0], reference.logits(examples.pictures, tried[0])
    given = examples.logits
    for scale in tried or _USUAL_SCALES:
        first = reference.logits(examples.pictures[:1], scale)
        if first.shape[1] != given.shape[1]:
            raise ManifestError(
                f"{config.golden}: output: got {given.shape[1]} logits, expected {first.shape[1]} as {path} gives"
            )
        if np.abs(first - given[:1]).max() <= _SAME_LOGITS * np.abs(given).max():
            return scale, given
    shown = ", ".join(f"{scale:.6g}" for scale in tried or _USUAL_SCALES)
    raise ManifestError(
        f"{config.golden}: output: not what {path} gives for the pictures at an input scale of {shown}; pass the scale "
        "they were made with as --input-scale, or leave 'output' out"
    )


def _scales(config: ImportConfig, examples: _Examples, source: onnx.ModelProto) -> Iterator[float]:
    if config.input_scale is not None:
        yield config.input_scale
        return
    if examples.scale is not None:
        yield examples.scale
        return
    own = direct_scale(source.graph)
    if own is not None:
        yield own
        if examples.logits is not None:
            yield from _USUAL_SCALES


def _verified(source: onnx.ModelProto, scale: float, pictures: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """Return the record of the integer form's execution, held against the logits."""
    from ..graph.streamline import streamline
    from ..verify.verify import Golden, Verifier

    model, dequantization = streamline(source, input_scale=scale)
    golden = Golden(pictures=pictures[:_NUM_PICTURES], logits=logits[:_NUM_PICTURES])
    verifier = Verifier(golden, dequantization, act_bits=widest_activation(source))
    return verifier.check("streamlined", model).as_dict()
