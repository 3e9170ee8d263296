from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from builders import ACCURACY, change_json, genotype, write_hardware, write_json, write_model, write_runs

from nash_bench.base import manifest
from nash_bench.base.errors import OutputError
from nash_bench.compare.families import AXES
from nash_bench.records.collect import collect
from nash_bench.report.cells import draw_cells
from nash_bench.report.chart import make_plot, place_labels, scale_of, staircase, tick_text
from nash_bench.report.files import published_results, write_report


class Page(HTMLParser):
    """What the page would load, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        for key in ("src", "srcset", "data", "poster", "xlink:href", "action"):
            if attributes.get(key):
                self.loads.append(attributes[key])
        if tag == "a":
            self.links.append(attributes["href"])
        elif attributes.get("href"):
            self.loads.append(attributes["href"])
        if tag not in ("meta", "link", "br", "path", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "line", "circle"):
            assert self.open.pop() == tag

    def classes(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


@pytest.fixture
def report(shared_report: Path) -> Path:
    return shared_report


def test_report_writes_every_file(report: Path) -> None:
    names = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    plots = {
        f"plots/pareto_{axis}_digits-test-360_U250_estimated{suffix}" for axis in AXES for suffix in (".svg", ".png")
    }
    assert names == {"results.csv", "results.json", "results.md", "results.tex", "index.html", *plots}


def test_tables_hold_the_same_figures(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    with (report / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [row["label"] for row in results["rows"]]
    found = {row["label"]: row for row in rows}
    assert float(found["resnet18-v3-w4a4"]["top1"]) == 95.5
    assert found["resnet18-v3-w4a4"]["DSP"] == ""  # unknown, not 0
    assert found["resnet18-w4a4"]["DSP"] == "8"
    assert {row["label"]: row["DSP"] for row in results["rows"]}["resnet18-v3-w4a4"] is None
    markdown = (report / "results.md").read_text()
    assert re.search(r"\| resnet18-v3-w4a4 \| w4a4 \| 95.50 \| 99.00 \| 41,500 \| 120 \| n/a \|", markdown)
    assert "| resnet18-v3-w4a4 | resnet18-w4a4 | +1.50 pp |" in markdown
    (pair,) = [pair for pair in results["pairs"] if pair["candidate"] == "resnet18-v3-w2a2"]
    assert pair["figures"]["top1"]["delta"] == 2


def test_report_is_reproducible(report: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_report([write_runs(tmp_path / "runs")], again)
    for path in report.rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(report)).read_bytes(), path.name


def test_page_loads_nothing(report: Path) -> None:
    text = (report / "index.html").read_text()
    page = Page(text)
    assert page.loads == ["data:,"]  # an empty icon, so that none is asked for
    assert page.open == []
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|import\(", text)


def test_links_lead_to_manifests_and_drawings(report: Path) -> None:
    page = Page((report / "index.html").read_text())
    ids = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    inside = [link for link in page.links if link.startswith("#")]
    outside = [link for link in page.links if not link.startswith("#")]
    assert {link[1:] for link in inside} <= ids
    assert sum(link.startswith("#n") and link[2:].isdigit() for link in inside) == 4  # a drawing for each row
    kinds = [manifest.load((report / unquote(link)).resolve(), Path(link).stem)["schema"] for link in outside]
    assert sorted(kinds) == ["nash.hardware/1.0"] * 4 + ["nash.model/1.0"] * 4


def test_page_shows_points_rows_and_pairs(report: Path) -> None:
    page = Page((report / "index.html").read_text())
    points = [point for point in page.classes("point") if not point["data-row"].startswith("p")]  # those are published
    assert len(points) == 4 + 4 + 2 + 4  # two rows have no DSP figure
    tip = json.loads(points[0]["data-tip"])
    assert tip["title"].startswith("resnet18")
    assert ["board", "U250, 200 MHz, estimated"] in tip["lines"]
    assert "The figures leave out: stream FIFOs." in (report / "index.html").read_text()
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "tr" and attributes.get("id")}
    assert {point["data-row"] for point in points} == {name for name in ids if not name.startswith("p")}
    assert len(page.classes("delta")) == 2 * 8 + 2  # each pair's nine figures but DSP, each gain at equal width
    assert len(page.classes("cell")) == 4  # two genotypes of two cells


def test_published_results_stand_apart(report: Path) -> None:
    text = (report / "index.html").read_text()
    ours, _, published = text.partition('<section id="published">')
    assert "They were not measured by this report" in published
    for point in published_results()["points"]:
        assert point["source"].split(",")[0] not in ours
        assert point["source"].split(",")[0] in published
    results = (report / "results.json").read_text() + (report / "results.csv").read_text()
    assert "arXiv" not in results


def test_names_are_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|\"'&"
    model = write_model(tmp_path / "run", name=name, has_files=False)
    write_hardware(tmp_path / "run", model)
    write_report([tmp_path / "run"], tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert" not in text
    assert json.loads(Page(text).classes("point")[0]["data-tip"])["title"] == name
    assert "\\|" in (tmp_path / "out" / "results.md").read_text()


def test_a_name_is_no_formula_and_steers_nothing(tmp_path: Path) -> None:
    model = write_model(tmp_path / "run", name="=1+1\u001b]0;owned\u0007\\input{x}", has_files=False)
    write_hardware(tmp_path / "run", model)
    write_report([tmp_path / "run"], tmp_path / "out")
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "results.csv").read_text())))
    assert table[0]["name"].startswith("'=1+1")
    assert "\\input{" not in (tmp_path / "out" / "results.tex").read_text()
    for path in (tmp_path / "out").rglob("*.*"):
        if path.suffix in (".svg", ".html", ".md", ".tex"):
            assert "\u001b" not in path.read_text(), path.name


@pytest.mark.parametrize(
    "options", [{"accuracy": None}, {"backbone": None}, {"variant": "v9"}, {"preset": "w8a8", "num_cells": 1}]
)
def test_sparse_manifests_are_reported(tmp_path: Path, options: dict[str, object]) -> None:
    write_model(tmp_path / "run", has_files=False, **options)
    _, results = write_report([tmp_path / "run"], tmp_path / "out")
    assert len(results["rows"]) == 1
    assert results["rows"][0]["LUT"] is None
    Page((tmp_path / "out" / "index.html").read_text())


def test_datasets_and_boards_are_never_in_one_plot(run_folder: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    for index, (board, split) in enumerate((("ZCU104", "test"), ("U250", "train"))):
        accuracy = ACCURACY | {"split": split}
        model = write_model(extra / board, name=f"x{index}", accuracy=accuracy, has_files=False, seed=index)
        write_hardware(extra / board, model, board=board)
    write_report([run_folder, extra], tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert len(page.classes("charts")) == 3 + 1  # and what others have published
    assert len(list((tmp_path / "out" / "plots").glob("pareto_LUT_*.svg"))) == 3


def test_unwritable_folder_is_output_error(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="choose another --out"):
        write_report([run_folder], tmp_path / "file" / "out")


def test_errors_and_warnings_stand_on_the_page(run_folder: Path, tmp_path: Path) -> None:
    change_json(run_folder / "resnet18-w2a2" / "qat" / "model.json", schema="nash.model/9.0")
    _, results = write_report([run_folder], tmp_path / "out")
    assert results["errors"][0]["exit_code"] == 3
    text = (tmp_path / "out" / "index.html").read_text()
    assert "got version 9.0" in text
    assert "resnet18-w2a2/hw/hardware.json: left out" in text


# Geometry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [[0, 0], [5, 5], [93.1, 93.2], [0, 100], [1, 1e6], [52_000, 118_000], [0.001, 0.0011], [100]]
)
def test_scale_holds_its_values(values: list[float]) -> None:
    scale = scale_of(values, may_be_log=True)
    assert all(0 <= scale(value) <= 1 for value in values)
    assert 1 <= len(scale.ticks) <= 14
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    assert scale.is_log == (values == [1, 1e6])


def test_accuracy_axis_ends_near_100() -> None:
    assert max(scale_of([90, 100], may_be_log=False, at_most=100).ticks) == 100


def test_ticks_are_short() -> None:
    assert [tick_text(value) for value in (0, 97.5, 2000, 150_000, 12_345)] == ["0", "97.5", "2000", "150k", "12345"]


def test_staircase_of_costs_and_of_throughput() -> None:
    row = None
    assert staircase([(row, 1, 90), (row, 3, 95)], "LUT", 5) == [(1, 90), (3, 90), (3, 95), (5, 95)]
    assert staircase([(row, 1, 95), (row, 3, 90)], "throughput_fps", 0) == [(3, 90), (1, 90), (1, 95), (0, 95)]


def test_labels_do_not_overlap() -> None:
    anchors = [(10.0 * k, 50.0 + (k % 3)) for k in range(20)]
    places = place_labels(anchors, ["w4a4"] * 20, char_width=6, height=10, box=(200, 100))
    boxes = [(x, y - 10, x + 24, y) for x, y in filter(None, places)]
    assert 3 <= len(boxes) < 20
    for index, a in enumerate(boxes):
        assert a[0] >= 0
        assert a[2] <= 200
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in boxes[:index])


def test_plot_counts_what_it_leaves_out(run_folder: Path) -> None:
    plot = make_plot(collect([run_folder]).rows, "DSP")
    assert (len(plot.known), plot.num_left_out) == (2, 2)


def test_cells_show_each_operation_once() -> None:
    made = genotype(variant="v1", num_cells=3)
    cells = draw_cells(made)
    assert [len(cell["operations"]) for cell in cells] == [4, 4, 4]
    assert all(len(cell["states"]) == 5 for cell in cells)
    assert all(arc["y"] > 8 for cell in cells for arc in cell["operations"])
    assert draw_cells(genotype())[0]["operations"] == []


def test_thousand_rows_are_reported(tmp_path: Path) -> None:
    template = json.loads(write_model(tmp_path / "t", has_files=False).read_text())
    for index in range(1000):
        content = template | {"name": f"net{index}", "accuracy": ACCURACY | {"top1": index / 20}}
        write_json(tmp_path / "runs" / str(index) / "model.json", content)
    _, results = write_report([tmp_path / "runs"], tmp_path / "out")
    assert len(results["rows"]) == 1000


def test_axis_title_of_lower_bounds_fits_the_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    widths = []

    def keep(figure: Figure, *arguments: object, save: object = Figure.savefig, **options: object) -> None:
        box = figure.axes[0].xaxis.label.get_window_extent()
        widths.append((box.x0 >= 0, box.x1 <= figure.bbox.width))
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    model = write_model(tmp_path / "run", has_files=False)
    hardware = write_hardware(tmp_path / "run", model, board="Pynq-Z1")
    unknown = dict.fromkeys(("LUT", "FF", "BRAM_18K", "URAM", "DSP"), 1)
    change_json(hardware, estimated=json.loads(hardware.read_text())["estimated"] | {"num_unknown": unknown})
    write_report([tmp_path / "run"], tmp_path / "out")
    assert widths == [(True, True)] * 8
