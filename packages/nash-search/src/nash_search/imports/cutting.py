"""A chain of states as cells: cut before strides and behind pools, where no residual passes, six layers a cell at most.

Within a cell NAS operations may connect any two states, and their number grows with the square of its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..genotype.genotype import LINEAR, Cell, Genotype, Input, Layer, Stem
from .graphs import Graph
from .matching import Chain, State

_MOST_LAYERS = 6


def cuts(states: Sequence[State]) -> list[int]:
    """Return the numbers of the states that cells begin with, from 0.

    A cell begins behind a pool, and with the last state before a strided layer that no residual passes: with a linear
    bottleneck, which is narrow, where there is one.
    """
    spans = [(state.residual_from, number) for number, state in enumerate(states) if state.residual_from is not None]
    free = [
        number for number in range(len(states) - 1) if not any(source < number < target for source, target in spans)
    ]
    wanted = {0}  # where the stem has a pool, too
    for number, state in enumerate(states[1:], 1):
        if state.main.stride > 1:
            wanted.add(max(_narrow(states, [cut for cut in free if max(wanted) < cut < number]), default=max(wanted)))
        if state.pool is not None and number in free:
            wanted.add(number)
    bounds = [*sorted(wanted), len(states) - 1]
    found: list[int] = []
    for start, end in pairwise(bounds):
        found += _split(start, end, _narrow(states, [cut for cut in free if start < cut < end]))
    return found


def _narrow(states: Sequence[State], numbers: list[int]) -> list[int]:
    """Return the numbers of states behind linear layers if there are any, else all."""
    return [number for number in numbers if states[number].activation == LINEAR] or numbers


def _split(start: int, end: int, inner: Sequence[int]) -> list[int]:
    """Return where the layers from `start` to `end` are cut into parts of nearly the same length, of six at most."""
    num_parts = -(-(end - start) // _MOST_LAYERS)
    ideal = [start + (end - start) * part / num_parts for part in range(1, num_parts)]
    nearest = {min(inner, key=lambda number: abs(number - place)) for place in ideal} if inner else set()
    return [start, *sorted(nearest)]


def genotype_of(graph: Graph, chain: Chain) -> Genotype:
    """Return the backbone of a chain of states."""
    states, starts = chain.states, cuts(chain.states)
    cells = [
        Cell(
            in_channels=states[start].channels,
            layers=tuple(_layer(states[number], start) for number in range(start + 1, end + 1)),
        )
        for start, end in zip(starts, [*starts[1:], len(states) - 1], strict=True)
    ]
    stem, (channels, height, width) = states[0], graph.shape
    pool = {} if stem.pool is None else {"pool_kernel": stem.pool.kernel}
    return Genotype(
        name=graph.name,
        num_classes=len(chain.classifier.tensors["weight"]),
        input=Input(channels=channels, height=height, width=width),
        stem=Stem(
            channels=stem.channels,
            kernel=stem.main.kernel,
            stride=stem.main.stride,
            max_pool=stem.pool is not None,
            activation=stem.activation,
            **pool,
        ),
        cells=tuple(cells),
        backbone=graph.name,
        head_bias="bias" in chain.classifier.tensors,
    )


def _layer(state: State, start: int) -> Layer:
    main = state.main
    return Layer(
        kernel=main.kernel,
        channels=main.channels,
        stride=main.stride,
        groups=main.groups,
        residual_from=None if state.residual_from is None else state.residual_from - start,
        projection=state.projection is not None,
        activation=state.activation,
        pool=state.pool,
        padding=None if main.padding == main.kernel // 2 else main.padding,
    )


def places(states: Sequence[State]) -> list[str]:
    """Return the names of the layers that the states are behind, as in a file of weights; the stem's first."""
    starts, names = cuts(states), ["stem"]
    for cell, (start, end) in enumerate(zip(starts, [*starts[1:], len(states) - 1], strict=True)):
        names += [f"cells.{cell}.layers.{layer}" for layer in range(end - start)]
    return names
