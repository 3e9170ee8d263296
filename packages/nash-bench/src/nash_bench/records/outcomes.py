"""Which pictures of a split a network got right, kept beside its benchmark so that two networks compare in pairs.

The file is JSON: a bit a picture in the split's order (first picture in the highest bit of the first byte), in
hexadecimal, and hashes that prove the order and the pictures to be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..base import json_file, manifest
from ..base.errors import IntegrityError, OutputError
from ..data.datasets import Split
from ..stats.paired import PairedDifference, paired_difference
from .facts import Accuracy

ROLE = "outcomes"
_FORMAT = "nash-bench.outcomes/1"


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Top-1 and top-5 hits on one split, a bit a picture; top-5 is None where the network has five classes or less."""

    num_samples: int
    labels_sha256: str
    pixels_sha256: str
    input_shape: tuple[int, ...]
    top1: str
    top5: str | None

    @classmethod
    def of(cls, split: Split, pixels_sha256: str, *, top1: NDArray[np.bool_], top5: NDArray[np.bool_] | None) -> Self:
        """Pack the hits (N,) on a split whose pictures, as the network sees them, have the hash."""
        return cls(
            num_samples=len(split),
            labels_sha256=_labels_sha256(split),
            pixels_sha256=pixels_sha256,
            input_shape=tuple(split.images[np.arange(1)].shape[1:]),
            top1=np.packbits(top1).tobytes().hex(),
            top5=None if top5 is None else np.packbits(top5).tobytes().hex(),
        )

    def hits(self, key: str) -> NDArray[np.bool_] | None:
        """Return which pictures (N,) count for 'top1' or 'top5'."""
        packed = getattr(self, key)
        if packed is None:
            return None
        return np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8), count=self.num_samples).astype(bool)

    def is_of_same_samples(self, other: Outcomes) -> bool:
        """Tell whether both are of the same labels in the same order, and of the same pixels after preprocessing."""
        return self.first_difference(other) is None

    def first_difference(self, other: Outcomes) -> str | None:
        """Return the key in which the samples differ: other labels or order, another size, other pixels."""
        keys = ("labels_sha256", "input_shape", "pixels_sha256")
        return next((key for key in keys if getattr(self, key) != getattr(other, key)), None)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], accuracy: Accuracy) -> Self:
        """Return the outcomes of a file, checked against the accuracy they belong to.

        Raises:
            ValueError: the file is of another format, or says something else than the accuracy.
        """
        if value["format"] != _FORMAT:
            raise ValueError(f"format: got {value['format']!r}, expected '{_FORMAT}'")
        found = cls(
            num_samples=value["num_samples"],
            labels_sha256=value["labels_sha256"],
            pixels_sha256=value["pixels_sha256"],
            input_shape=tuple(value["input_shape"]),
            top1=value["top1"],
            top5=value["top5"],
        )
        if found.num_samples != accuracy.num_samples:
            raise ValueError(f"num_samples: got {found.num_samples}, expected {accuracy.num_samples}")
        for key in ("top1", "top5"):
            hits, expected = found.hits(key), getattr(accuracy, key)
            got = None if hits is None else 100 * float(hits.mean())
            if (got is None) != (expected is None) or (got is not None and abs(got - expected) > 1e-6):
                raise ValueError(f"{key}: got {got}, expected {expected} as in the benchmark")
        return found


def _labels_sha256(split: Split) -> str:
    described = json.dumps([split.name, split.class_names], ensure_ascii=False).encode()
    return hashlib.sha256(described + split.labels.astype("<i8").tobytes()).hexdigest()


def save_benchmark(path: Path, benchmark: dict[str, Any], outcomes: Outcomes) -> dict[str, Any]:
    """Write a benchmark with its outcomes beside it and return it as written; if either fails, neither is left.

    Raises:
        OutputError: a file cannot be written.
    """
    beside = path.with_name(f"{path.stem}.outcomes.json")
    if beside.is_dir():
        raise OutputError(f"{beside}: cannot be written (is a folder); choose another --out")
    with manifest.atomic_path(beside) as temporary:  # it takes its place once the benchmark has taken its own
        temporary.write_text(json.dumps({"format": _FORMAT} | asdict(outcomes), indent=1) + "\n", "utf-8")
        record = manifest.artifact_record(temporary, path.parent, ROLE) | {"path": beside.name}
        benchmark = benchmark | {"artifacts": [*benchmark["artifacts"], record]}
        manifest.save(path, benchmark, "benchmark")
    return benchmark


def load_outcomes(path: Path, benchmark: Mapping[str, Any], accuracy: Accuracy) -> Outcomes | None:
    """Return the outcomes that a benchmark at `path` names, None if it names none or was moved without them.

    Raises:
        IntegrityError: the file has changed, is damaged or says something else than the benchmark.
    """
    record = next((entry for entry in benchmark["artifacts"] if entry["role"] == ROLE), None)
    if record is None or not (path.parent / record["path"]).exists():
        return None
    found = manifest.resolve(path, record["path"], record["sha256"])
    try:
        return Outcomes.from_json(json_file.read(found), accuracy)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{found}: not the outcomes of {path.name} ({error}); evaluate the network anew"
        ) from error


def paired_differences(baseline: Outcomes | None, candidate: Outcomes | None) -> dict[str, PairedDifference | None]:
    """Return the paired difference of top-1 and of top-5, None where outcomes are missing or of other pictures."""
    found: dict[str, PairedDifference | None] = {"top1": None, "top5": None}
    if baseline is None or candidate is None or not baseline.is_of_same_samples(candidate):
        return found
    for key in found:
        before, after = baseline.hits(key), candidate.hits(key)
        if before is not None and after is not None:
            found[key] = paired_difference(int((after & ~before).sum()), int((before & ~after).sum()), len(before))
    return found
