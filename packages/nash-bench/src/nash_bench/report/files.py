"""Write what was found under run folders as tables, plots and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from ..base import atomic, lock
from ..base.manifest import PACKAGE, atomic_path
from ..base.quoting import visible
from ..compare.comparison import difference_text, interval_text, p_text, paired_json
from ..compare.configurations import configurations
from ..compare.equal_cost import gains_of
from ..compare.families import COSTS, Pair, dominated, fronts_of, pairs_of, panels
from ..compare.gains_text import (
    GAINS_LEGEND,
    configuration_json,
    gains_json,
    gains_lines,
    gains_table,
    verdict_json,
    verdict_line,
)
from ..compare.headline import verdicts
from ..records.collect import Collection, Row, collect
from ..records.figures import BY_KEY, FIGURES, NOT_KNOWN, delta_json, legends, lower_bounds
from .latex import escape, tabular
from .page import render_page
from .plots import write_plots

_SHOWN = ("top1", "top5", "LUT", "BRAM_18K", "DSP", "throughput_fps", "latency_us")
TITLE = "NASH report"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_report(run_dirs: Sequence[Path], out: Path, *, title: str = TITLE) -> tuple[Collection, dict[str, Any]]:
    """Write results.csv, .json, .md, .tex, the plots and index.html into `out`; return what was found and the results.

    Raises:
        UsageError: a folder does not exist, or they hold no manifest.
        OutputError: a file cannot be written.
    """
    collection = collect(run_dirs)
    results = results_json(collection)
    with lock.held(out):
        with atomic.staged(out) as folder:
            written = _written(collection, results, folder, title=title, place=out)
        files = [str(out / path.relative_to(folder)) for path in written]
        return collection, results | {"page": str(out / "index.html"), "files": files}


def _written(collection: Collection, results: dict[str, Any], out: Path, *, title: str, place: Path) -> list[Path]:
    """Write all files to a folder that will be `place`; return their paths."""
    written = [
        _write(out / "results.json", json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n"),
        _write(out / "results.csv", _csv_text(results["rows"])),
        _write(out / "results.md", _markdown(collection, title)),
        _write(out / "results.tex", _latex(collection, title)),
        *write_plots(collection.rows, out / "plots"),
    ]
    page = render_page(collection, published_results(), version=metadata.version(PACKAGE), title=title, place=place)
    written.append(_write(out / "index.html", page))
    return written


def published_results() -> dict[str, Any]:
    """Return the published reference results, each with its source; they are nobody's measurement here."""
    return json.loads(resources.files(__package__).joinpath("published_results.json").read_text("utf-8"))


def results_json(collection: Collection) -> dict[str, Any]:
    """Return rows, pairs, configurations, gains, verdicts, warnings and errors for a machine."""
    found = configurations([row.record for row in collection.rows])
    return {
        "created_by": {"package": PACKAGE, "version": metadata.version(PACKAGE)},
        "rows": [_row_json(row, axes) for row, axes in zip(collection.rows, fronts_of(collection.rows), strict=True)],
        "pairs": [
            {
                "baseline": pair.baseline.label,
                "candidate": pair.candidate.label,
                "figures": {delta.key: delta_json(delta) for delta in pair.deltas},
                "paired": paired_json(pair.paired),
            }
            for pair in pairs_of(collection)
        ],
        "configurations": [configuration_json(one) for one in found],
        "gains": [gains_json(one) for one in gains_of(collection)],
        "verdicts": [verdict_json(one) for one in verdicts(gains_of(collection))],
        "hypervolumes": _hypervolumes(collection.rows),
        "warnings": list(collection.warnings),
        "errors": [
            {"kind": error.kind, "message": str(error), "exit_code": error.exit_code} for error in collection.errors
        ],
    }


def _hypervolumes(rows: Sequence[Row]) -> list[dict[str, Any]]:
    names = ("dataset", "split", "num_samples", "board", "origin")
    return [
        dict(zip(names, key, strict=True)) | asdict(found)
        for key, members in panels(rows).items()
        for axis in COSTS
        if (found := dominated(members, axis)) is not None
    ]


def _row_json(row: Row, axes: tuple[str, ...]) -> dict[str, Any]:
    record = row.record
    identity, accuracy, hardware = record.identity, record.accuracy, record.hardware
    return {
        "label": row.label,
        "name": identity.name,
        "is_baseline": identity.is_baseline,
        "kind": identity.kind,
        "backbone": identity.backbone,
        "variant": identity.variant,
        **identity.to_json(),
        "dataset": accuracy and accuracy.dataset,
        "split": accuracy and accuracy.split,
        "num_samples": accuracy and accuracy.num_samples,
        "accuracy_source": row.accuracy_source,
        "board": hardware and hardware.board,
        "origin": hardware and hardware.origin,
        "clock_mhz": hardware and hardware.clock_mhz,
        "target": hardware and hardware.target,
        **{figure.key: figure.value(record) for figure in FIGURES},
        "cpu_latency_p50_us": record.cpu and record.cpu.latency_p50_us,
        "cpu_latency_p99_us": record.cpu and record.cpu.latency_p99_us,
        "lower_bounds": lower_bounds(record),
        "pareto_front": list(axes),
        "folder": row.folder,
        "hardware_folder": row.hardware_folder,
        "model_sha256": identity.model_sha256,
    }


def _csv_text(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    lists = ("pareto_front", "lower_bounds")
    for row in rows:
        cells = row | {key: " ".join(row[key]) for key in lists}
        writer.writerow({key: _without_formula(cell) for key, cell in cells.items()})
    return text.getvalue()


def _without_formula(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _cells(row: Row) -> list[str]:
    """Return a row as the short tables show it."""
    identity, hardware = row.record.identity, row.record.hardware
    figures = [BY_KEY[key].text_of(row.record) for key in _SHOWN]
    built = NOT_KNOWN if hardware is None else f"{hardware.board}, {hardware.origin}"
    return [row.label, visible(identity.preset or identity.bits or NOT_KNOWN), *figures, visible(built)]


def _heads() -> list[str]:
    units = {key: BY_KEY[key].unit for key in ("top1", "top5", "latency_us")}
    shown = [f"{BY_KEY[key].label} ({units[key]})" if key in units else BY_KEY[key].label for key in _SHOWN]
    return ["network", "bits", *shown, "hardware"]


def results_table(collection: Collection) -> Any:
    """Return the results as a rich table for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, head in enumerate(_heads()):
        is_text = index < 2 or head == "hardware"
        table.add_column(head, justify="left" if is_text else "right", overflow="fold" if is_text else "ellipsis")
    for row in collection.rows:
        style = "" if row.record.identity.is_baseline else "bold"
        table.add_row(*(Text(cell) for cell in _cells(row)), style=style)
    return table


def pairs_text(collection: Collection) -> list[str]:
    """Return a line for each NASH network and its baseline, and for each configuration at equal width and cost."""
    lines = [f"{pair.candidate.label} over {pair.baseline.label}: {_pair_text(pair)}" for pair in pairs_of(collection)]
    gains = gains_of(collection)
    return [*lines, *gains_lines(gains), *_legends(collection), *map(verdict_line, verdicts(gains))]


def _legends(collection: Collection) -> list[str]:
    return legends([row.record for row in collection.rows])


def _pair_text(pair: Pair) -> str:
    known = [delta for delta in pair.deltas if delta.difference is not None]
    intervals = {key: f" ({interval_text(found)})" for key, found in pair.paired.items() if found is not None}
    return ", ".join(
        f"{BY_KEY[delta.key].label} {difference_text(delta)}{intervals.get(delta.key, '')}" for delta in known
    )


def _markdown(collection: Collection, title: str) -> str:
    lines = [f"# {title}", "", *_markdown_table(_heads(), [_cells(row) for row in collection.rows])]
    pairs = pairs_of(collection)
    if pairs:
        heads, cells = _pair_table(pairs)
        lines += ["", "## NASH against its baseline", "", *_markdown_table(heads, cells)]
    gains = gains_of(collection)
    if gains:
        lines += [
            "",
            "## At equal width and at equal cost",
            "",
            *(f"{verdict_line(found)}\n" for found in verdicts(gains)),
            *_markdown_table(*gains_table(gains)),
            "",
            GAINS_LEGEND,
        ]
    for legend in _legends(collection):
        lines += ["", legend]
    published = [
        [point["name"], point.get("dataset"), point.get("board"), *_published_accuracy(point), point["source"]]
        for point in published_results()["points"]
    ]
    heads = ["published", "dataset", "board", "top-1 (%)", "top-5 (%)", "fps", "source"]
    lines += ["", "## Published reference results (by others, not measured here)", ""]
    lines += _markdown_table(
        heads, [[NOT_KNOWN if cell is None else str(cell) for cell in cells] for cells in published]
    )
    return "\n".join(lines) + "\n"


def _pair_table(pairs: Sequence[Pair]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the pairs, an interval and a p value beside each difference of an accuracy."""
    heads = ["NASH network", "baseline"]
    for delta in pairs[0].deltas:
        heads.append(BY_KEY[delta.key].label)
        heads += _INTERVAL_HEADS if delta.key in pairs[0].paired else []
    cells = []
    for pair in pairs:
        cells.append([pair.candidate.label, pair.baseline.label])
        for delta in pair.deltas:
            cells[-1].append(difference_text(delta))
            if delta.key in pair.paired:
                found = pair.paired[delta.key]
                cells[-1] += [interval_text(found), p_text(found)]
    return heads, cells


def _latex(collection: Collection, title: str) -> str:
    """Return the results and the pairs as tables to \\input into a paper that uses booktabs."""
    heads = _heads()
    tables = [tabular(heads, [_cells(row) for row in collection.rows], is_right=[h in _RIGHT for h in heads])]
    pairs = pairs_of(collection)
    if pairs:
        heads, cells = _pair_table(pairs)
        tables.append(tabular(heads, cells, is_right=[head in _RIGHT for head in heads]))
    gains = gains_of(collection)
    if gains:
        heads, cells = gains_table(gains)
        tables.append(tabular(heads, cells, is_right=[head != heads[0] for head in heads]))
    notes = [escape(legend) for legend in _legends(collection)]
    preamble = f"% {escape(title)}\n% needs \\usepackage{{booktabs}}"
    return "\n\n".join([preamble, *tables, *notes]) + "\n"


def _published_accuracy(point: dict[str, Any]) -> list[Any]:
    def of(key: str) -> Any:
        return point.get(key, f"+{point[key + '_gain']} pp" if f"{key}_gain" in point else None)

    return [of("top1"), of("top5"), point.get("throughput_fps")]


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---", *("---:" if head in _RIGHT else "---" for head in heads[1:])]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (heads, ruler, *rows)]


_INTERVAL_HEADS = ["95 % interval", "p"]
_RIGHT = {*_heads()[2:-1], *(figure.label for figure in FIGURES), *_INTERVAL_HEADS, "top-1 (%)", "top-5 (%)"}


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
    return path
