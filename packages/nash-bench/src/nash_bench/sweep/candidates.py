"""The candidates of an exploration: what a rung has measured of each, and which of them go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..base import json_file, manifest
from ..base.errors import DataError
from ..records.figures import BY_KEY
from ..records.record import Record, hardware_from_manifest
from ..stats.pareto import pareto_front
from .plan import Plan


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network in the race: its genotype file, whether it is the backbone alone; then how it did in a rung.

    top1: in percent, on the pictures held out of the training split. share: of the board's scarcest resource.
    """

    genotype: str
    is_plain: bool
    top1: float | None = None
    share: float | None = None
    seconds_per_epoch: float | None = None

    @property
    def name(self) -> str:
        """Return a short name."""
        return Path(self.genotype).stem


def measured(plan: Plan, out: Path) -> Iterator[Candidate]:
    """Yield the candidates of a rung that were trained and built, with how they did.

    Raises:
        DataError: what one took of the board, or its accuracy on the pictures held out, is not known.
    """
    for cell in plan.cells:
        paths = {job.stage: out / job.target for job in cell.jobs}
        if not (paths["train"].exists() and paths["build"].exists()):
            continue
        model = manifest.load(paths["train"], "model")
        hardware = hardware_from_manifest(manifest.load(paths["build"], "hardware"), source=paths["build"])
        record = Record.from_model(model, manifest.file_sha256(paths["train"]), source=paths["train"])
        share = BY_KEY["scarcest"].value(replace(record, hardware=hardware))
        if share is None:
            raise DataError(f"{paths['build']}: resources: got one that is not known, expected all; build anew")
        training = model["training"]
        yield Candidate(
            genotype=cell.network.genotype,
            is_plain=record.identity.is_baseline,
            top1=_held_out_top1(paths["train"].parent / "history.jsonl"),
            share=share,
            seconds_per_epoch=training["seconds"] / training["epochs"],
        )


def _held_out_top1(history: Path) -> float:
    """Return the accuracy of the last epoch on the pictures held out.

    Raises:
        DataError: there is none, or the test split was watched.
    """
    try:
        last = json_file.parse(json_file.text(history).splitlines()[-1])
        if last["split"] != "test":
            return float(last["top1"])
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise DataError(f"{history}: holds no accuracy ({error}); train anew") from error
    raise DataError(f"{history}: the test split was watched, expected pictures held out of the training split")


def better_half(found: Sequence[Candidate]) -> list[Candidate]:
    """Return the better half of the plain and of the searched candidates, at least two of each if there are.

    By fronts: those that no other of their kind has more accuracy than at no more cost, then those of the rest. Of the
    front that does not fit whole, the most accurate.
    """
    kept = []
    for is_plain in (False, True):
        members = [one for one in found if one.is_plain is is_plain]
        room = max(2, (len(members) + 1) // 2)
        while members and room > 0:
            front = pareto_front([(one.top1, one.share) for one in members], maximize=(True, False))
            first = sorted((members[index] for index in front), key=lambda one: -one.top1)[:room]
            kept += first
            room -= len(first)
            members = [one for index, one in enumerate(members) if index not in front]
    return sorted(kept, key=found.index)
