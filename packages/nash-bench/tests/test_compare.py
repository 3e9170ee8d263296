from __future__ import annotations

from pathlib import Path

import pytest
from builders import ACCURACY, change_json, write_hardware, write_model

from nash_bench.base import manifest
from nash_bench.base.errors import DataError, ManifestError
from nash_bench.base.progress import render
from nash_bench.compare.comparison import compare, comparison_table, load_record
from nash_bench.measure.evaluate import evaluate


def write_benchmark(folder: Path, model: Path, *, hardware: Path | None = None, **changes: object) -> Path:
    path = folder / "benchmark.json"
    benchmark = evaluate(model, dataset="digits", hardware_path=hardware, num_repeats=1)
    manifest.save(path, benchmark | changes, "benchmark")
    return path


def test_benchmarks_differ_figure_by_figure(tmp_path: Path, shared_model: Path) -> None:
    small = write_hardware(tmp_path / "a", shared_model, resources={"LUT": 1000, "DSP": 0}, latency_us=10.0)
    large = write_hardware(tmp_path / "b", shared_model, resources={"LUT": 1100, "DSP": 5}, latency_us=None)
    paths = [write_benchmark(path.parent, shared_model, hardware=path) for path in (small, large)]
    figures = compare(paths[0], paths[1:])["candidates"][0]["figures"]
    assert figures["top1"]["delta"] == 0
    assert figures["LUT"] == {"baseline": 1000, "candidate": 1100, "delta": 100, "relative": 0.1}
    assert figures["DSP"] == {"baseline": 0, "candidate": 5, "delta": 5, "relative": None}
    assert figures["latency_us"] == {"baseline": 10, "candidate": None, "delta": None, "relative": None}
    assert figures["weight_memory_bits"]["baseline"] == 4000  # as the model manifest says
    assert list(figures) == [
        "top1", "top5", "throughput_fps", "latency_us", "LUT", "BRAM_18K", "URAM", "DSP", "weight_memory_bits",
    ]  # fmt: skip


def test_models_are_compared_by_their_training(tmp_path: Path) -> None:
    baseline = write_model(tmp_path / "a", has_files=False)
    candidates = [
        write_model(tmp_path / "b", has_files=False, accuracy=ACCURACY | {"top1": 92.5, "top5": None}, variant="v3"),
        write_model(tmp_path / "c", has_files=False, accuracy=None),
    ]
    result = compare(baseline, candidates)
    assert [found["figures"]["top1"]["delta"] for found in result["candidates"]] == [2.5, None]
    assert result["candidates"][0]["figures"]["top5"]["delta"] is None
    text = render(comparison_table(result))
    assert "+2.50 pp" in text
    assert "n/a" in text


def test_other_sample_count_is_refused(tmp_path: Path) -> None:
    baseline = write_model(tmp_path / "a", has_files=False)
    other = write_model(tmp_path / "b", has_files=False, accuracy=ACCURACY | {"num_samples": 100})
    with pytest.raises(DataError, match=r"b/model.json: accuracy.num_samples: got 100, expected 360"):
        compare(baseline, [other])


def test_other_board_is_refused(tmp_path: Path, shared_model: Path) -> None:
    boards = [write_hardware(tmp_path / board, shared_model, board=board) for board in ("U250", "ZCU104")]
    paths = [write_benchmark(path.parent, shared_model, hardware=path) for path in boards]
    with pytest.raises(DataError, match=r"hardware.board: got 'ZCU104', expected 'U250'"):
        compare(paths[0], paths[1:])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "nash.hardware/1.0"}', '{"schema": 3}', "\0"])
def test_other_files_are_manifest_errors(tmp_path: Path, text: str) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"benchmark.json: "):
        compare(path, [path])


def test_unknown_major_version_is_refused_and_newer_minor_read(tmp_path: Path) -> None:
    path = write_model(tmp_path, has_files=False)
    change_json(path, schema="nash.model/1.7", novelty=1)
    with pytest.warns(UserWarning, match=r"version 1.7 is newer"):
        compare(path, [path])
    change_json(path, schema="nash.model/2.0")
    with pytest.raises(ManifestError, match=r"got version 2.0, expected 1.x"):
        compare(path, [path])


def test_broken_manifest_names_the_key(tmp_path: Path) -> None:
    path = change_json(write_model(tmp_path, has_files=False), name=3)
    with pytest.raises(ManifestError, match=r"model.json: name: got 3, expected string"):
        compare(path, [path])


def test_trainings_per_class_accuracy_has_a_form_of_its_own(tmp_path: Path) -> None:
    path = write_model(tmp_path, has_files=False, accuracy=ACCURACY | {"per_class": [90.0, None]})
    accuracy = load_record(path).accuracy
    assert (accuracy.top1, accuracy.per_class) == (90.0, ())
