from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import (
    ACCURACY,
    Network,
    change_json,
    digits_network,
    write_hardware,
    write_model,
)
from PIL import Image

from nash_bench.base import manifest
from nash_bench.base.errors import DataError, IntegrityError, ManifestError, UsageError, VerificationError
from nash_bench.data.datasets import Preprocessing, Split, load
from nash_bench.measure.evaluate import compare_logits, evaluate, measure_accuracy
from nash_bench.measure.execute import Reference, Runtime


@pytest.fixture(scope="module")
def benchmark(shared_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    hardware = write_hardware(tmp_path_factory.mktemp("hw"), shared_model)
    return evaluate(shared_model, dataset="digits", hardware_path=hardware, num_repeats=3)


def test_benchmark_keeps_its_schema(benchmark: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    manifest.save(path, benchmark, "benchmark")
    assert manifest.load(path, "benchmark") == json.loads(json.dumps(benchmark))


def test_accuracy_is_that_of_qonnx_on_the_test_split(benchmark: dict[str, Any], shared_model: Path) -> None:
    split = load("digits", "test", Preprocessing(channels=1, height=8, width=8))
    some = np.arange(0, 360, 9)
    network = onnx.load(shared_model.parent / "model.onnx")
    expected = Reference(network, scale=1 / 255)(split.images[some]).argmax(axis=1)
    got = Runtime(network, scale=1 / 255)(split.images[:])
    np.testing.assert_array_equal(got[some].argmax(axis=1), expected)
    assert benchmark["accuracy"]["top1"] == pytest.approx(100 * np.mean(got.argmax(axis=1) == split.labels))
    assert benchmark["accuracy"]["num_samples"] == 360
    assert (benchmark["accuracy"]["dataset"], benchmark["accuracy"]["split"]) == ("digits", "test")


def test_benchmark_says_what_was_measured_on(benchmark: dict[str, Any], shared_model: Path) -> None:
    cpu = benchmark["cpu"]
    assert cpu["min_fps"] <= cpu["throughput_fps"] <= cpu["max_fps"]
    assert cpu["num_repeats"] == 3
    assert benchmark["environment"]["onnxruntime"]
    assert benchmark["environment"]["num_threads"] == cpu["num_threads"]
    assert benchmark["model"]["sha256"] == manifest.file_sha256(shared_model)
    assert [entry["schema"] for entry in benchmark["inputs"]] == ["nash.model/1.0", "nash.hardware/1.0"]
    checks = {check["against"]: check for check in benchmark["verification"]}
    assert checks["golden"]["num_samples"] == 8
    assert checks["golden"]["num_flips"] == checks["qonnx"]["num_flips"] == 0


def test_hardware_figures_keep_their_origin(benchmark: dict[str, Any]) -> None:
    hardware = benchmark["hardware"]
    assert (hardware["origin"], hardware["board"]) == ("estimated", "U250")
    assert hardware["resources"]["LUT"] == 50_000
    assert hardware["resources"]["FF"] is None


def test_progress_ends_with_all_samples(shared_model: Path) -> None:
    seen = []
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    evaluate(shared_model, dataset="digits", batch_size=100, num_repeats=1, num_threads=1, progress=report)
    assert seen == [(100, 360), (200, 360), (300, 360), (360, 360)]


def split_of(labels: list[int], num_classes: int) -> Split:
    names = tuple(f"class{k}" for k in range(num_classes))
    images = np.zeros((len(labels), 1, 1, 1), dtype=np.uint8)
    return Split(name="toy/val", images=images, labels=np.array(labels), class_names=names)


def test_top5_counts_the_five_best() -> None:
    logits = np.tile(np.arange(8, 0, -1, dtype=np.float32), (8, 1))  # class k ranks k-th
    accuracy = measure_accuracy(logits, split_of(list(range(8)), 8))
    assert accuracy.top1 == pytest.approx(12.5)
    assert accuracy.top5 == pytest.approx(62.5)
    assert [entry.top1 for entry in accuracy.per_class] == [100, 0, 0, 0, 0, 0, 0, 0]
    assert accuracy.key == ("toy", "val", 8)


def test_equal_logits_rank_by_class_number() -> None:
    accuracy = measure_accuracy(np.zeros((2, 8), dtype=np.float32), split_of([0, 5], 8))
    assert (accuracy.top1, accuracy.top5) == (50, 50)


def test_top5_of_five_classes_is_unknown() -> None:
    assert measure_accuracy(np.zeros((1, 5), dtype=np.float32), split_of([0], 5)).top5 is None


def test_class_without_samples_has_no_accuracy() -> None:
    per_class = measure_accuracy(np.zeros((1, 3), dtype=np.float32), split_of([0], 3)).per_class
    assert [(entry.num_samples, entry.top1) for entry in per_class] == [(1, 100), (0, None), (0, None)]


def test_flips_are_counted_noise_is_not() -> None:
    expected = np.array([[1.0, -2.0], [0.5, 0.25], [3.0, 1.0]], dtype=np.float32)
    logits = expected + np.array([[1e-6, 0], [0.02, 0], [np.nan, 0]], dtype=np.float32)
    check = compare_logits(logits, expected, against="golden")
    assert (check.num_samples, check.num_flips) == (3, 2)
    assert np.isnan(check.max_abs_error)


# Errors -------------------------------------------------------------------------------------------------------------


def test_wrong_golden_is_verification_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    with np.load(tmp_path / "golden.npz") as arrays:
        pixels, logits = arrays["input"], arrays["output"]
    np.savez(tmp_path / "golden.npz", input=pixels, output=logits[:, ::-1])
    rehash(path, "golden")
    with pytest.raises(VerificationError, match=r"model.json: golden: got logits .* expected at most"):
        evaluate(path, dataset="digits")


def test_one_flip_in_golden_is_counted(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    with np.load(tmp_path / "golden.npz") as arrays:
        pixels, logits = arrays["input"], arrays["output"].copy()
    logits[3] += 0.02 * np.ptp(logits)
    np.savez(tmp_path / "golden.npz", input=pixels, output=logits)
    rehash(path, "golden")
    checks = evaluate(path, dataset="digits", num_repeats=1)["verification"]
    assert [check["num_flips"] for check in checks if check["against"] == "golden"] == [1]


def test_execution_unlike_qonnx_is_verification_error(shared_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = lambda self, pixels, run=Reference.__call__: run(self, pixels) + 0.01  # noqa: E731
    monkeypatch.setattr(Reference, "__call__", shifted)
    with pytest.raises(VerificationError, match="off qonnx's on 4 of 4 pictures"):
        evaluate(shared_model, dataset="digits")


def test_nan_logits_are_verification_error(tmp_path: Path) -> None:
    net = Network((1, 1, 8, 8))
    dark = net.node("Sub", net.node("ReduceMean", "x", axes=[1, 2, 3], keepdims=1), net.constant(0.25))
    x = net.node("Add", "x", net.node("Sqrt", dark))  # NaN only for dark pictures, none of which are golden
    model = net.model(net.node("MatMul", net.node("Flatten", x), net.weight(64, 10)), 10)
    with pytest.raises(VerificationError, match=r"got NaN or infinity on \d+ of 360 pictures"):
        evaluate(write_model(tmp_path, network=model), dataset="digits")


def test_golden_that_is_not_finite_is_integrity_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    pixels = np.zeros((8, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "golden.npz", input=pixels, output=np.full((8, 10), np.nan, dtype=np.float32))
    rehash(path, "golden")
    with pytest.raises(IntegrityError, match="expected finite logits"):
        evaluate(path, dataset="digits")


def test_changed_onnx_is_integrity_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    onnx_path = tmp_path / "model.onnx"
    onnx_path.write_bytes(onnx_path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model.onnx: sha256: got"):
        evaluate(path, dataset="digits")


def test_truncated_onnx_with_its_own_hash_is_integrity_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    onnx_path = tmp_path / "model.onnx"
    onnx_path.write_bytes(onnx_path.read_bytes()[:2000])
    rehash(path, "onnx")
    with pytest.raises(IntegrityError, match="ONNX file"):
        evaluate(path, dataset="digits")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_damaged_golden_is_integrity_error(tmp_path: Path, content: bytes) -> None:
    path = write_model(tmp_path)
    (tmp_path / "golden.npz").write_bytes(content)
    rehash(path, "golden")
    with pytest.raises(IntegrityError, match=r"golden.npz: not a readable golden file"):
        evaluate(path, dataset="digits")


def test_golden_without_outputs_is_integrity_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    np.savez(tmp_path / "golden.npz", input=np.zeros((8, 1, 8, 8), dtype=np.uint8))
    rehash(path, "golden")
    with pytest.raises(IntegrityError, match=r"golden.npz: not a readable golden file"):
        evaluate(path, dataset="digits")


def test_path_out_of_the_folder_is_integrity_error(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    content = json.loads(path.read_text())
    change_json(path, onnx=content["onnx"] | {"path": "../model.onnx"})
    with pytest.raises(IntegrityError, match=r"leaves the manifest's folder"):
        evaluate(path, dataset="digits")


def test_hardware_of_another_model_is_integrity_error(shared_model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=5, has_files=False)
    hardware = write_hardware(tmp_path, other)
    with pytest.raises(IntegrityError, match=r"hardware.json: model.sha256: got .* expected .* of .*model.json"):
        evaluate(shared_model, dataset="digits", hardware_path=hardware)


def test_class_count_of_another_dataset_is_data_error(tmp_path: Path) -> None:
    path = write_model(tmp_path, network=digits_network(num_classes=7), num_classes=7)
    with pytest.raises(DataError, match=r"model.json: num_classes: got 7, expected 10 as digits/test has"):
        evaluate(path, dataset="digits")


def test_other_class_names_are_data_error(tmp_path: Path) -> None:
    path = change_json(write_model(tmp_path), class_names=list("0123456798"))
    with pytest.raises(DataError, match=r"class_names\[8\]: got '9', expected '8'"):
        evaluate(path, dataset="digits")


def test_too_few_class_names_are_manifest_error(tmp_path: Path) -> None:
    path = change_json(write_model(tmp_path), class_names=["a", "b"])
    with pytest.raises(ManifestError, match="class_names: got 2 names, expected 10"):
        evaluate(path, dataset="digits")


def test_other_preprocessing_is_manifest_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    change_json(path, input=json.loads(path.read_text())["input"] | {"resize": 9})
    with pytest.raises(ManifestError, match=r"input.resize: got 9, expected 8"):
        evaluate(path, dataset="digits")


def test_shape_unlike_the_network_is_manifest_error(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    change_json(path, input=json.loads(path.read_text())["input"] | {"shape": [1, 3, 8, 8]})
    with pytest.raises(ManifestError, match=r"input.shape: got \[1, 3, 8, 8\], expected \[1, 1, 8, 8\]"):
        evaluate(path, dataset="digits")


def test_unknown_dataset_is_usage_error(shared_model: Path) -> None:
    with pytest.raises(UsageError, match="--dataset: got 'mnist'"):
        evaluate(shared_model, dataset="mnist")


def test_imagefolder_is_evaluated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in map(str, range(10)):
        folder = tmp_path / "data" / "val" / name
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (12, 9)).astype(np.uint8)).save(folder / "picture.png")
    path = write_model(tmp_path / "model")
    accuracy = evaluate(path, dataset="imagefolder", data_dir=tmp_path / "data", num_repeats=1)["accuracy"]
    assert (accuracy["dataset"], accuracy["split"], accuracy["num_samples"]) == ("imagefolder", "val", 10)


def test_float_accuracy_is_kept_for_the_same_pictures(tmp_path: Path) -> None:
    same = write_model(tmp_path / "same", accuracy=ACCURACY | {"float_top1": 97.0})
    other = write_model(tmp_path / "other", accuracy=ACCURACY | {"float_top1": 97.0, "num_samples": 99})
    found = [evaluate(path, dataset="digits", num_repeats=1)["accuracy"]["float_top1"] for path in (same, other)]
    assert found == [97.0, None]


def rehash(path: Path, part: str) -> None:
    content = json.loads(path.read_text())
    file = path.parent / content[part]["path"]
    change_json(path, **{part: content[part] | {"sha256": manifest.file_sha256(file)}})
