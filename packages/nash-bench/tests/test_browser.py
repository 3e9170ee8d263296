"""The page in a real browser: what its script does, and that it fits a phone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install it to open the page in a browser"),
]
Browse = Callable[..., str]


@pytest.fixture
def page(shared_report: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(shared_report / "index.html", tmp_path))


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    def run(path: Path, *options: str, width: int = 1280, height: int = 900) -> str:
        arguments = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"]
        done = subprocess.run(
            [*arguments, *options, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    return run


def ask(browse: Browse, page: Path, script: str, *, width: int = 1280) -> object:
    """Run a script in the page after its own and return what it leaves in `answer`."""
    probe = page.with_name("probe.html")
    tail = f"<script>let answer; {script}; document.body.dataset.answer = JSON.stringify(answer);</script></body>"
    probe.write_text(page.read_text("utf-8").replace("</body>", tail), "utf-8")
    dom = browse(probe, "--dump-dom", width=width)
    found = re.search(r'data-answer="([^"]*)"', dom)
    assert found, "the page's script failed"
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))


def test_columns_sort_both_ways_and_unknown_last(browse: Browse, page: Path) -> None:
    script = """
      const table = document.querySelector("#results table"), seen = [];
      const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.includes("%s"));
      for (const turn of [1, 2]) {
        table.tHead.rows[0].cells[column].querySelector("button").click();
        seen.push([...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim()));
      }
      answer = seen
    """
    down, up = ask(browse, page, script % "top-1")
    assert down == ["95.50", "94.00", "90.00", "88.00"]  # the better first
    assert up == down[::-1]
    for order in ask(browse, page, script % "DSP"):
        assert order[2:] == ["n/a", "n/a"]


def test_thousand_rows_sort(browse: Browse, page: Path) -> None:
    script = """
      const table = document.querySelector("#results table"), heads = [...table.tHead.rows[0].cells];
      const column = heads.findIndex((cell) => cell.textContent.includes("top-1"));
      const rows = Array.from({ length: 1000 }, (_, k) => {
        const row = table.tBodies[0].rows[0].cloneNode(true);
        row.cells[column].dataset.sort = 50 + (k * 37 % 1000) / 25;
        return row;
      });
      table.tBodies[0].replaceChildren(...rows);
      heads[column].querySelector("button").click();
      answer = [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.sort))
    """
    assert ask(browse, page, script) == sorted((50 + k / 25 for k in range(1000)), reverse=True)


def test_link_to_a_drawing_unfolds_it(browse: Browse, page: Path) -> None:
    script = """
      const link = document.querySelector('#results a[href="#n0"]'), drawing = document.getElementById("n0");
      drawing.open = false;
      link.click();
      answer = drawing.open
    """
    assert ask(browse, page, script) is True


def test_point_shows_its_figures_and_its_row(browse: Browse, page: Path) -> None:
    script = """
      const point = document.querySelector(".point"), tip = document.getElementById("tip");
      point.dispatchEvent(new PointerEvent("pointerenter"));
      const open = [tip.hidden, tip.textContent, document.querySelector("#results tr.on th").textContent];
      point.dispatchEvent(new PointerEvent("pointerleave"));
      answer = [...open, tip.hidden]
    """
    is_hidden, text, row, is_hidden_after = ask(browse, page, script)
    assert (is_hidden, is_hidden_after) == (False, True)
    assert "95.50 %" in text or "90.00 %" in text or "94.00 %" in text or "88.00 %" in text
    assert text.startswith(re.search(r"resnet18\S*a[24]", row)[0])


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_page_is_not_wider_than_the_screen(browse: Browse, page: Path, width: int) -> None:
    size = ask(browse, page, "answer = [document.documentElement.scrollWidth, innerWidth]", width=width)
    assert size[0] <= size[1]


def test_theme_turns_dark(browse: Browse, page: Path) -> None:
    script = """
      const ground = () => getComputedStyle(document.body).backgroundColor, before = ground();
      document.querySelector("button.theme").click();
      answer = [before, ground()]
    """
    before, after = ask(browse, page, script)
    assert {before, after} == {"rgb(246, 247, 249)", "rgb(14, 19, 25)"}


@pytest.mark.parametrize("width", [820, 1280])
def test_screenshot_shows_every_plot(browse: Browse, page: Path, tmp_path: Path, width: int) -> None:
    """In each plot, where the browser puts it, are markers and a front's line; the picture is kept on request.

    No figure of DSPs is known of the NASH networks.
    """
    script = """
      const place = ({left, top, right, bottom}) => [left, top + scrollY, right, bottom + scrollY];
      answer = [...document.querySelectorAll("#plots .chart")].map((chart) => place(chart.getBoundingClientRect()))
    """
    boxes = ask(browse, page, script, width=width)
    assert len(boxes) == 4
    height = round(max(box[3] for box in boxes)) + 20
    shot = Path(os.environ.get("NASH_SCREENSHOTS", tmp_path), f"report-{width}.png").resolve()
    shot.parent.mkdir(parents=True, exist_ok=True)
    browse(page, f"--screenshot={shot}", width=width, height=height)
    with Image.open(shot) as picture:
        assert picture.size == (width, height)
        for number, box in enumerate(boxes):
            colors = {color for _, color in picture.convert("RGB").crop(tuple(map(round, box))).getcolors(1 << 24)}
            assert (75, 85, 99) in colors  # a baseline marker
            nash_marker, nash_front = (213, 94, 0), (22, 32, 44)
            assert ({nash_marker, nash_front} <= colors) == (number != 2)


def test_published_results_are_filtered_by_dataset(browse: Browse, page: Path) -> None:
    script = """
      const select = document.querySelector(".filter select"), seen = [];
      const all = (kind) => [...document.querySelectorAll(`#published ${kind}[data-dataset]`)];
      const shown = (kind) => all(kind).filter((one) => !one.hidden);
      for (const value of ["", "cifar10"]) {
        select.value = value;
        select.dispatchEvent(new Event("change"));
        seen.push([shown("figure").length, new Set(shown("tr").map((row) => row.dataset.dataset)).size]);
      }
      answer = seen
    """
    everything, cifar = ask(browse, page, script)
    assert everything == [2, 3]  # CIFAR-10, ImageNet, and rows that name none
    assert cifar == [1, 1]
