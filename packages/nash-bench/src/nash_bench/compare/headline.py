"""Who wins where: one verdict for all NASH configurations of a panel, at equal use of the board's scarcest resource.

It is of the mean gain over all of them, not of the best, which chance alone would put above 0. "wins" and "loses" are
said only where the 95 % interval over seeds and pictures excludes 0, there are several seeds on both sides, and, for
"wins", where plain networks were measured that take as much of the board.

Networks drawn at random are no NASH configurations. Beside the verdict stands what the searched ones have over the mean
of those that were drawn at their cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..stats.uncertainty import Interval, Part, interval
from .configurations import Configuration, family_terms, network_terms
from .equal_cost import SCARCEST, EqualCost, Gains, part_of

Outcome = Literal["wins", "loses", "draws", "open"]
ONE_SEED = "one seed says nothing of the next: train two or more"
DEARER = "it takes more of the board than every plain network here: measure wider ones"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What NASH gains in one panel: `why` an open one is open, and of how many configurations it is the mean.

    num_without: NASH configurations that have no rival, which it leaves out.
    over_random: what searched networks have over random ones of their cost, None if there are none of both.
    """

    dataset: str
    split: str
    board: str
    origin: str
    outcome: Outcome
    gain: Interval
    why: str | None
    num_configurations: int
    num_without: int
    over_random: Interval | None = None


def verdicts(gains: Sequence[Gains]) -> list[Verdict]:
    """Return the verdict of every panel in which a NASH configuration has a rival, in their order."""
    panels: dict[tuple[object, ...], list[Gains]] = {}
    for found in gains:
        record = found.candidate.first
        if record.accuracy is not None and record.hardware is not None:
            panels.setdefault((record.accuracy.key, record.hardware.key), []).append(found)
    found = [_verdict(*key, members) for key, members in panels.items()]
    return [one for one in found if one is not None]


def _verdict(pictures: tuple[str, str, int], place: tuple[str, str], panel: Sequence[Gains]) -> Verdict | None:
    members = [_at_scarcest(found) for found in panel if found.candidate.kind == "nash"]
    known = [one for one in members if one.parts]
    if not known:
        return None
    gain = interval(_mean([one.parts for one in known]))
    outcome, why = _outcome(gain, is_dearer=any(one.status == "dearer" for one in known))
    return Verdict(
        dataset=pictures[0],
        split=pictures[1],
        board=place[0],
        origin=place[1],
        outcome=outcome,
        gain=gain,
        why=why,
        num_configurations=len(known),
        num_without=len(members) - len(known),
        over_random=_over_random([found.candidate for found in panel]),
    )


def _at_scarcest(found: Gains) -> EqualCost:
    return next(one for one in found.at_equal_cost if one.axis == SCARCEST)


def _over_random(panel: Sequence[Configuration]) -> Interval | None:
    """Return the mean gain of searched configurations over the mean of those drawn at the cost of each."""
    gains = []
    for found in panel:
        if found.kind == "nash" and not found.first.identity.is_given:
            drawn = [other for other in panel if other.kind == "random" and _terms(other) == _terms(found)]
            if drawn:
                gains.append((part_of(found, 1.0), *(part_of(other, -1 / len(drawn)) for other in drawn)))
    return interval(_mean(gains)) if gains else None


def _terms(found: Configuration) -> tuple[object, ...]:
    return family_terms(found.first), network_terms(found.first)


def _mean(gains: Sequence[tuple[Part, ...]]) -> list[Part]:
    """Return the parts of the mean of several gains, a baseline that stands in several of them once."""
    merged: dict[int, Part] = {}
    for part in (part for parts in gains for part in parts):
        weight = part.weight / len(gains)
        known = merged.get(id(part.source))
        merged[id(part.source)] = replace(part, weight=weight + (known.weight if known else 0.0))
    return list(merged.values())


def _outcome(gain: Interval, *, is_dearer: bool) -> tuple[Outcome, str | None]:
    if gain.is_of_pictures_alone:
        return "open", ONE_SEED
    if gain.high < 0:
        return "loses", None
    if is_dearer:
        return "open", DEARER
    return ("wins", None) if gain.low > 0 else ("draws", None)
