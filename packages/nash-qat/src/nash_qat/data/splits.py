"""The parts of a dataset that a run has: trained on, watched while it trains, and read once at its end.

The validation split is the folder val/ of an image folder that has test/, too; else it is cut from the training split,
class by class, in an order that is the same for every run, so that the networks of two runs, one of which may teach or
start the other, were not trained on each other's validation pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError, UsageError
from . import pictures
from .datasets import Split

DEFAULT_FRACTION, DEFAULT_MOST = 0.1, 10_000
_CHUNK = 1024
_HELD_OUT = " (held out)"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What is trained on, what epochs are watched on (None: there is nothing but `test` for it), and the test split."""

    train: Split
    test: Split
    validation: Split | None = None

    @property
    def watched(self) -> tuple[str, Split]:
        """Return the split that epochs are watched on and compared by, with its name."""
        return ("test", self.test) if self.validation is None else ("validation", self.validation)

    def record(self) -> dict[str, dict[str, Any] | None]:
        """Return how many pictures each split has and what they are, as the model manifest has it."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: None if split is None else {"name": split.name, "count": len(split), "digest": digest(split)}
            for name, split in found.items()
        }


def load(
    dataset: str,
    shape: tuple[int, int, int],
    num_classes: int,
    data_dir: Path | None,
    *,
    val_fraction: float | None,
    skip_broken: bool = False,
) -> Splits:
    """Return the splits of a dataset for a network's input (C, H, W).

    `val_fraction` of the training pictures are held out for validation, 0 for none; None is a tenth, but 10,000 at
    most, or the dataset's own validation split.

    Raises:
        UsageError: the fraction is out of range, or given where the dataset has a validation split of its own.
        DataError: the dataset is broken, its splits have different classes, or no picture can be held out.
    """

    def split(name: Any) -> Split:
        return pictures.load(dataset, name, shape, num_classes, data_dir, skip_broken=skip_broken)

    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise UsageError(f"--val-fraction: got {val_fraction:g}, expected at least 0 and less than 1")
    has_own = _has_own(dataset, data_dir)
    if has_own and val_fraction:
        raise UsageError(
            f"--val-fraction: got {val_fraction:g}, but {data_dir} has a folder val beside test, which is the "
            "validation split; leave the option out"
        )
    train, test = split("train"), split("test")
    if has_own:
        splits = Splits(train=train, test=test, validation=split("val"))
    elif val_fraction == 0:
        splits = Splits(train=train, test=test)
    else:
        train, validation = hold_out(train, val_fraction)
        splits = Splits(train=train, test=test, validation=validation)
    for other in (splits.validation, test):
        if other is not None and other.class_names != train.class_names:
            _refuse_classes(train, other)
    return splits


def fraction_of_search(genotype: Mapping[str, Any], dataset: str, data_dir: Path | None) -> float | None:
    """Return the share of a dataset's training pictures that a genotype's search held out.

    None: it names none, or the dataset has a validation split of its own.
    """
    if _has_own(dataset, data_dir):
        return None
    search = genotype.get("search") or {}
    held = search.get("held_out") if search.get("dataset") == dataset else None
    return held["fraction"] if held else None


def seen_by_search(genotype: Mapping[str, Any], dataset: str, data: Mapping[str, Any]) -> bool | None:
    """Say whether a genotype's search may have trained on validation pictures of a run, whose record is `data`.

    None: there was no search, or on another dataset, or nothing is held out. What a smaller fraction holds out, a
    larger one does, too, so numbers tell.
    """
    search, validation = genotype.get("search") or {}, data.get("validation")
    if search.get("dataset") != dataset or validation is None:
        return None
    if not validation["name"].endswith(_HELD_OUT):
        return False  # a folder of its own
    held, num_pictures = search.get("held_out"), data["train"]["count"] + validation["count"]
    return not (held and held["num_pictures"] == num_pictures and held["count"] >= validation["count"])


def hold_out(split: Split, fraction: float | None) -> tuple[Split, Split]:
    """Return a split without the held-out pictures, and those: of each class the same share.

    A class keeps at least one picture, and gives at least one where it has two. What a smaller fraction holds out, a
    larger one does, too. None is a tenth, but 10,000 pictures at most.

    Raises:
        DataError: no class has two pictures.
    """
    share = min(DEFAULT_FRACTION, DEFAULT_MOST / len(split)) if fraction is None else fraction
    random = np.random.Generator(np.random.PCG64(0))
    held: list[NDArray[np.int64]] = []
    for label in range(len(split.class_names)):
        members = np.flatnonzero(split.labels == label)
        number = min(max(1, round(share * len(members))), max(0, len(members) - 1))
        held.append(members[np.argsort(random.random(len(members)), kind="stable")[:number]])
    chosen = np.sort(np.concatenate(held))
    if not len(chosen):
        raise DataError(
            f"{split.name}: no class has two pictures, expected some to hold out for validation; pass --val-fraction 0"
        )
    left = np.setdiff1d(np.arange(len(split)), chosen)
    return pictures.part(split, left), pictures.part(split, chosen, name=f"{split.name}{_HELD_OUT}")


def digest(split: Split) -> str:
    """Return a hash of a split: of its class names and labels, and of the names and sizes of its picture files.

    It is the SHA-256 of the class names as a JSON list, the labels as little-endian int64, and then, for each picture
    in order, of a file the path from its class folder on, a zero byte, the size in decimal and a new line, of other
    pictures the bytes of their pixels (C, H, W) as the network sees them.

    Raises:
        DataError: a file is gone.
    """
    found = hashlib.sha256(json.dumps(list(split.class_names)).encode())
    found.update(np.ascontiguousarray(split.labels, dtype="<i8"))
    files = pictures.files_of(split.images)
    if files is None:
        for start in range(0, len(split), _CHUNK):
            indices = np.arange(start, min(start + _CHUNK, len(split)))
            found.update(np.ascontiguousarray(split.images[indices]))
        return found.hexdigest()
    for path, label in zip(files, split.labels.tolist(), strict=True):
        parts = path.parts
        folder = len(parts) - parts[::-1].index(split.class_names[label]) - 1
        name = "/".join(parts[folder:])
        found.update(f"{name}\0{_size(path)}\n".encode())
    return found.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def _has_own(dataset: str, data_dir: Path | None) -> bool:
    if dataset != "imagefolder" or data_dir is None:
        return False
    return all((data_dir / name).is_dir() for name in ("train", "val", "test"))


def _refuse_classes(train: Split, other: Split) -> None:
    ours, theirs = set(train.class_names), set(other.class_names)
    raise DataError(
        f"{other.name}: got the classes {_few(theirs - ours)}, expected {_few(ours - theirs)} as {train.name} has; "
        "give all splits the same class folders"
    )


def _few(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
