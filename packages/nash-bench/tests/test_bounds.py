"""A sum that leaves out layers is nowhere shown as a total."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from builders import change_json, write_hardware, write_model

from nash_bench.base import manifest
from nash_bench.base.progress import render
from nash_bench.compare.comparison import compare, comparison_table
from nash_bench.measure.evaluate import evaluate
from nash_bench.records.figures import BOUNDS_LEGEND
from nash_bench.report.files import pairs_text, write_report
from nash_bench.report.latex import escape, tabular

NUM_UNKNOWN = {"LUT": 3, "FF": 9, "BRAM_18K": 0, "URAM": 0, "DSP": 0}


def with_unknown(path: Path) -> Path:
    estimated = json.loads(path.read_text())["estimated"]
    return change_json(path, estimated=estimated | {"num_unknown": NUM_UNKNOWN})


@pytest.fixture
def bound_runs(tmp_path: Path) -> Path:
    for variant in (None, "v3"):
        folder = tmp_path / "runs" / (variant or "baseline")
        model = write_model(folder, name=folder.name, variant=variant, has_files=False)
        with_unknown(write_hardware(folder, model, resources={"LUT": 50_000 + 1_000 * (variant is None)}))
    return tmp_path / "runs"


def test_report_marks_lower_bounds(bound_runs: Path, tmp_path: Path) -> None:
    collection, results = write_report([bound_runs], tmp_path / "out")
    assert [row["lower_bounds"] for row in results["rows"]] == [["LUT"], ["LUT"]]  # FF is null: not known at all
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert {row["lower_bounds"] for row in csv.DictReader(file)} == {"LUT"}
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert "| \N{GREATER-THAN OR EQUAL TO}50,000 | 120 |" in markdown
    assert "\N{MINUS SIGN}1,000 (\N{MINUS SIGN}2.0%) \N{DAGGER} | +0 (+0.0%) |" in markdown
    page = (tmp_path / "out" / "index.html").read_text()
    assert "LUT, lower bounds (\N{GREATER-THAN OR EQUAL TO})" in page
    assert '<span class="delta same">\N{MINUS SIGN}2.0% \N{DAGGER}</span>' in page  # nobody knows whether it is better
    assert r"$\geq$50,000" in (tmp_path / "out" / "results.tex").read_text()
    for text in (markdown, page, "\n".join(pairs_text(collection))):
        assert BOUNDS_LEGEND in text


def test_report_of_totals_marks_nothing(run_folder: Path, tmp_path: Path) -> None:
    write_report([run_folder], tmp_path / "out")
    for name in ("results.md", "index.html", "results.tex"):
        text = (tmp_path / "out" / name).read_text()
        assert "\N{GREATER-THAN OR EQUAL TO}" not in text
        assert "\N{DAGGER}" not in text


def test_benchmark_keeps_and_compare_marks_lower_bounds(shared_model: Path, tmp_path: Path) -> None:
    paths = []
    for name, is_bound in (("a", False), ("b", True)):
        hardware = write_hardware(tmp_path / name, shared_model)
        hardware = with_unknown(hardware) if is_bound else hardware
        benchmark = evaluate(shared_model, dataset="digits", hardware_path=hardware, num_repeats=1, num_threads=1)
        assert benchmark["hardware"]["num_unknown"] == (NUM_UNKNOWN if is_bound else None)
        paths.append(tmp_path / name / "benchmark.json")
        manifest.save(paths[-1], benchmark, "benchmark")
    result = compare(*paths[:1], paths[1:])
    assert result["baseline"]["lower_bounds"] == []
    assert result["candidates"][0]["lower_bounds"] == ["LUT"]
    text = render(comparison_table(result))
    assert "\N{GREATER-THAN OR EQUAL TO}50,000" in text
    assert "+0 (+0.0%) \N{DAGGER}" in text
    assert "a lower bound" in text
    assert "a lower bound" not in render(comparison_table(compare(paths[0], paths[:1])))


def test_latex_is_escaped() -> None:
    table = tabular(["a_b", "c"], [["50 % & more", "\\input{x}"], ["[4pt]", "~^#$"]], is_right=[False, True])
    assert table.splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b & c \\",
        r"\midrule",
        r"50 \% \& more & \textbackslash{}input\{x\} \\",
        r"{}[4pt] & \textasciitilde{}\textasciicircum{}\#\$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert escape("one\ntwo % three") == r"one two \% three"
