from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders import change_json, write_hardware, write_model

from nash_bench.base import manifest
from nash_bench.base.errors import DataError, IntegrityError, OutputError
from nash_bench.base.progress import render
from nash_bench.compare.comparison import compare, comparison_table, load_record
from nash_bench.measure.evaluate import evaluate_to, measure
from nash_bench.records.outcomes import save_benchmark
from nash_bench.report.files import write_report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline and a NASH network, evaluated; to be read or copied only."""
    root = tmp_path_factory.mktemp("made")
    for seed, variant in enumerate((None, "v3")):
        folder = root / (variant or "baseline")
        model = write_model(folder, name=folder.name, variant=variant, seed=seed)
        hardware = write_hardware(folder, model)
        evaluate_to(
            folder / "benchmark.json", model, dataset="digits", hardware_path=hardware, num_repeats=1, num_threads=1
        )
    return root


@pytest.fixture
def pair(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Both benchmarks with their outcomes, to be changed."""
    paths = []
    for name in ("baseline", "v3"):
        (tmp_path / name).mkdir()
        for file in ("benchmark.json", "benchmark.outcomes.json"):
            (tmp_path / name / file).write_bytes((made / name / file).read_bytes())
        paths.append(tmp_path / name / "benchmark.json")
    return paths[0], paths[1]


def rewrite_outcomes(benchmark: Path, **changes: object) -> None:
    beside = change_json(benchmark.with_name("benchmark.outcomes.json"), **changes)
    record = manifest.artifact_record(beside, benchmark.parent, "outcomes")
    change_json(benchmark, artifacts=[record])


def test_outcomes_are_an_artifact_that_says_what_the_benchmark_says(made: Path) -> None:
    path = made / "v3" / "benchmark.json"
    benchmark = json.loads(path.read_text())
    (artifact,) = benchmark["artifacts"]
    assert (artifact["path"], artifact["role"]) == ("benchmark.outcomes.json", "outcomes")
    assert artifact["sha256"] == manifest.file_sha256(path.parent / artifact["path"])
    outcomes = load_record(path).outcomes
    assert 100 * outcomes.hits("top1").mean() == pytest.approx(benchmark["accuracy"]["top1"])
    assert 100 * outcomes.hits("top5").mean() == pytest.approx(benchmark["accuracy"]["top5"])
    assert np.all(outcomes.hits("top5") | ~outcomes.hits("top1"))


def test_comparison_counts_who_got_which_picture(pair: tuple[Path, Path]) -> None:
    before, after = (load_record(path).outcomes.hits("top1") for path in pair)
    result = compare(pair[0], [pair[1]])
    paired = result["candidates"][0]["paired"]["top1"]
    assert paired["num_gained"] == sum(after & ~before)
    assert paired["num_lost"] == sum(before & ~after)
    assert paired["difference"] == pytest.approx(result["candidates"][0]["figures"]["top1"]["delta"])
    assert paired["low"] < paired["difference"] < paired["high"]
    text = render(comparison_table(result))
    assert text.count("95 % interval") == text.count("McNemar's p") == 2
    assert f"{paired['high']:+.2f}".replace("-", "\N{MINUS SIGN}") in text


@pytest.mark.parametrize("is_listed", [True, False])
def test_interval_without_outcomes_is_unknown(pair: tuple[Path, Path], is_listed: bool) -> None:
    pair[1].with_name("benchmark.outcomes.json").unlink()
    if not is_listed:  # as before there were outcomes
        change_json(pair[1], artifacts=[])
    result = compare(pair[0], [pair[1]])
    assert result["candidates"][0]["paired"] == {"top1": None, "top5": None}
    assert "n/a" in render(comparison_table(result))


@pytest.mark.parametrize("key", ["labels_sha256", "pixels_sha256"])
def test_other_samples_are_refused(pair: tuple[Path, Path], key: str) -> None:
    rewrite_outcomes(pair[1], **{key: "0" * 64})
    with pytest.raises(DataError, match=rf"outcomes.{key}: got '000000000000', expected"):
        compare(pair[0], [pair[1]])


def test_other_preprocessing_is_refused(pair: tuple[Path, Path]) -> None:
    rewrite_outcomes(pair[1], pixels_sha256="0" * 64, input_shape=[1, 16, 16])
    with pytest.raises(DataError, match=r"outcomes.input_shape: got '1x16x16', expected '1x8x8'"):
        compare(pair[0], [pair[1]])


def test_changed_outcomes_are_integrity_error(pair: tuple[Path, Path]) -> None:
    change_json(pair[1].with_name("benchmark.outcomes.json"), top1="00")
    with pytest.raises(IntegrityError, match=r"benchmark.outcomes.json: sha256: got"):
        compare(pair[0], [pair[1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top1": "00"}, "top1: got 0.0, expected"),
        ({"top1": "xyz"}, "not the outcomes"),
        ({"num_samples": 359}, "num_samples: got 359, expected 360"),
        ({"format": "nash-bench.outcomes/2"}, "format: got"),
    ],
)
def test_outcomes_unlike_their_benchmark_are_integrity_error(
    pair: tuple[Path, Path], changes: dict[str, object], message: str
) -> None:
    rewrite_outcomes(pair[1], **changes)
    with pytest.raises(IntegrityError, match=message):
        compare(pair[0], [pair[1]])


def test_failed_write_leaves_nothing(made: Path, tmp_path: Path) -> None:
    model = made / "v3" / "model.json"
    benchmark, outcomes = measure(model, dataset="digits", num_repeats=1, num_threads=1)
    (tmp_path / "a" / "benchmark.json").mkdir(parents=True)  # a folder where the file should go
    (tmp_path / "b" / "benchmark.outcomes.json").mkdir(parents=True)
    for name in ("a", "b"):
        before = sorted((tmp_path / name).iterdir())
        with pytest.raises(OutputError, match="cannot be written"):
            save_benchmark(tmp_path / name / "benchmark.json", benchmark, outcomes)
        assert sorted((tmp_path / name).iterdir()) == before


def test_report_shows_the_interval_beside_the_pair(made: Path, tmp_path: Path) -> None:
    _, results = write_report([made], tmp_path / "out")
    (pair,) = results["pairs"]
    found = pair["paired"]["top1"]
    interval = f"{found['low']:+.2f} to {found['high']:+.2f}".replace("-", "\N{MINUS SIGN}")
    for name in ("results.md", "index.html"):
        assert interval in (tmp_path / "out" / name).read_text()
    assert interval.replace("\N{MINUS SIGN}", "$-$") in (tmp_path / "out" / "results.tex").read_text()


def test_report_notes_broken_outcomes_and_goes_on(pair: tuple[Path, Path], made: Path, tmp_path: Path) -> None:
    change_json(pair[1].with_name("benchmark.outcomes.json"), top1="00")
    _, results = write_report([tmp_path / "baseline", tmp_path / "v3"], tmp_path / "out")
    assert [error["exit_code"] for error in results["errors"]] == [4]
    assert len(results["rows"]) == 2
    assert [found["paired"]["top1"] for found in results["pairs"]] == [None]
