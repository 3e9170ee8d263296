"""Measure the accuracy and CPU throughput of a model manifest, after checking that its network computes what it should.

Shapes: pixels (N, C, H, W) uint8, logits (N, K) float32, labels (N,) int64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..base import manifest
from ..base.errors import DataError, IntegrityError, UnsupportedError, VerificationError
from ..data import datasets as data
from ..records.facts import Accuracy, ClassAccuracy, Hardware
from ..records.outcomes import Outcomes, save_benchmark
from ..records.record import hardware_from_manifest
from .execute import Reference, Runtime, num_available_cores
from .subject import Subject, load_split, load_subject
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
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Any], Outcomes]:
    """Return the benchmark manifest of a model on the test split of a dataset, and which pictures it got right.

    The model is a model.json, or any ONNX classifier, float or QONNX; `mean` and `std` are what such a one was trained
    with, a value for each channel of pixels from 0 to 1.

    Raises:
        ManifestError: a manifest is malformed, or disagrees with its own network.
        IntegrityError: a file has changed or is damaged, or the hardware manifest is another model's.
        DataError: the dataset is missing, or does not fit the network.
        VerificationError: the network does not compute its golden outputs, or not what qonnx computes.
    """
    subject = load_subject(model_path, mean=mean, std=std)
    inputs = [subject.source]
    hardware = None
    if hardware_path is not None:
        built = manifest.load(hardware_path, "hardware")
        inputs.append(manifest.input_record(hardware_path, built))
        hardware = _hardware_of(built, hardware_path, subject.identity.model_sha256, model_path)

    network, scale = subject.network, subject.scale
    runtime = _named(model_path, lambda: Runtime(network, scale=scale, num_threads=num_threads))
    split = load_split(subject, dataset, data_dir)
    _check_num_classes(subject, runtime, split)
    verification = [] if subject.golden is None else [_check_golden(model_path, runtime, *subject.golden)]
    verification.append(_check_reference(model_path, runtime, Reference(network, scale=scale), split))
    logits, pixels_sha256 = _run_all(runtime, split, batch_size, progress)
    accuracy = measure_accuracy(logits, split)
    rank = _ranks(logits, split)
    outcomes = Outcomes.of(split, pixels_sha256, top1=rank == 0, top5=None if accuracy.top5 is None else rank < 5)
    batch = split.images[np.arange(batch_size) % len(split)]
    cpu = measure_throughput(runtime, batch, num_threads=runtime.num_threads, num_repeats=num_repeats)
    cpu = replace(cpu, **measure_latency(runtime, batch[:1]))
    identity = subject.identity
    benchmark = {
        **manifest.header("benchmark", inputs=inputs),
        "name": identity.name,
        "model": {"sha256": identity.model_sha256},
        "backbone": identity.backbone,
        "variant": identity.variant,
        "identity": identity.to_json(),
        "normalization": subject.normalization,
        "accuracy": accuracy.to_json() | {"float_top1": subject.float_top1(accuracy)},
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


def _named(path: Path, make: Callable[[], T]) -> T:
    """Put the manifest's name before an error of the graph it names."""
    try:
        return make()
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {error}") from error


def _check_num_classes(subject: Subject, runtime: Runtime, split: data.Split) -> None:
    got = _named(subject.path, lambda: runtime(split.images[np.arange(1)])).shape[1]
    if got != len(split.class_names):
        raise DataError(
            f"{subject.path}: num_classes: got {got} logits, expected {len(split.class_names)} as {split.name} has; "
            "pass the dataset that the model was trained on"
        )


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
