"""Any ONNX classifier is evaluated, with or without a manifest, quantized or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import Network, digits_network, write_hardware
from conftest import Outcome

from nash_bench.base import manifest
from nash_bench.base.errors import DataError, UnsupportedError, UsageError
from nash_bench.data.datasets import Preprocessing, load
from nash_bench.measure.evaluate import evaluate
from nash_bench.records.collect import collect

Run = Callable[..., Outcome]


def float_network(shape: tuple[int, ...] = (1, 1, 8, 8), num_classes: int = 10) -> onnx.ModelProto:
    net = Network(shape)
    channels = shape[1]
    x = net.node("Relu", net.batch_norm(net.conv("x", net.weight(6, channels, 3, 3), 3), 6))
    features = 6 * shape[2] * shape[3]
    return net.model(net.node("MatMul", net.node("Flatten", x, axis=1), net.weight(features, num_classes)), num_classes)


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.onnx"
    onnx.save(float_network(), path)
    return path


def expected_top1(path: Path, normalize: Callable[[np.ndarray], np.ndarray]) -> float:
    """Run the file as it is in onnxruntime, one picture at a time."""
    split = load("digits", "test", Preprocessing(channels=1, height=8, width=8))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = normalize(split.images[:].astype(np.float32) / 255).astype(np.float32)
    logits = np.concatenate([session.run(None, {"x": picture[None]})[0] for picture in pixels])
    return 100 * float(np.mean(logits.argmax(axis=1) == split.labels))


def test_float_network_is_evaluated(float_file: Path) -> None:
    benchmark = evaluate(float_file, dataset="digits", num_repeats=1)
    assert benchmark["accuracy"]["top1"] == pytest.approx(expected_top1(float_file, lambda pixels: pixels))
    assert (benchmark["name"], benchmark["backbone"], benchmark["identity"]["weight_bits"]) == ("mine", None, None)
    assert benchmark["identity"]["num_params"] == 6 * 9 + 4 * 6 + 6 * 64 * 10
    assert benchmark["model"]["sha256"] == manifest.file_sha256(float_file)
    assert [check["against"] for check in benchmark["verification"]] == ["qonnx"]


def test_pixels_are_normalized(float_file: Path) -> None:
    benchmark = evaluate(float_file, dataset="digits", num_repeats=1, mean=[0.3], std=[0.05])
    top1 = expected_top1(float_file, lambda pixels: (pixels - 0.3) / 0.05)
    assert benchmark["accuracy"]["top1"] == pytest.approx(top1)
    assert benchmark["normalization"] == {"mean": [0.3], "std": [0.05]}
    assert top1 != expected_top1(float_file, lambda pixels: pixels)


def test_free_batch_is_accepted(float_file: Path) -> None:
    network = onnx.load(float_file)
    network.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    fixed = evaluate(float_file, dataset="digits", num_repeats=1)["accuracy"]
    onnx.save(network, float_file)
    assert evaluate(float_file, dataset="digits", num_repeats=1)["accuracy"] == fixed


def test_qonnx_without_a_manifest_is_evaluated(tmp_path: Path) -> None:
    onnx.save(digits_network(), tmp_path / "quantized.onnx")
    benchmark = evaluate(tmp_path / "quantized.onnx", dataset="digits", num_repeats=1)
    assert benchmark["verification"][0]["num_flips"] == 0


def test_it_joins_the_plot_with_its_hardware(run_cli: Run, float_file: Path, tmp_path: Path) -> None:
    hardware = write_hardware(tmp_path / "hw", float_file)
    out = tmp_path / "runs" / "benchmark.json"
    outcome = run_cli(
        "evaluate",
        float_file,
        "--dataset",
        "digits",
        "--hardware",
        hardware,
        "--out",
        out,
        "--mean",
        "0.5",
        "--std",
        "1",
    )
    assert outcome.exit_code == 0, outcome.stderr
    (row,) = collect([tmp_path / "runs"]).rows
    assert (row.label, row.panel) == ("mine", ("digits", "test", 360, "U250", "estimated"))


@pytest.mark.parametrize(
    ("network", "error", "part"),
    [
        (float_network((1, 2, 8, 8)), UnsupportedError, r"got shape \[1, 2, 8, 8\], expected float"),
        (float_network(num_classes=4), DataError, "num_classes: got 4 logits, expected 10"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, network: onnx.ModelProto, error: type, part: str) -> None:
    onnx.save(network, tmp_path / "other.onnx")
    with pytest.raises(error, match=part):
        evaluate(tmp_path / "other.onnx", dataset="digits", num_repeats=1)


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--std", "0", "--std: got [0.0]"),
        ("--mean", "1,2", "--mean: got [1.0, 2.0]"),
        ("--mean", "x", "--mean: got 'x'"),
    ],
)
def test_bad_normalization_is_named(
    run_cli: Run, float_file: Path, tmp_path: Path, option: str, value: str, part: str
) -> None:
    outcome = run_cli("evaluate", float_file, "--dataset", "digits", "--out", tmp_path / "b.json", option, value)
    assert (outcome.exit_code, part in outcome.stderr) == (2, True)


def test_manifest_says_itself_how_pixels_are_scaled(shared_model: Path) -> None:
    with pytest.raises(UsageError, match="leave them out"):
        evaluate(shared_model, dataset="digits", mean=[0.5])


def test_result_holds_its_schema(run_cli: Run, float_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    assert run_cli("evaluate", float_file, "--dataset", "digits", "--out", out, "--repeats", 1).exit_code == 0
    assert json.loads(out.read_text()) == manifest.load(out, "benchmark")
