"""What is known about a model: its facts in one record, and which records may stand side by side.

Two records are comparable only if the facts that must match do match: a mismatch is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ..base.errors import DataError, ManifestError
from .facts import Accuracy, CpuThroughput, Hardware, Identity

if TYPE_CHECKING:  # it needs numpy, and --help does not
    from .outcomes import Outcomes


@dataclass(frozen=True, kw_only=True)
class Record:
    """One model with everything known about it."""

    identity: Identity
    accuracy: Accuracy | None = None
    cpu: CpuThroughput | None = None
    hardware: Hardware | None = None
    outcomes: Outcomes | None = None

    @classmethod
    def from_model(cls, manifest: Mapping[str, Any], sha256: str, *, source: object) -> Self:
        """Return the record of a model manifest with the accuracy that its training found.

        Raises:
            ManifestError: a figure is out of its range.
        """
        try:
            accuracy = manifest["accuracy"]
            return cls(
                identity=Identity.from_model(manifest, sha256),
                accuracy=None if accuracy is None else Accuracy.from_json(accuracy | {"per_class": ()}),
            )
        except ValueError as error:
            raise ManifestError(f"{source}: {error}; write it anew") from error

    @classmethod
    def from_benchmark(cls, manifest: Mapping[str, Any], *, source: object) -> Self:
        """Return the record of a benchmark manifest.

        Raises:
            ManifestError: a figure is out of its range.
        """
        cpu, hardware = manifest["cpu"], manifest["hardware"]
        try:
            return cls(
                identity=Identity.from_benchmark(manifest),
                accuracy=Accuracy.from_json(manifest["accuracy"]),
                cpu=None if cpu is None else CpuThroughput.from_json(cpu),
                hardware=None if hardware is None else Hardware.from_json(hardware),
            )
        except ValueError as error:
            raise ManifestError(f"{source}: {error}; write it anew") from error


def hardware_from_manifest(manifest: Mapping[str, Any], *, source: object) -> Hardware:
    """Return the figures of a hardware manifest.

    Raises:
        ManifestError: a figure is out of its range.
    """
    try:
        return Hardware.from_manifest(manifest)
    except ValueError as error:
        raise ManifestError(f"{source}: {error}; write it anew") from error


def nas_operations(genotype: Mapping[str, Any]) -> Counter[str]:
    """Count the NAS operations of a genotype by name."""
    return Counter(
        layer["nas_op"]["op"] for cell in genotype["cells"] for layer in cell["layers"] if layer["nas_op"] is not None
    )


def require_comparable(baseline: Record, candidate: Record, *, names: tuple[object, object]) -> None:
    """Check that two records may stand side by side.

    Raises:
        DataError: accuracies of another dataset, split, sample count or preprocessing, or figures of another board or
            origin.
    """
    pairs: list[tuple[str, object, object]] = []
    if baseline.accuracy is not None and candidate.accuracy is not None:
        keys = ("accuracy.dataset", "accuracy.split", "accuracy.num_samples")
        pairs += zip(keys, baseline.accuracy.key, candidate.accuracy.key, strict=True)
    if baseline.hardware is not None and candidate.hardware is not None:
        keys = ("hardware.board", "hardware.origin")
        pairs += zip(keys, baseline.hardware.key, candidate.hardware.key, strict=True)
    if baseline.outcomes is not None and candidate.outcomes is not None:
        known, own = baseline.outcomes, candidate.outcomes
        key = known.first_difference(own)
        if key is not None:
            pairs.append((f"outcomes.{key}", _brief(getattr(known, key)), _brief(getattr(own, key))))
    different = [f"{key}: got {got!r}, expected {expected!r}" for key, expected, got in pairs if got != expected]
    if different:
        raise DataError(
            f"{names[1]}: {' | '.join(different)} as in {names[0]}; compare what was measured on the same terms"
        )


def _brief(value: str | tuple[int, ...]) -> str:
    """Return the beginning of a hash, or a shape as 3x32x32."""
    return value[:12] if isinstance(value, str) else "x".join(map(str, value))
