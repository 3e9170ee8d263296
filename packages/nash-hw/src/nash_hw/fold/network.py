"""The accelerator as a network of choices: options at the layers, FIFOs and width converters between them.

Arrays: a group has n options, whose figures (n, 1 + R) are price and R resources. A stream has p widths at its
producer and c at its consumer; the figures of what lies between them are a table (p, c, 1 + R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.sparse as sp

from ..boards.board import RESOURCES, Board
from .links import Link, link_resources
from .options import Group, Option, undominated, unit_prices

_ROUNDS = 3  # of pruning: each leaves fewer widths, and so a tighter bound to the next


@dataclass(frozen=True, kw_only=True)
class Program:
    """min cost @ z, equalities @ z = right, used @ z <= limits, z >= 0 and its first entries, the options, integers."""

    cost: np.ndarray
    equalities: sp.csr_matrix
    right: np.ndarray
    used: np.ndarray  # (R, variables)
    num_options: int


class Network:
    """The options of all groups of at most `max_cycles`, less those that cannot be needed."""

    def __init__(self, groups: Sequence[Group], links: Sequence[Link], board: Board, max_cycles: int) -> None:
        self._links = links
        self._part = board.fpga_part
        prices = unit_prices(board)
        self._unit_prices = np.array([prices[name] for name in RESOURCES])
        self._ends: list[list[tuple[int, int, int]]] = [[] for _ in groups]  # (link, side, entry of stream_bits)
        for number, link in enumerate(links):
            self._ends[link.producer].append((number, 0, link.producer_entry))
            self._ends[link.consumer].append((number, 1, link.consumer_entry))
        self.options = [_fast_enough(group, max_cycles) for group in groups]
        self._prune()

    def program(self) -> Program:
        """Return the choice as a linear program.

        x[g, o] takes option o of group g; y[s, a, b] is 1 if stream s is a bits wide at its producer and b at its
        consumer. Its sums over b are those of x over the producer's options of a bits, and likewise at the consumer.
        Integer x make integer y, and y the product of its ends.
        """
        starts = np.cumsum([0, *(len(options) for options in self.options)])
        cost = [_figures(options) for options in self.options]
        rows, columns, values = [], [], []
        right: list[float] = []

        def constrain(row_columns: Sequence[np.ndarray], row_values: Sequence[float], result: float) -> None:
            for where, value in zip(row_columns, row_values, strict=True):
                rows.append(np.full(len(where), len(right)))
                columns.append(where)
                values.append(np.full(len(where), value))
            right.append(result)

        for number, options in enumerate(self.options):
            constrain([np.arange(starts[number], starts[number] + len(options))], [1.0], 1.0)
        position = int(starts[-1])
        for link in self._links:
            table, producer, consumer = self._table(link)
            variables = position + np.arange(table[..., 0].size).reshape(table.shape[:2])
            if not table.any():
                continue
            position += variables.size
            cost.append(table.reshape(variables.size, -1))
            for a in range(variables.shape[0]):
                constrain([variables[a], starts[link.producer] + np.flatnonzero(producer == a)], [1.0, -1.0], 0.0)
            for b in range(variables.shape[1]):
                constrain([variables[:, b], starts[link.consumer] + np.flatnonzero(consumer == b)], [1.0, -1.0], 0.0)
        figures = np.concatenate(cost)
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return Program(
            cost=figures[:, 0],
            equalities=sp.csr_matrix(entries, shape=(len(right), position)),
            right=np.array(right),
            used=figures[:, 1:].T,
            num_options=int(starts[-1]),
        )

    def picked(self, solution: np.ndarray) -> list[Option]:
        """Return the options that a solution of the program takes."""
        starts = np.cumsum([0, *(len(options) for options in self.options)])
        return [
            options[int(np.argmax(solution[start : start + len(options)]))]
            for start, options in zip(starts, self.options, strict=False)
        ]

    def _table(self, link: Link) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the table of a stream, and for each option of its producer and consumer the row or column."""
        widths, producer = np.unique(_bits(self.options[link.producer], link.producer_entry), return_inverse=True)
        others, consumer = np.unique(_bits(self.options[link.consumer], link.consumer_entry), return_inverse=True)
        resources = np.array([[_between(int(a), int(b), self._part) for b in others] for a in widths])
        price = resources @ self._unit_prices
        return np.concatenate([price[..., None], resources], axis=2), producer, consumer

    def _prune(self) -> None:
        """Drop options that another can replace in every choice, whatever its neighbours are and streams cost."""
        for _ in range(_ROUNDS):
            before = sum(map(len, self.options))
            tables = [self._table(link) for link in self._links]
            self.options = [
                self._needed(options, [(tables[link], side) for link, side, _ in ends])
                for options, ends in zip(self.options, self._ends, strict=True)
            ]
            if sum(map(len, self.options)) == before:
                break

    def _needed(
        self, options: Sequence[Option], ends: Sequence[tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]]
    ) -> list[Option]:
        figures = _figures(options)
        increases = []  # of each end: from one width to another (p, p, 1 + R), and the options' widths
        for (table, *rows), side in ends:
            table = table if side == 0 else table.swapaxes(0, 1)
            increases.append(((table[:, None] - table[None]).max(axis=2), rows[side]))
        kept: list[int] = []
        for position in np.argsort(figures[:, 0], kind="stable"):
            rivals = figures[kept]
            for increase, widths in increases:
                rivals = rivals + increase[widths[kept], widths[position]]
            if not (rivals <= figures[position]).all(axis=1).any():
                kept.append(int(position))
        return [options[position] for position in sorted(kept)]


@cache
def _between(from_bits: int, to_bits: int, fpga_part: str) -> np.ndarray:
    resources = link_resources(from_bits, to_bits, fpga_part)
    return np.array([resources[name] for name in RESOURCES])


def _fast_enough(group: Group, max_cycles: int) -> Sequence[Option]:
    return undominated([option for option in group.options if option.cycles <= max_cycles], by_streams=True)


def _figures(options: Sequence[Option]) -> np.ndarray:
    return np.array([[option.price, *(option.resources[name] or 0.0 for name in RESOURCES)] for option in options])


def _bits(options: Sequence[Option], entry: int) -> list[int]:
    return [option.stream_bits[entry] for option in options]
