from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import ACCURACY, change_json, write_hardware, write_json, write_model

from nash_bench.base import manifest
from nash_bench.base.errors import IntegrityError, ManifestError, UsageError
from nash_bench.compare.families import find_pairs, fronts_of, panels
from nash_bench.measure.evaluate import evaluate
from nash_bench.records.collect import collect, distinct_parts


def test_hardware_finds_its_model_by_hash(run_folder: Path) -> None:
    collection = collect([run_folder])
    assert not collection.warnings
    assert not collection.errors
    figures = {row.label: row.record.hardware.LUT for row in collection.rows}
    assert figures == {
        "resnet18-w2a2": 20_000,
        "resnet18-v3-w2a2": 21_500,
        "resnet18-w4a4": 40_000,
        "resnet18-v3-w4a4": 41_500,
    }
    assert {row.accuracy_source for row in collection.rows} == {"training"}


def test_benchmark_stands_over_the_trainings_accuracy(tmp_path: Path) -> None:
    model = write_model(tmp_path / "qat")
    benchmark = evaluate(model, dataset="digits", num_repeats=1)
    manifest.save(tmp_path / "bench" / "benchmark.json", benchmark, "benchmark")
    (row,) = collect([tmp_path]).rows
    assert row.accuracy_source == "benchmark"
    assert row.record.accuracy.top1 == benchmark["accuracy"]["top1"]
    assert row.record.cpu is not None


def test_benchmark_alone_is_a_row_with_its_hardware(tmp_path: Path, shared_model: Path) -> None:
    hardware = write_hardware(tmp_path / "hw", shared_model)
    benchmark = evaluate(shared_model, dataset="digits", hardware_path=hardware, num_repeats=1)
    manifest.save(tmp_path / "bench" / "benchmark.json", benchmark, "benchmark")
    (alone,) = collect([tmp_path / "bench"]).rows
    assert alone.genotype is None
    assert alone.record.hardware.LUT == 50_000
    (both,) = collect([tmp_path]).rows  # the hardware manifest it was made from is there too: one row
    assert both.hardware_folder.endswith("/hw")


def test_second_benchmark_of_a_model_is_named(tmp_path: Path, shared_model: Path) -> None:
    benchmark = evaluate(shared_model, dataset="digits", num_repeats=1)
    other_split = benchmark | {"accuracy": benchmark["accuracy"] | {"split": "train"}}
    for name, content in (("a", benchmark), ("b", benchmark | {"later": True}), ("c", other_split)):
        manifest.save(tmp_path / name / "benchmark.json", content, "benchmark")
    collection = collect([tmp_path])
    assert [row.record.accuracy.split for row in collection.rows] == ["test", "train"]
    (warning,) = collection.warnings
    assert "b/benchmark.json: left out" in warning


def test_copies_of_a_run_are_one_row(run_folder: Path) -> None:
    shutil.copytree(run_folder / "resnet18-w2a2", run_folder / "copy")
    assert len(collect([run_folder, run_folder / "copy"]).rows) == 4


def test_two_boards_are_two_rows(tmp_path: Path) -> None:
    model = write_model(tmp_path / "qat", has_files=False)
    for board in ("U250", "ZCU104"):
        write_hardware(tmp_path / board, model, board=board)
    rows = collect([tmp_path]).rows
    assert [row.record.hardware.board for row in rows] == ["U250", "ZCU104"]
    assert len(panels(rows)) == 2


def test_names_alike_are_told_apart_by_folder(tmp_path: Path) -> None:
    for seed in range(2):
        write_model(tmp_path / f"seed{seed}" / "qat", seed=seed, has_files=False)
    write_model(tmp_path / "other", name="other", has_files=False)
    assert [row.label for row in collect([tmp_path]).rows] == [
        "other",
        "resnet18-w4a4 (seed0)",
        "resnet18-w4a4 (seed1)",
    ]


def test_accelerators_of_one_board_are_told_apart_by_folder(tmp_path: Path) -> None:
    model = write_model(tmp_path / "qat", has_files=False)
    for fps in (100, 1000):
        write_hardware(tmp_path / f"fps{fps}" / "hw", model, throughput_fps=fps)
    assert [row.label for row in collect([tmp_path]).rows] == ["resnet18-w4a4 [fps100]", "resnet18-w4a4 [fps1000]"]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["runs/a/qat", "runs/b/qat"], ["a", "b"]),
        (["runs/qat", "runs/b/qat"], ["runs/qat", "runs/b/qat"]),  # one would be left without a name
        (["a", "b"], ["a", "b"]),
        (["x/seed1", "x/seed12"], ["seed1", "seed12"]),
    ],
)
def test_distinct_parts(folders: list[str], expected: list[str]) -> None:
    assert distinct_parts(folders) == expected


def test_hardware_without_model_is_named_in_a_warning(run_folder: Path, tmp_path: Path) -> None:
    gone = write_model(tmp_path / "gone", seed=9, has_files=False)
    write_hardware(run_folder / "stray", gone)
    collection = collect([run_folder])
    assert len(collection.rows) == 4
    (warning,) = collection.warnings
    assert "stray/hardware.json: left out" in warning


def test_broken_manifests_are_noted_and_the_rest_read(run_folder: Path) -> None:
    (run_folder / "resnet18-w2a2" / "qat" / "model.json").write_text('{"schema": ')
    change_json(run_folder / "resnet18-w4a4" / "hw" / "hardware.json", board=7)
    collection = collect([run_folder])
    assert len(collection.rows) == 3
    assert [type(error) for error in collection.errors] == [ManifestError, ManifestError]
    assert "not valid JSON" in str(collection.errors[0])
    assert "board: got 7" in str(collection.errors[1])
    assert len(collection.warnings) == 1  # the first one's hardware has lost its model


def test_figures_out_of_range_are_noted(run_folder: Path) -> None:
    path = run_folder / "resnet18-w2a2" / "qat" / "model.json"
    change_json(path, accuracy=ACCURACY | {"top1": 99.5})
    collection = collect([run_folder])
    assert len(collection.rows) == 3
    assert "accuracy.top5: got 99.0, expected at least top1 (99.5)" in str(collection.errors[0])


def test_only_broken_manifests_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ManifestError, match="expected an object"):
        collect([tmp_path])


def test_unreadable_manifest_is_noted(run_folder: Path) -> None:
    path = run_folder / "resnet18-w2a2" / "hw" / "hardware.json"
    path.unlink()
    path.symlink_to("nowhere.json")
    (error,) = collect([run_folder]).errors
    assert isinstance(error, IntegrityError)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_folder_without_manifests_is_usage_error(tmp_path: Path, make: object) -> None:
    path = tmp_path / "run"
    make(path)
    with pytest.raises(UsageError, match="run: "):
        collect([path])


def test_pair_shares_all_terms(run_folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "w" / "qat", name="wide-v3", variant="v3", width=8, has_files=False)
    write_hardware(tmp_path / "w" / "hw", other)
    pairs = find_pairs(collect([run_folder, tmp_path / "w"]).rows)
    assert [(pair.candidate.label, pair.baseline.label) for pair in pairs] == [
        ("resnet18-v3-w2a2", "resnet18-w2a2"),
        ("resnet18-v3-w4a4", "resnet18-w4a4"),
    ]
    figures = {delta.key: delta for delta in pairs[0].deltas}
    assert figures["top1"].difference == 2
    assert figures["LUT"].relative == pytest.approx(0.075)
    assert not figures["LUT"].is_better
    assert figures["DSP"].difference is None
    assert figures["BRAM_18K"].is_better is None


@pytest.mark.parametrize("changes", [{"backbone": None}, {"preset": "w3a3"}, {"accuracy": None}])
def test_row_of_other_terms_has_no_pair(tmp_path: Path, changes: dict[str, object]) -> None:
    write_model(tmp_path / "a", name="a", has_files=False)
    write_model(tmp_path / "b", name="b", **({"variant": "v1", "has_files": False} | changes))
    assert find_pairs(collect([tmp_path]).rows) == []


def test_front_is_of_one_panel_and_known_figures(run_folder: Path, tmp_path: Path) -> None:
    better = write_model(
        tmp_path / "x", name="x", accuracy=ACCURACY | {"top1": 98, "split": "train"}, has_files=False, seed=8
    )
    write_hardware(tmp_path / "x", better, resources={"LUT": 1})
    rows = collect([run_folder, tmp_path / "x"]).rows
    fronts = dict(zip([row.label for row in rows], fronts_of(rows), strict=True))
    assert all("LUT" in axes for axes in fronts.values())
    assert "DSP" not in fronts["resnet18-v3-w4a4"]  # it has no DSP figure
    assert fronts["resnet18-w2a2"] == ("LUT",)


def test_model_json_of_another_tool_is_noted(run_folder: Path) -> None:
    write_json(run_folder / "web" / "model.json", {"format": "graph-model"})
    (error,) = collect([run_folder]).errors
    assert "web/model.json: schema: got null, expected 'nash.model/1.0'" in str(error)
