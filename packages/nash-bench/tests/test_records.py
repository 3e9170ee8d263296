from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from nash_bench.base.errors import DataError, ManifestError
from nash_bench.records.facts import RESOURCES, Accuracy, CpuThroughput, Hardware, Identity
from nash_bench.records.record import Record, require_comparable

ACCURACY = Accuracy(dataset="digits", split="test", num_samples=360, top1=90, top5=99)
FIGURES: dict[str, Any] = {
    "origin": "estimated", "board": "U250", "clock_mhz": 200.0, "throughput_fps": 1000.0, "latency_us": None,
    "LUT": 1000, "FF": None, "BRAM_18K": 4, "URAM": 0, "DSP": None,
}  # fmt: skip
HARDWARE = Hardware(**FIGURES)
IDENTITY = Identity(name="net", model_sha256="a" * 64)
RECORD = Record(identity=IDENTITY, accuracy=ACCURACY, hardware=HARDWARE)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ACCURACY.top1 = 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top1": 101}, "accuracy.top1: got 101, expected 0..100 percent"),
        ({"top1": -1}, "accuracy.top1"),
        ({"top5": 80}, "accuracy.top5: got 80, expected at least top1"),
        ({"num_samples": 0}, "accuracy.num_samples: got 0"),
        ({"float_top1": float("nan")}, "accuracy.float_top1"),
    ],
)
def test_accuracy_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ACCURACY, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"origin": "guessed"},
            "hardware.origin: got 'guessed', expected one of estimated, simulated, synthesized, measured",
        ),
        ({"LUT": -1}, "hardware.LUT: got -1"),
        ({"throughput_fps": float("inf")}, "hardware.throughput_fps"),
        ({"clock_mhz": 0}, "hardware.clock_mhz"),
    ],
)
def test_hardware_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(HARDWARE, **changes)


def test_throughput_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cpu.throughput_fps: got 0"):
        CpuThroughput(throughput_fps=0, batch_size=1)


def test_identity_needs_a_hash() -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        replace(IDENTITY, model_sha256="A" * 64)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"accuracy": replace(ACCURACY, dataset="cifar10")}, "accuracy.dataset: got 'cifar10', expected 'digits'"),
        ({"accuracy": replace(ACCURACY, split="train")}, "accuracy.split: got 'train', expected 'test'"),
        ({"accuracy": replace(ACCURACY, num_samples=10)}, "accuracy.num_samples: got 10, expected 360"),
        ({"hardware": replace(HARDWARE, board="ZCU104")}, "hardware.board: got 'ZCU104', expected 'U250'"),
        ({"hardware": replace(HARDWARE, origin="measured")}, "hardware.origin: got 'measured', expected 'estimated'"),
    ],
)
def test_mismatch_is_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(DataError, match=f"candidate.json: .*{key} as in baseline.json"):
        require_comparable(RECORD, replace(RECORD, **changes), names=("baseline.json", "candidate.json"))


def test_all_mismatches_are_named_at_once() -> None:
    other = replace(RECORD, accuracy=replace(ACCURACY, dataset="cifar10", num_samples=10))
    with pytest.raises(DataError, match=r"accuracy.dataset.* \| accuracy.num_samples"):
        require_comparable(RECORD, other, names=("a", "b"))


@pytest.mark.parametrize("missing", ["accuracy", "hardware"])
def test_what_is_missing_does_not_mismatch(missing: str) -> None:
    require_comparable(RECORD, replace(RECORD, **{missing: None}), names=("a", "b"))


def test_measured_figures_replace_the_estimate_whole() -> None:
    resources = {"LUT": 900, "FF": 1, "BRAM_18K": 2, "URAM": 3, "DSP": 4}
    manifest = {
        "board": "U250",
        "clock_mhz": 200,
        "estimated": {"throughput_fps": 1000, "latency_us": 10, "resources": resources | {"LUT": 1000}},
        "measured": {"throughput_fps": None, "resources": resources},
    }
    hardware = Hardware.from_manifest(manifest)
    assert (hardware.origin, hardware.LUT, hardware.throughput_fps) == ("measured", 900, None)
    synthesized = manifest | {"measured": manifest["measured"] | {"origin": "synthesized"}}
    assert Hardware.from_manifest(synthesized).origin == "synthesized"
    cycles = {"origin": "simulated", "throughput_fps": 875.0, "latency_us": 1234.5}
    assert Hardware.from_manifest(manifest | {"simulated": cycles}).origin == "measured"
    simulated = Hardware.from_manifest(manifest | {"measured": None, "simulated": cycles})
    assert (simulated.origin, simulated.throughput_fps, simulated.latency_us) == ("simulated", 875.0, 1234.5)
    assert simulated.LUT == 1000  # a simulation is of cycles: resources are estimated
    assert Hardware.from_manifest(manifest | {"measured": None}).throughput_fps == 1000


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ({"target_fps": 1500.0, "max_utilization": None}, "1500 fps"),
        ({"target_fps": None, "max_utilization": 0.7}, "70% of the board"),
        (None, None),
    ],
)
def test_target_is_kept_in_words(target: dict[str, float | None] | None, text: str | None) -> None:
    figures = {"throughput_fps": 1, "latency_us": 1, "resources": dict.fromkeys(RESOURCES)}
    manifest = {"board": "U250", "clock_mhz": 200, "estimated": figures, "measured": None, "target": target}
    assert Hardware.from_manifest(manifest).target == text


def test_hardware_round_trips() -> None:
    assert Hardware.from_json(HARDWARE.to_json()) == replace(HARDWARE, utilization={})


def test_record_of_a_bad_manifest_names_the_file() -> None:
    manifest = {
        "name": "net",
        "model": {"sha256": "a" * 64},
        "accuracy": {"dataset": "d", "split": "s", "num_samples": 1, "top1": 90, "top5": 80},
        "cpu": None,
        "hardware": None,
    }
    with pytest.raises(ManifestError, match=r"benchmark.json: accuracy.top5: got 80"):
        Record.from_benchmark(manifest, source="benchmark.json")


def test_baseline_has_neither_variant_nor_operations() -> None:
    assert replace(IDENTITY, num_nas_ops=0).is_baseline
    assert IDENTITY.is_baseline
    assert not replace(IDENTITY, variant="v3").is_baseline
    assert not replace(IDENTITY, num_nas_ops=3).is_baseline
