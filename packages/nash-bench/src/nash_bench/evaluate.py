"""Measure the accuracy and CPU throughput of a model manifest, after checking that its network computes what it should.

Shapes: pixels (N, C, H, W) uint8, logits (N, K) float32, labels (N,) int64.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from . import data, manifest
from .convert import read_onnx
from .errors import DataError, IntegrityError, ManifestError, UnsupportedError, VerificationError
from .execute import Reference, Runtime, num_available_cores
from .outcomes import Outcomes, save_benchmark
from .records import Accuracy, ClassAccuracy, Hardware, Identity, hardware_from_manifest
from .throughput import describe_environment, measure_latency, measure_throughput

_NOISE = 1e-4  # of the largest logit: what the order of float32 sums may change
_FLIP = 0.1  # of the logits' span: what values on a threshold, rounded to the other side, may change
_NUM_REFERENCE_SAMPLES = 4
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How the logits of two executions agree; a flip is a picture where a value on a threshold fell otherwise."""

    against: str
    num_samples: int
    num_flips: int
    max_abs_error: float


def evaluate(model_path: Path, **options: Any) -> dict[str, Any]:
    """Return the benchmark manifest of a model on the test split of a dataset, without writing it; see `measure`."""
    return measure(model_path, **options)[0]


def evaluate_to(out: Path, model_path: Path, **options: Any) -> dict[str, Any]:
    """Write the benchmark manifest of a model and its outcomes beside it, and return it; see `measure`.

    Raises:
        OutputError: a file cannot be written; none is left.
    """
    return save_benchmark(out, *measure(model_path, **options))


def measure(
    model_path: Path,
    *,
    dataset: str,
    data_dir: Path | None = None,
    hardware_path: Path | None = None,
    batch_size: int = 64,
    num_threads: int | None = None,
    num_repeats: int = 9,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Any], Outcomes]:
    """Return the benchmark manifest of a model on the test split of a dataset, and which pictures it got right.

    Raises:
        ManifestError: a manifest is malformed, or disagrees with its own network.
        IntegrityError: a file has changed or is damaged, or the hardware manifest is another model's.
        DataError: the dataset is missing, or does not fit the network.
        VerificationError: the network does not compute its golden outputs, or not what qonnx computes.
    """
    model = manifest.load(model_path, "model")
    inputs = [manifest.input_record(model_path, model)]
    sha256 = inputs[0]["sha256"]
    hardware = None
    if hardware_path is not None:
        built = manifest.load(hardware_path, "hardware")
        inputs.append(manifest.input_record(hardware_path, built))
        hardware = _hardware_of(built, hardware_path, sha256, model_path)

    network = _load_network(model_path, model)
    golden = _load_golden(model_path, model)
    runtime = _named(model_path, lambda: Runtime(network, scale=model["input"]["scale"], num_threads=num_threads))
    split = _load_split(model_path, model, dataset, data_dir)
    verification = [
        _check_golden(model_path, runtime, *golden),
        _check_reference(model_path, runtime, Reference(network, scale=model["input"]["scale"]), split),
    ]
    logits, pixels_sha256 = _run_all(runtime, split, batch_size, progress)
    accuracy = measure_accuracy(logits, split)
    rank = _ranks(logits, split)
    outcomes = Outcomes.of(split, pixels_sha256, top1=rank == 0, top5=None if accuracy.top5 is None else rank < 5)
    batch = split.images[np.arange(batch_size) % len(split)]
    cpu = measure_throughput(runtime, batch, num_threads=runtime.num_threads, num_repeats=num_repeats)
    cpu = replace(cpu, **measure_latency(runtime, batch[:1]))
    identity = Identity.from_model(model, sha256)
    benchmark = {
        **manifest.header("benchmark", inputs=inputs),
        "name": identity.name,
        "model": {"sha256": sha256},
        "backbone": identity.backbone,
        "variant": identity.variant,
        "identity": identity.to_json(),
        "accuracy": accuracy.to_json() | {"float_top1": _float_top1(model, accuracy)},
        "cpu": asdict(cpu),
        "hardware": None if hardware is None else hardware.to_json(),
        "verification": [asdict(check) for check in verification],
        "environment": describe_environment(runtime.num_threads, num_available_cores()),
    }
    return benchmark, outcomes


def _hardware_of(built: dict[str, Any], path: Path, sha256: str, model_path: Path) -> Hardware:
    if built["model"]["sha256"] != sha256:
        raise IntegrityError(
            f"{path}: model.sha256: got {built['model']['sha256'][:12]}..., expected {sha256[:12]}... of {model_path}; "
            "pass the hardware manifest that was built from this model"
        )
    return hardware_from_manifest(built, source=path)


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
        with np.load(golden_path, allow_pickle=False) as arrays:
            pixels, logits = arrays["input"], arrays["output"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise IntegrityError(f"{golden_path}: not a readable golden file ({error}); export it anew") from error
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


def _load_split(path: Path, model: dict[str, Any], dataset: str, data_dir: Path | None) -> data.Split:
    described = model["input"]
    _, channels, height, width = described["shape"]
    preprocessing = data.Preprocessing(channels=channels, height=height, width=width)
    for key, expected in (("resize", preprocessing.resize), ("crop", [height, width])):
        if described[key] != expected:
            raise ManifestError(
                f"{path}: input.{key}: got {described[key]}, expected {expected} for {height}x{width} pictures; "
                "export the model anew"
            )
    split = data.load(dataset, "test", preprocessing, data_dir=data_dir)
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
    return split


def _named(path: Path, make: Callable[[], T]) -> T:
    """Put the manifest's name before an error of the graph it names."""
    try:
        return make()
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {error}") from error


def _check_golden(
    path: Path, runtime: Runtime, pixels: NDArray[np.uint8], expected: NDArray[np.float32]
) -> Verification:
    """Compare with the outputs that the exporter stored; flips of values on a threshold are counted and bounded."""
    logits = np.concatenate([_named(path, lambda image=image: runtime(image[None])) for image in pixels])
    if logits.shape != expected.shape:
        raise VerificationError(f"{path}: logits: got shape {logits.shape}, expected {expected.shape} as in golden.npz")
    check = compare_logits(logits, expected, against="golden")
    bound = max(_FLIP * float(np.ptp(expected)), _tolerance(expected))
    if not check.max_abs_error <= bound:
        raise VerificationError(
            f"{path}: golden: got logits {check.max_abs_error:.3g} off, expected at most {bound:.3g}; "
            "the network is not the one that was trained: export it anew"
        )
    return check


def _check_reference(path: Path, runtime: Runtime, reference: Reference, split: data.Split) -> Verification:
    """Compare with qonnx's execution of the same pictures, one at a time: nothing but float noise may differ."""
    pixels = split.images[np.linspace(0, len(split) - 1, _NUM_REFERENCE_SAMPLES).astype(np.int64)]
    logits = np.concatenate([runtime(image[None]) for image in pixels])
    check = compare_logits(logits, reference(pixels), against="qonnx")
    if check.num_flips or not np.isfinite(check.max_abs_error):
        raise VerificationError(
            f"{path}: onnxruntime: got logits {check.max_abs_error:.3g} off qonnx's on {check.num_flips} of "
            f"{check.num_samples} pictures, expected equal ones; report the network"
        )
    return check


def compare_logits(logits: NDArray[np.float32], expected: NDArray[np.float32], *, against: str) -> Verification:
    """Count the pictures whose logits differ by more than the noise of float32 sums."""
    errors = np.abs(logits.astype(np.float64) - expected).max(axis=1)
    return Verification(
        against=against,
        num_samples=len(expected),
        num_flips=int((~(errors <= _tolerance(expected))).sum()),
        max_abs_error=float(errors.max()),
    )


def _tolerance(expected: NDArray[np.float32]) -> float:
    return _NOISE * max(1.0, float(np.abs(expected).max()))


def _run_all(
    runtime: Runtime, split: data.Split, batch_size: int, progress: Progress
) -> tuple[NDArray[np.float32], str]:
    """Return the logits of all pictures, and the hash of the pictures."""
    logits = []
    pixels = hashlib.sha256()
    done = 0
    for images, _ in split.batches(batch_size):
        logits.append(runtime(images))
        pixels.update(np.ascontiguousarray(images))
        done += len(images)
        progress(done, len(split))
    joined = np.concatenate(logits)
    if not np.isfinite(joined).all():
        num_bad = int((~np.isfinite(joined)).any(axis=1).sum())
        raise VerificationError(f"logits: got NaN or infinity on {num_bad} of {len(joined)} pictures; train anew")
    return joined, pixels.hexdigest()


def measure_accuracy(logits: NDArray[np.float32], split: data.Split) -> Accuracy:
    """Return top-1, top-5 and per-class accuracy in percent."""
    labels, rank = split.labels, _ranks(logits, split)
    per_class = []
    for label, name in enumerate(split.class_names):
        hits = (rank == 0)[labels == label]
        per_class.append(
            ClassAccuracy(name=name, num_samples=len(hits), top1=100 * float(hits.mean()) if len(hits) else None)
        )
    dataset, _, split_name = split.name.partition("/")
    return Accuracy(
        dataset=dataset,
        split=split_name,
        num_samples=len(labels),
        top1=100 * float((rank == 0).mean()),
        top5=100 * float((rank < 5).mean()) if logits.shape[1] > 5 else None,
        per_class=tuple(per_class),
    )


def _ranks(logits: NDArray[np.float32], split: data.Split) -> NDArray[np.int64]:
    """Return how many classes come before the right one (N,); of equal logits the lower class ranks first."""
    labels = split.labels
    own = logits[np.arange(len(labels)), labels][:, None]
    is_before = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    return is_before.sum(axis=1)


def _float_top1(model: dict[str, Any], accuracy: Accuracy) -> float | None:
    """Return the float network's accuracy that the model manifest reports, if it is of the same pictures."""
    reported = model["accuracy"]
    if reported is None or (reported["dataset"], reported["split"], reported["num_samples"]) != accuracy.key:
        return None
    return reported.get("float_top1")
