"""Why an accelerator stands still: who waits for whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .design import Design
from .run import Result


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A layer that cannot go on before another does."""

    layer: int
    other: int
    hop: int
    is_full: bool  # it has a word and the stream no room; else the stream has no word for it


def waits(design: Design, result: Result) -> Iterator[Wait]:
    """Yield all waits at the end of a run that stands still, those for room before those for words.

    There a layer waits for every stream that has no word, ready for one or not: some are only when it is there.
    """
    states = result.raw["streams"]
    for number, (hop, state) in enumerate(zip(design.hops, states, strict=True)):
        if state["is_full"]:
            yield Wait(layer=hop.source, other=hop.target, hop=number, is_full=True)
    for number, (hop, state) in enumerate(zip(design.hops, states, strict=True)):
        if state["is_empty"]:
            yield Wait(layer=hop.target, other=hop.source, hop=number, is_full=False)


def circle(design: Design, result: Result) -> list[Wait]:
    """Return waits of which each layer waits for the next and the last for the first; empty if there are none such."""
    by_layer: dict[int, list[Wait]] = {}
    for wait in waits(design, result):
        by_layer.setdefault(wait.layer, []).append(wait)
    finished: set[int] = set()
    for start in by_layer:
        found = _walk(start, by_layer, finished)
        if found:
            return found
    return []


def _walk(start: int, by_layer: dict[int, list[Wait]], finished: set[int]) -> list[Wait]:
    """Follow waits depth first from a layer; return the first circle that closes."""
    path: list[Wait] = []
    pending = [iter(by_layer.get(start, ()))]
    on_path = [start]
    while pending:
        wait = next(pending[-1], None)
        if wait is None:
            finished.add(on_path.pop())
            pending.pop()
            if path:
                path.pop()
        elif wait.other in on_path:
            return [*path[on_path.index(wait.other) :], wait]
        elif wait.other not in finished:
            path.append(wait)
            on_path.append(wait.other)
            pending.append(iter(by_layer.get(wait.other, ())))
    return []


def told(design: Design, result: Result, depths: Sequence[int | None]) -> str:
    """Return in one line what stands still, and the circle of waits, beginning with a full FIFO."""
    found = circle(design, result)
    first = next((i for i, wait in enumerate(found) if wait.is_full), 0)
    found = [*found[first:], *found[:first]]
    depth_of = {stream.hop: depth for stream, depth in zip(design.streams, depths, strict=True)}
    parts = []
    for wait in found:
        name = design.layers[wait.layer].name
        if wait.is_full:
            depth = depth_of.get(wait.hop)
            fifo = "its full FIFO" if depth is None else f"the full FIFO of depth {depth}"
            parts.append(f"{name} waits for room in {fifo} to {design.layers[wait.other].name}")
        else:
            parts.append(f"{name} waits for words of {design.layers[wait.other].name}")
    why = "; ".join(parts) or "no layer waits for another in a circle"
    return f"dead-lock after {len(result.ends)} frames, cycle {result.raw['cycles']}: {why}"
