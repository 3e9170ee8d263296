"""Set candidates beside a baseline, figure by figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import manifest
from .figures import BY_KEY, COMPARED, NOT_KNOWN, Delta, delta_json, deltas
from .records import Record, require_comparable


def load_record(path: Path) -> Record:
    """Read the record of a benchmark manifest, or of a model manifest with its training's accuracy.

    Raises:
        ManifestError: the file is neither, or malformed.
    """
    if _kind(path) == "model":
        model = manifest.load(path, "model")
        return Record.from_model(model, manifest.file_sha256(path), source=path)
    return Record.from_benchmark(manifest.load(path, "benchmark"), source=path)


def _kind(path: Path) -> str | None:
    try:
        schema = json.loads(path.read_bytes())["schema"]
        return schema.removeprefix("nash.").partition("/")[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # the loader says what is wrong


def compare(baseline_path: Path, candidate_paths: Sequence[Path]) -> dict[str, Any]:
    """Return the baseline and each candidate with its differences; a figure that one of them lacks is None.

    Raises:
        ManifestError: a file is malformed.
        DataError: two records are not comparable.
    """
    baseline = load_record(baseline_path)
    candidates = [(path, load_record(path)) for path in candidate_paths]
    for path, candidate in candidates:
        require_comparable(baseline, candidate, names=(baseline_path, path))
    return {
        "baseline": _summary(baseline_path, baseline),
        "candidates": [
            _summary(path, candidate)
            | {"figures": {delta.key: delta_json(delta) for delta in deltas(baseline, candidate)}}
            for path, candidate in candidates
        ],
    }


def _summary(path: Path, record: Record) -> dict[str, Any]:
    accuracy, hardware = record.accuracy, record.hardware
    return {
        "path": str(path),
        "name": record.identity.name,
        "variant": record.identity.variant,
        "dataset": None if accuracy is None else "/".join(accuracy.key[:2]),
        "num_samples": None if accuracy is None else accuracy.num_samples,
        "board": None if hardware is None else hardware.board,
        "origin": None if hardware is None else hardware.origin,
    }


def comparison_table(result: dict[str, Any]) -> Any:
    """Return a rich table of a comparison: a column a network, figures downwards."""
    from rich.table import Table

    candidates = result["candidates"]
    table = Table(title=_title(result["baseline"]), title_justify="left", title_style="")
    table.add_column("figure")
    table.add_column(f"{result['baseline']['name']}\n(baseline)", justify="right")
    for candidate in candidates:
        table.add_column(candidate["name"], justify="right")
        table.add_column("difference", justify="right")
    for key in COMPARED:
        figure = BY_KEY[key]
        unit = f" [{figure.unit}]".replace("[", r"\[") if figure.unit else ""
        cells = [figure.label + unit, figure.text(candidates[0]["figures"][key]["baseline"])]
        for candidate in candidates:
            values = candidate["figures"][key]
            delta = Delta(key=key, baseline=values["baseline"], candidate=values["candidate"])
            cells += [figure.text(delta.candidate), difference_text(delta)]
        table.add_row(*cells)
    return table


def difference_text(delta: Delta) -> str:
    """Return a difference in its unit, and in percent of the baseline where that says something."""
    figure = BY_KEY[delta.key]
    if delta.difference is None:
        return NOT_KNOWN
    text = figure.delta_text(delta.difference) + (" pp" if figure.is_percentage else "")
    return text if delta.relative is None else f"{text} ({delta.relative:+.1%})".replace("(-", "(\N{MINUS SIGN}")


def _title(baseline: dict[str, Any]) -> str:
    parts = []
    if baseline["dataset"]:
        parts.append(f"{baseline['dataset']}, {baseline['num_samples']} samples")
    if baseline["board"]:
        parts.append(f"{baseline['board']}, {baseline['origin']}")
    return "; ".join(parts)
