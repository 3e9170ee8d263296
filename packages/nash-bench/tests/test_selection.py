"""An accuracy that its network was chosen by is marked wherever it stands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import change_json, write_hardware, write_model

from nash_bench.base import manifest
from nash_bench.base.progress import render
from nash_bench.compare.comparison import compare, comparison_table, load_record
from nash_bench.compare.seeds import seeds_table
from nash_bench.records.figures import OF_TEST, SELECTION_LEGEND
from nash_bench.records.record import Record
from nash_bench.report.files import pairs_text, results_table, write_report


def chosen_on(path: Path, split: str | None) -> Path:
    """Let a model manifest say on which split its epoch was chosen."""
    training = json.loads(path.read_text())["training"]
    rule = "last" if split is None else "best"
    selection = {"rule": rule, "split": split, "epoch": 2, "top1": None if split is None else 91.0}
    return change_json(path, training=training | {"selection": selection})


def _runs(root: Path, split: str | None) -> Path:
    """Write a baseline, and a NASH network whose epoch was chosen on a split."""
    for variant in (None, "v3"):
        folder = root / (variant or "baseline")
        model = write_model(folder, name=folder.name, variant=variant, has_files=False)
        chosen_on(model, None if variant is None else split)
        write_hardware(folder, model)
    return root


def test_report_marks_what_was_chosen_on_test(tmp_path: Path) -> None:
    collection, results = write_report([_runs(tmp_path / "runs", "test")], tmp_path / "out")
    assert {row["name"]: row["selected_on"] for row in results["rows"]} == {"baseline": None, "v3": "test"}
    assert [gain["is_of_selected"] for gain in results["gains"]] == [True]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert {row["name"]: row["selected_on"] for row in csv.DictReader(file)} == {"baseline": "", "v3": "test"}
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert f"| v3 | w4a4 | 90.00{OF_TEST} | 99.00{OF_TEST} |" in markdown
    assert "| baseline | w4a4 | 90.00 | 99.00 |" in markdown
    assert f"+0.00 pp {OF_TEST}" in markdown
    page = (tmp_path / "out" / "index.html").read_text()
    assert f">90.00{OF_TEST}</td>" in page
    assert f'<span class="delta same">+0.00 {OF_TEST}</span>' in page
    latex = (tmp_path / "out" / "results.tex").read_text()
    assert r"90.00$^\ddagger$" in latex
    assert OF_TEST not in latex
    terminal = render(results_table(collection)) + "\n".join(pairs_text(collection))
    assert f"90.00{OF_TEST}" in terminal
    for text in (markdown, page, terminal):
        assert SELECTION_LEGEND in text


@pytest.mark.parametrize("split", [None, "validation"])
def test_report_marks_nothing_else(tmp_path: Path, split: str | None) -> None:
    collection, results = write_report([_runs(tmp_path / "runs", split)], tmp_path / "out")
    assert [row["selected_on"] for row in results["rows"] if row["name"] == "v3"] == [split]
    texts = [(tmp_path / "out" / name).read_text() for name in ("results.md", "index.html", "results.tex")]
    for text in (*texts, "\n".join(pairs_text(collection))):
        assert OF_TEST not in text
        assert "ddagger" not in text


def test_manifest_that_does_not_say_is_read(tmp_path: Path) -> None:
    old = write_model(tmp_path / "old", has_files=False)
    assert load_record(old).identity.selected_on is None
    untrained = change_json(write_model(tmp_path / "untrained", has_files=False), training=None, accuracy=None)
    assert load_record(untrained).identity.selected_on is None


def test_compare_marks_what_was_chosen_on_test(tmp_path: Path) -> None:
    paths = [
        chosen_on(write_model(tmp_path / f"{variant}{seed}", variant=variant, seed=seed, has_files=False), split)
        for variant, seed, split in ((None, 0, "validation"), ("v3", 0, "test"), ("v3", 1, "test"))
    ]
    result = compare(paths[0], paths[1:])
    assert result["baseline"]["selected_on"] == "validation"
    assert [candidate["selected_on"] for candidate in result["candidates"]] == ["test", "test"]
    text = render(comparison_table(result))
    assert text.count(f"90.00{OF_TEST}") == 2
    assert text.count(f"+0.00 pp {OF_TEST}") == 4  # top-1 and top-5
    assert "which flatters it there" in text
    seeds = render(seeds_table(result["seeds"][0]))
    assert seeds.count(OF_TEST) == 2  # top-1 and top-5
    plain = render(comparison_table(compare(paths[0], paths[:1])))
    assert OF_TEST not in plain


def test_benchmark_keeps_the_mark(run_cli: Callable[..., object], tmp_path: Path) -> None:
    model = chosen_on(write_model(tmp_path / "m", variant="v3"), "test")
    out = tmp_path / "benchmark.json"
    outcome = run_cli("evaluate", model, "--dataset", "digits", "--out", out)
    assert f"{OF_TEST} %\n  {SELECTION_LEGEND}" in outcome.stdout
    benchmark = manifest.load(out, "benchmark")
    assert benchmark["identity"]["selected_on"] == "test"
    assert Record.from_benchmark(benchmark, source=out).identity.is_selected_on_test
