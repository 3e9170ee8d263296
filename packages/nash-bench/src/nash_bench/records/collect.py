"""Find the manifests under run folders and put together which belong to one network.

A model manifest is known by its SHA-256; hardware and benchmark manifests name the model they are of by it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base import manifest
from ..base.errors import IntegrityError, ManifestError, NashError, UsageError
from ..base.quoting import brief, visible
from .facts import Hardware
from .outcomes import load_outcomes
from .record import Record, hardware_from_manifest

KINDS = ("model", "benchmark", "hardware")
_LONGEST_LABEL = 120


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network, on one board or none: a line of the table."""

    label: str
    record: Record
    genotype: dict[str, Any] | None
    accuracy_source: str | None
    folder: str
    hardware_folder: str | None = None
    manifests: tuple[Path, ...] = ()

    @property
    def panel(self) -> tuple[str, str, int, str, str] | None:
        """Return what rows of one plot share: dataset, split, samples, board, origin; None if the row fits no plot."""
        accuracy, hardware = self.record.accuracy, self.record.hardware
        return None if accuracy is None or hardware is None else accuracy.key + hardware.key


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """What was found: the rows, what is odd about it, and what could not be read; equal to itself alone."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    errors: tuple[NashError, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    folder: str
    sha256: str
    content: dict[str, Any]


@dataclass
class _Notes:
    warnings: list[str] = field(default_factory=list)
    errors: list[NashError] = field(default_factory=list)


def collect(run_dirs: Sequence[Path]) -> Collection:
    """Read every model, hardware and benchmark manifest under the folders; what is broken is noted, the rest read.

    Raises:
        UsageError: a folder does not exist, or they hold no manifest at all.
        NashError: the only manifests there are broken; the error of the first.
    """
    notes = _Notes()
    files: dict[str, list[_File]] = {kind: [] for kind in KINDS}
    for path, folder in _manifests(run_dirs):
        kind = path.stem
        try:
            found = _File(
                path=path, folder=folder, sha256=manifest.file_sha256(path), content=manifest.load(path, kind)
            )
        except (ManifestError, IntegrityError) as error:
            notes.errors.append(error)
            continue
        if found.sha256 not in {other.sha256 for other in files[kind]}:  # a copy says nothing new
            files[kind].append(found)
    rows = _with_labels(_rows(files, notes))
    if not rows:
        if notes.errors:
            raise notes.errors[0]
        folders = ", ".join(map(str, run_dirs))
        raise UsageError(f"{folders}: holds no model.json and no benchmark.json; pass the folders of nash-qat's runs")
    return Collection(rows=rows, warnings=tuple(notes.warnings), errors=tuple(notes.errors))


def _manifests(run_dirs: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    seen = set()
    for run_dir in run_dirs:
        if not run_dir.is_dir():
            raise UsageError(f"{run_dir}: got no folder, expected one that holds manifests; check the path")
        root = run_dir.resolve()
        for place, folders, names in os.walk(root):
            folders.sort()
            for name in (f"{kind}.json" for kind in KINDS):
                path = Path(place, name)
                if name in names and path not in seen:
                    seen.add(path)
                    yield path, path.parent.relative_to(root.parent).as_posix()


def _rows(files: dict[str, list[_File]], notes: _Notes) -> list[Row]:
    models = {file.sha256: file for file in files["model"]}
    benchmarks, hardware = defaultdict(list), defaultdict(list)
    for file in files["benchmark"]:
        benchmarks[file.content["model"]["sha256"]].append(file)
    for file in files["hardware"]:
        hardware[file.content["model"]["sha256"]].append(file)
    known = [*models, *(sha256 for sha256 in benchmarks if sha256 not in models)]
    for sha256 in hardware:
        if sha256 not in known:
            notes.warnings += [
                f"{file.path}: left out, its model {sha256[:12]}... is not among the folders"
                for file in hardware[sha256]
            ]
    rows: list[Row] = []
    for sha256 in known:
        rows += _rows_of_model(models.get(sha256), benchmarks[sha256], hardware[sha256], notes)
    return rows


def _rows_of_model(model: _File | None, benchmarks: list[_File], built: list[_File], notes: _Notes) -> list[Row]:
    """Return a row for each pair of a measured accuracy (the training's, if none was measured) and an accelerator."""
    evaluated: list[tuple[str | None, Record, _File]] = []
    for file in benchmarks:
        record = _try(lambda file=file: Record.from_benchmark(file.content, source=file.path), notes)
        if record is None:
            continue
        rival = next((other for _, known, other in evaluated if known.accuracy.key == record.accuracy.key), None)
        if rival is not None:
            notes.warnings.append(f"{file.path}: left out, {rival.path} is of the same model and dataset")
            continue
        outcomes = _try(lambda file=file, own=record: load_outcomes(file.path, file.content, own.accuracy), notes)
        evaluated.append(("benchmark", replace(record, outcomes=outcomes), file))
    if not evaluated and model is not None:
        record = _try(lambda: Record.from_model(model.content, model.sha256, source=model.path), notes)
        if record is not None:
            evaluated.append(("training" if record.accuracy else None, record, model))

    figures = [
        (_try(lambda file=file: hardware_from_manifest(file.content, source=file.path), notes), file) for file in built
    ]
    accelerators = [(hardware, file) for hardware, file in figures if hardware is not None]
    hashes = {file.sha256 for file in built}
    rows = []
    for source, record, file in evaluated:
        own = [(record.hardware, file)] if _is_only_here(record.hardware, file, hashes) else []
        for hardware, source_of_it in [*accelerators, *own] or [(None, None)]:
            known = [found.path for found in (model, file, source_of_it) if found is not None]
            rows.append(
                Row(
                    label=brief(record.identity.name, _LONGEST_LABEL, is_text=True),
                    record=replace(record, hardware=hardware),
                    genotype=None if model is None else model.content["genotype"]["copy"],
                    accuracy_source=source,
                    folder=(model or file).folder,
                    hardware_folder=source_of_it and source_of_it.folder,
                    manifests=tuple(dict.fromkeys(known)),
                )
            )
    return rows


def _is_only_here(hardware: Hardware | None, file: _File, hashes: set[str]) -> bool:
    """Tell whether a benchmark carries hardware figures whose own manifest was not found."""
    return hardware is not None and not any(entry["sha256"] in hashes for entry in file.content["inputs"])


def _try(make: Any, notes: _Notes) -> Any:
    try:
        return make()
    except (ManifestError, IntegrityError) as error:
        notes.errors.append(error)
        return None


def _with_labels(rows: list[Row]) -> tuple[Row, ...]:
    """Give networks that share a name the run folder that tells them apart, then accelerators of one network theirs."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        folders[row.record.identity.name][row.record.identity.model_sha256] = row.folder
    labelled = []
    for row in rows:
        twins = folders[row.record.identity.name]
        if len(twins) > 1:
            told_apart = dict(zip(twins, distinct_parts(list(twins.values())), strict=True))
            label = f"{row.label} ({told_apart[row.record.identity.model_sha256]})"
            labelled.append(replace(row, label=label))
        else:
            labelled.append(row)
    places: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(labelled):
        places[(row.label, row.panel)].append(index)
    for indices in places.values():
        if len(indices) > 1:
            parts = distinct_parts([labelled[index].hardware_folder or "" for index in indices])
            for index, part in zip(indices, parts, strict=True):
                labelled[index] = replace(labelled[index], label=visible(f"{labelled[index].label} [{part}]"))
    return tuple(labelled)


def distinct_parts(folders: Sequence[str]) -> list[str]:
    """Return what tells each path from the others, without the folders all begin or end with.

    >>> distinct_parts(["runs/seed0/qat", "runs/seed1/qat"])
    ['seed0', 'seed1']
    """
    parts = [folder.split("/") for folder in folders]
    start = _num_shared(parts)
    end = _num_shared([part[start:][::-1] for part in parts])
    cut = ["/".join(part[start : len(part) - end]) for part in parts]
    return cut if all(cut) and len(set(cut)) == len(cut) else list(folders)


def _num_shared(lists: Sequence[Sequence[str]]) -> int:
    """Return how many entries all lists begin with alike."""
    count = 0
    for entries in zip(*lists, strict=False):
        if len(set(entries)) > 1:
            break
        count += 1
    return count
