"""Set candidates beside a baseline, figure by figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from ..base import json_file, manifest
from ..base.errors import DataError
from ..records.figures import (
    BOUNDS_LEGEND,
    BY_KEY,
    COMPARED,
    NOT_KNOWN,
    OF_BOUNDS,
    OF_TEST,
    SELECTION_LEGEND,
    Delta,
    delta_json,
    deltas,
    lower_bounds,
)
from ..records.outcomes import load_outcomes, paired_differences
from ..records.record import Record, require_comparable
from ..stats.paired import PairedDifference
from .configurations import configurations
from .seeds import seeds_json


def load_record(path: Path) -> Record:
    """Read the record of a benchmark manifest, or of a model manifest with its training's accuracy.

    Raises:
        ManifestError: the file is neither, or malformed.
        IntegrityError: the outcomes beside a benchmark have changed or are not its own.
    """
    if _kind(path) == "model":
        model = manifest.load(path, "model")
        return Record.from_model(model, manifest.file_sha256(path), source=path)
    benchmark = manifest.load(path, "benchmark")
    record = Record.from_benchmark(benchmark, source=path)
    return replace(record, outcomes=load_outcomes(path, benchmark, record.accuracy))


def _kind(path: Path) -> str | None:
    try:
        schema = json_file.read(path)["schema"]
        return schema.removeprefix("nash.").partition("/")[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # the loader says what is wrong


def compare(
    baseline_path: Path, candidate_paths: Sequence[Path], *, baseline_seeds: Sequence[Path] = ()
) -> dict[str, Any]:
    """Return the baseline and each candidate with its differences; a figure that one of them lacks is None.

    Where the baseline or a candidate comes in several seeds, `seeds` has means, spreads and their differences.

    Raises:
        ManifestError: a file is malformed.
        DataError: two records are not comparable, or one of `baseline_seeds` is not the baseline at another seed.
    """
    baseline = load_record(baseline_path)
    candidates = [(path, load_record(path)) for path in candidate_paths]
    others = [(path, load_record(path)) for path in baseline_seeds]
    for path, record in (*others, *candidates):
        require_comparable(baseline, record, names=(baseline_path, path))
    for path, record in others:
        if len(configurations([baseline, record])) != 1:
            raise DataError(
                f"{path}: is not {baseline_path} at another seed; name runs that differ in their seed alone"
            )
    return {
        "baseline": _summary(baseline_path, baseline),
        "candidates": [
            _summary(path, candidate)
            | {
                "figures": {delta.key: delta_json(delta) for delta in deltas(baseline, candidate)},
                "paired": paired_json(paired_differences(baseline.outcomes, candidate.outcomes)),
            }
            for path, candidate in candidates
        ],
        "seeds": seeds_json([baseline, *(record for _, record in others)], [record for _, record in candidates]),
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
        "lower_bounds": lower_bounds(record),
        "selected_on": record.identity.selected_on,
    }


def paired_json(paired: Mapping[str, PairedDifference | None]) -> dict[str, Any]:
    """Return paired differences for a machine."""
    return {key: None if found is None else asdict(found) for key, found in paired.items()}


def interval_text(paired: PairedDifference | None) -> str:
    """Return the 95 % interval of a difference to read."""
    if paired is None:
        return NOT_KNOWN
    return f"{paired.low:+.2f} to {paired.high:+.2f}".replace("-", "\N{MINUS SIGN}")


def p_text(paired: PairedDifference | None) -> str:
    """Return the p value to read."""
    if paired is None:
        return NOT_KNOWN
    return "< 0.001" if paired.p_value < 0.001 else f"{paired.p_value:.3f}"


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
        found = [_delta_of(key, result["baseline"], candidate) for candidate in candidates]
        figure = BY_KEY[key]
        unit = f" [{figure.unit}]".replace("[", r"\[") if figure.unit else ""
        cells = [figure.label + unit, side_text(found[0], "baseline")]
        for delta in found:
            cells += [side_text(delta, "candidate"), difference_text(delta)]
        table.add_row(*cells)
        if figure.is_percentage:
            paired = [_paired_of(candidate, key) for candidate in candidates]
            table.add_row("  95 % interval", "", *(text for one in paired for text in ("", interval_text(one))))
            table.add_row("  McNemar's p", "", *(text for one in paired for text in ("", p_text(one))))
    networks = (result["baseline"], *candidates)
    notes = [BOUNDS_LEGEND] if any(network["lower_bounds"] for network in networks) else []
    notes += [SELECTION_LEGEND] if any(network["selected_on"] == "test" for network in networks) else []
    if notes:
        table.caption, table.caption_justify, table.caption_style = "\n".join(notes), "left", ""
    return table


def _delta_of(key: str, baseline: dict[str, Any], candidate: dict[str, Any]) -> Delta:
    values, is_accuracy = candidate["figures"][key], BY_KEY[key].is_percentage
    return Delta(
        key=key,
        baseline=values["baseline"],
        candidate=values["candidate"],
        is_baseline_bound=key in baseline["lower_bounds"],
        is_candidate_bound=key in candidate["lower_bounds"],
        is_baseline_selected=is_accuracy and baseline["selected_on"] == "test",
        is_candidate_selected=is_accuracy and candidate["selected_on"] == "test",
    )


def _paired_of(candidate: dict[str, Any], key: str) -> PairedDifference | None:
    found = candidate["paired"][key]
    return None if found is None else PairedDifference(**found)


def side_text(delta: Delta, side: Literal["baseline", "candidate"]) -> str:
    """Return the value of one side of a difference to read, with its marks."""
    value = getattr(delta, side)
    text = BY_KEY[delta.key].text(value, is_lower_bound=getattr(delta, f"is_{side}_bound"))
    is_marked = value is not None and getattr(delta, f"is_{side}_selected")
    return f"{text}{OF_TEST}" if is_marked else text


def difference_text(delta: Delta) -> str:
    """Return a difference in its unit, and in percent of the baseline where that says something."""
    figure = BY_KEY[delta.key]
    if delta.difference is None:
        return NOT_KNOWN
    text = figure.delta_text(delta.difference) + (" pp" if figure.is_percentage else "")
    if delta.relative is not None:
        text = f"{text} ({delta.relative:+.1%})".replace("(-", "(\N{MINUS SIGN}")
    return " ".join([text, *marks_of(delta)])


def marks_of(delta: Delta) -> list[str]:
    """Return the marks of a difference: of bounds, of accuracies that networks were chosen by."""
    found = [OF_BOUNDS] if delta.is_of_bounds else []
    return [*found, OF_TEST] if delta.is_of_selected else found


def _title(baseline: dict[str, Any]) -> str:
    parts = []
    if baseline["dataset"]:
        parts.append(f"{baseline['dataset']}, {baseline['num_samples']} samples")
    if baseline["board"]:
        parts.append(f"{baseline['board']}, {baseline['origin']}")
    return "; ".join(parts)
