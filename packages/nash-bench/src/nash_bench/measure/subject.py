"""What is evaluated: the network of a model manifest, or any ONNX classifier.

Shapes: an input is (C, H, W); golden pixels (N, C, H, W) uint8, golden logits (N, K) float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..base import binary_file, json_file, manifest
from ..base.errors import DataError, IntegrityError, ManifestError, UnsupportedError, UsageError
from ..data import datasets as data
from ..records.facts import Accuracy, Identity
from .convert import read_onnx

_PIXEL_SCALE = 1 / 255


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to be evaluated, and what is known of it."""

    path: Path
    source: dict[str, Any]
    identity: Identity
    network: onnx.ModelProto
    scale: float
    shape: tuple[int, int, int]
    golden: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None
    model: dict[str, Any] | None = None
    normalization: dict[str, list[float]] | None = None

    def float_top1(self, accuracy: Accuracy) -> float | None:
        """Return the float network's accuracy that the manifest reports, if it is of the same pictures."""
        reported = None if self.model is None else self.model["accuracy"]
        if reported is None or (reported["dataset"], reported["split"], reported["num_samples"]) != accuracy.key:
            return None
        return reported.get("float_top1")


def load_subject(path: Path, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Subject:
    """Read a model manifest with its network, or an ONNX file (.onnx).

    `mean` and `std` are for an ONNX file alone: what its pixels, from 0 to 1, are normalized with, a value a channel.

    Raises:
        ManifestError: the manifest is malformed, or disagrees with its network.
        IntegrityError: a file has changed or is damaged.
        UnsupportedError: the ONNX file is no classifier of pictures.
        UsageError: `mean` or `std` do not fit the network.
    """
    if path.suffix == ".onnx":
        return _load_onnx(path, mean, std)
    if mean is not None or std is not None:
        raise UsageError(f"--mean, --std: {path} says itself how its pixels are scaled; leave them out")
    model = manifest.load(path, "model")
    source = manifest.input_record(path, model)
    return Subject(
        path=path,
        source=source,
        identity=Identity.from_model(model, source["sha256"]),
        network=_load_network(path, model),
        scale=model["input"]["scale"],
        shape=tuple(model["input"]["shape"][1:]),
        golden=_load_golden(path, model),
        model=model,
    )


def _load_onnx(path: Path, mean: Sequence[float] | None, std: Sequence[float] | None) -> Subject:
    sha256 = manifest.file_sha256(path)
    network = read_onnx(path)
    tensor = _only_input(network).type.tensor_type
    shape = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(shape) != 4 or shape[1] not in (1, 3) or not all(shape[1:]):
        raise UnsupportedError(
            f"{path}: input: got shape {shape}, expected float (N, C, H, W) with 1 or 3 channels and a fixed size; "
            "export it so"
        )
    tensor.shape.dim[0].dim_value = 1  # qonnx executes graphs of fixed shapes; the runtime frees it
    num_params = sum(int(np.prod(weight.dims)) for weight in network.graph.initializer)
    normalization = None
    if mean is not None or std is not None:
        normalization = {"mean": list(mean or [0.0]), "std": list(std or [1.0])}
        _normalize(path, network, normalization, shape[1])
    return Subject(
        path=path,
        source={"path": path.name, "sha256": sha256, "schema": None},
        identity=Identity(name=path.stem, model_sha256=sha256, num_params=num_params),
        network=network,
        scale=_PIXEL_SCALE,
        shape=(shape[1], shape[2], shape[3]),
        normalization=normalization,
    )


def _only_input(network: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in network.graph.initializer}
    return next(value for value in network.graph.input if value.name not in weights)


def _normalize(path: Path, network: onnx.ModelProto, by: dict[str, list[float]], channels: int) -> None:
    """Put (x - mean) / std before the first node of a graph."""
    graph, source = network.graph, _only_input(network).name
    operands = []
    for key, values in by.items():
        is_divisor = key == "std"
        if len(values) not in (1, channels) or not np.isfinite(values).all() or (is_divisor and min(values) <= 0):
            raise UsageError(f"--{key}: got {values}, expected 1 or {channels} values as {path} has channels")
        operands.append(f"nash_bench--{key}")
        graph.initializer.append(
            numpy_helper.from_array(np.array(values, dtype=np.float32).reshape(1, -1, 1, 1), operands[-1])
        )
    target = "nash_bench--normalized"
    for node in graph.node:
        node.input[:] = [target if name == source else name for name in node.input]
    graph.node.insert(0, helper.make_node("Sub", [source, operands[0]], [f"{target}--shifted"]))
    graph.node.insert(1, helper.make_node("Div", [f"{target}--shifted", operands[1]], [target]))


def _load_network(path: Path, model: dict[str, Any]) -> Any:
    onnx_path = manifest.resolve(path, model["onnx"]["path"], model["onnx"]["sha256"])
    network = read_onnx(onnx_path)
    shape = [dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim]
    if shape[1:] != model["input"]["shape"][1:]:
        raise ManifestError(
            f"{path}: input.shape: got {model['input']['shape']}, expected {shape} as in {onnx_path.name}; export anew"
        )
    return network


def _load_golden(path: Path, model: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    golden_path = manifest.resolve(path, model["golden"]["path"], model["golden"]["sha256"])
    try:
        arrays = binary_file.arrays(golden_path, "input", "output")
    except json_file.Unreadable as error:
        raise IntegrityError(f"{golden_path}: not a readable golden file ({error}); export it anew") from error
    pixels, logits = arrays["input"], arrays["output"]
    expected = tuple(model["input"]["shape"][1:])
    if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
        got = f"{pixels.dtype} {pixels.shape}"
        raise IntegrityError(f"{golden_path}: input: got {got}, expected uint8 (N, {expected}); export it anew")
    if logits.ndim != 2 or len(logits) != len(pixels) or not np.isfinite(logits).all():
        raise IntegrityError(
            f"{golden_path}: output: got shape {logits.shape}, expected finite logits of {len(pixels)} pictures; "
            "export it anew"
        )
    return pixels, logits


def load_split(subject: Subject, dataset: str, data_dir: Path | None) -> data.Split:
    """Return the test split of a dataset, prepared for a network.

    Raises:
        UsageError: an unknown dataset, or one that needs a folder.
        ManifestError: the model manifest asks for another preparation than that of its size.
        DataError: the dataset is missing or has other classes.
    """
    channels, height, width = subject.shape
    preprocessing = data.Preprocessing(channels=channels, height=height, width=width)
    split = data.load(dataset, "test", preprocessing, data_dir=data_dir)
    if subject.model is not None:
        _require_described(subject.path, subject.model, preprocessing, split)
    return split


def _require_described(path: Path, model: dict[str, Any], preprocessing: data.Preprocessing, split: data.Split) -> None:
    """Check that a split is prepared as a model manifest describes its input, and has its classes."""
    described = model["input"]
    height, width = preprocessing.height, preprocessing.width
    for key, expected in (("resize", preprocessing.resize), ("crop", [height, width])):
        if described[key] != expected:
            raise ManifestError(
                f"{path}: input.{key}: got {described[key]}, expected {expected} for {height}x{width} pictures; "
                "export the model anew"
            )
    num_classes, class_names = model["genotype"]["copy"]["num_classes"], model["class_names"]
    if len(split.class_names) != num_classes:
        raise DataError(
            f"{path}: num_classes: got {num_classes}, expected {len(split.class_names)} as {split.name} has; "
            "pass the dataset that the model was trained on"
        )
    if class_names is not None and len(class_names) != num_classes:
        raise ManifestError(f"{path}: class_names: got {len(class_names)} names, expected {num_classes}; export anew")
    if class_names is not None and tuple(class_names) != split.class_names:
        index = next(k for k, name in enumerate(split.class_names) if name != class_names[k])
        raise DataError(
            f"{path}: class_names[{index}]: got '{class_names[index]}', expected '{split.class_names[index]}' "
            f"as {split.name} has; pass the dataset that the model was trained on"
        )
