"""What the operations cost on a board, and what a genotype is expected to cost.

costs.json (manifest nash.costs, of nash-hw) prices the plain backbone and each candidate of the search space. Decoding
keeps one (edge, operation) a layer, or nothing, which is free; so at each layer the expectation weighs the costs with

    q(edge, op) = p(edge, op) / sum of p over all that decoding may keep at that layer,

the probabilities of a genotype drawn layer by layer, each operation as often as p says. Nothing is in that sum with the
least p(none) of the layer's edges, as in decoding. Operations that the variant never keeps only take weight from the
others of their edge. Resources of layers add up. Cycles do not: a frame leaves as often as the slowest layer lets it.
So their expectation is that of the largest of the layers drawn, v(n) - sum of (v(k+1) - v(k)) P(all layers <= v(k))
over the values v(k) in ascending order.

The whole accelerator is the backbone and its operations. Its scarcest resource is the one of which it takes the largest
share of the board; as an expectation, the one with the largest expected share.

Shapes: probs and tables are (num_edges, num_primitives).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base import manifest
from ..base.errors import CapacityError, ManifestError
from ..genotype import space
from ..genotype.decoding import Rows, choices, decode_within
from ..genotype.genotype import Genotype
from ..genotype.primitives import NONE
from ..genotype.variants import Variant

RESOURCES = {"lut": "LUT", "ff": "FF", "bram": "BRAM_18K", "uram": "URAM", "dsp": "DSP"}
CYCLES = "cycles"
METRICS = (*RESOURCES, CYCLES)
SUM = "sum"  # of the shares of the board
SCARCEST = "scarcest"  # the largest share of the board, of the whole accelerator
_ROUNDING = 1e-9  # of limits
_SHAPES = ("in_channels", "out_channels", "kernel", "stride", "input_height", "input_width")
_ADVICE = "price what 'nash-search space' writes for this --backbone, --variant, --width and --input-size"

Place = tuple[int, int, int, str]  # cell, layer, input, op


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The prices of a search space.

    tables: by metric (lut, ff, bram, uram, dsp, cycles), (num_edges, num_primitives) float64; 0 for what is free,
        not known or never kept.
    keeps: True where decoding may keep the primitive, `none` aside.
    none: the column of `none`; None where nothing cannot be kept.
    layer: (num_edges,), the number of the layer an edge leads to.
    available: by resource, what the board holds.
    plain: by width, what the accelerator of the plain backbone takes, by metric; empty where the file does not tell.
    width: the backbone's own.
    num_unknown: how many of the figures are not known, and count as 0.
    """

    board: str
    tables: Mapping[str, Tensor]
    keeps: Tensor
    none: int | None
    layer: Tensor
    available: Mapping[str, float]
    plain: Mapping[int, Mapping[str, float]]
    width: int
    num_unknown: int
    record: Mapping[str, Any]  # of the file, for those that follow from it

    @property
    def backbone(self) -> Mapping[str, float]:
        """What the plain backbone takes, by metric.

        Raises:
            ManifestError: the file does not tell.
        """
        if self.width not in self.plain:
            raise ManifestError(
                f"{self.record['path']}: got no price of the backbone at width {self.width}, expected it for the cost "
                "of the whole accelerator; write the space with 'nash-search space', then the costs with 'nash-hw "
                "costs' anew"
            )
        return self.plain[self.width]

    def of_plain(self, metric: str, width: int | None = None) -> float:
        """Return what the plain backbone takes, at its own or another width; `sum` and `scarcest` as shares."""
        taken = self.backbone if width in (None, self.width) else self.plain[width]
        if metric in taken:
            return taken[metric]
        shares = [taken[name] / held for name, held in self._holds()]
        return sum(shares) if metric == SUM else max(shares)

    def table(self, metric: str) -> Tensor:
        """Return the costs by one metric, or with `sum` the summed shares of the board's resources."""
        if metric != SUM:
            return self.tables[metric]
        return torch.stack([self.tables[name] / available for name, available in self._holds()]).sum(0)

    def chosen(self, probs: Tensor) -> Tensor:
        """Return q: how likely decoding is to keep each (edge, operation); with nothing, each layer sums to 1."""
        kept = torch.where(self.keeps, probs, 0.0)
        layers = self._by_layer(kept.sum(1))
        if self.none is not None:
            edges_of_layers = probs[:, self.none].split(self.layer.bincount().tolist())
            layers = layers + torch.stack([edges.amin() for edges in edges_of_layers])
        return kept / layers.clamp_min(torch.finfo(kept.dtype).tiny)[self.layer, None]

    def expected(self, metric: str, probs: Tensor, *, is_whole: bool = False) -> Tensor:
        """Return the expected cost of the genotype, a scalar differentiable in the probabilities.

        is_whole: of the whole accelerator, not of its operations alone; `scarcest` always is.
        """
        chosen = self.chosen(probs)
        if metric == SCARCEST:
            sums = [(self.backbone[name] + (chosen * self.tables[name]).sum()) / held for name, held in self._holds()]
            return torch.stack(sums).amax()
        before = self.of_plain(metric) if is_whole else 0.0
        if metric == CYCLES:
            return self._expected_largest(self.tables[metric], chosen, before)
        return before + (chosen * self.table(metric)).sum()

    def _expected_largest(self, table: Tensor, chosen: Tensor, least: float) -> Tensor:
        values = torch.cat([table[self.keeps], table.new_tensor([0.0])]).clamp(min=least).unique()
        above = torch.where(table > values[:-1, None, None], chosen, 0.0).sum(2)  # (values, edges)
        within = (1 - self._by_layer(above.T)).clamp(min=0).prod(0)
        return values[-1] - (values.diff() * within).sum()

    def _by_layer(self, edges: Tensor) -> Tensor:
        return edges.new_zeros(int(self.layer.max()) + 1, *edges.shape[1:]).index_add(0, self.layer, edges)

    def largest(self, metric: str) -> float:
        """Return the cost of the most expensive genotype."""
        if metric == SCARCEST:
            return max((self.backbone[name] + self.largest(name)) / held for name, held in self._holds())
        table = self.table(metric)
        layers = [float(table[self.layer == layer].max()) for layer in range(int(self.layer.max()) + 1)]
        return max(layers) if metric == CYCLES else sum(layers)

    def least(self, metric: str) -> float:
        """Return the cost of a genotype without operations."""
        return self.of_plain(metric) if metric == SCARCEST else 0.0

    def of(self, genotype: Genotype, variant: Variant, *, is_whole: bool = False) -> dict[str, float]:
        """Return what a genotype's operations, or its whole accelerator, cost, by metric."""
        return {metric: self.total(metric, genotype, variant, is_whole=is_whole) for metric in METRICS}

    def total(self, metric: str, genotype: Genotype, variant: Variant, *, is_whole: bool = False) -> float:
        """Return what a genotype's operations cost by one metric, or with `sum` their shares of the board.

        is_whole: the whole accelerator, not its operations alone; `scarcest` always is.

        Raises:
            ManifestError: one of them is not of this space; or the file does not tell what the backbone costs.
        """
        if metric == SCARCEST:
            return max(self.total(name, genotype, variant, is_whole=True) / held for name, held in self._holds())
        table, prices = self.table(metric), [self.of_plain(metric) if is_whole else 0.0]
        for row, edge in enumerate(genotype.edges()):
            nas_op = genotype.cells[edge.cell].layers[edge.layer - 1].nas_op
            if nas_op is None or nas_op.input != edge.input:
                continue
            column = variant.primitives.index(nas_op.op) if nas_op.op in variant.primitives else None
            if column is None or not self.keeps[row, column]:
                place = _named((edge.cell, edge.layer, edge.input, nas_op.op))
                raise ManifestError(f"{genotype.name}: got {place}, which {variant.name} never keeps there")
            prices.append(float(table[row, column]))
        return max(prices) if metric == CYCLES else sum(prices)

    def room(self, metric: str, limit: float) -> float:
        """Return what is left for operations of a limit of the whole accelerator.

        Raises:
            CapacityError: the plain backbone alone exceeds it.
        """
        taken = self.of_plain(metric)
        if taken > limit * (1 + _ROUNDING):
            raise CapacityError(
                f"--total-budget: got {metric}={limit:g}, expected at least {taken:g}, which the plain backbone takes; "
                "raise it, lower the target fps, or take a narrower backbone"
            )
        return limit if metric == CYCLES else max(limit - taken, 0.0)

    def decode(self, backbone: Genotype, probs: Rows, variant: Variant, limits: Mapping[str, float]) -> Genotype:
        """Return the most probable genotype whose operations keep to every limit, by metric (see `decoding`).

        Raises:
            CapacityError: there is none.
        """
        tables = {name: self.table(name).numpy() for name in limits}
        return decode_within(backbone, probs, variant, tables, limits, largest={CYCLES})

    def _holds(self) -> list[tuple[str, float]]:
        """Return the resources that the board has."""
        return [(name, held) for name, held in self.available.items() if held]


def load(path: Path, backbone: Genotype, variant: Variant) -> Costs:
    """Read costs.json for the supernet of a backbone and a variant.

    Raises:
        ManifestError: it is not valid, or not of this search space; the text names the first difference.
        IntegrityError: the space file beside it is not the one that was priced.
    """
    content = manifest.load(path, "costs")
    edges = list(backbone.edges())
    _check_space(path, content, backbone, variant)
    prices = _prices(path, content, {(edge.cell, edge.layer, edge.input) for edge in edges})
    shape = len(edges), len(variant.primitives)
    tables = {metric: torch.zeros(shape, dtype=torch.double) for metric in METRICS}
    keeps = torch.zeros(shape, dtype=torch.bool)
    num_unknown = 0
    for choice in chain(*choices(backbone, torch.ones(shape).tolist(), variant)):
        if choice.nas_op is None:  # free
            continue
        place = (choice.cell, choice.layer, choice.nas_op.input, choice.nas_op.op)
        if place not in prices:
            raise ManifestError(f"{path}: candidates: got none for {_named(place)}, expected its price; {_ADVICE}")
        keeps[choice.row, choice.column] = True
        for metric, price in prices[place].items():
            num_unknown += price is None
            tables[metric][choice.row, choice.column] = price or 0.0
    if num_unknown:
        warnings.warn(f"{path}: figures that are null count as 0: {num_unknown} of them", stacklevel=2)
    networks = [content["backbone"], *content.get("widths", [])] if "backbone" in content else []
    places = list(dict.fromkeys((edge.cell, edge.layer) for edge in edges))
    return Costs(
        board=content["board"],
        tables=tables,
        keeps=keeps,
        none=variant.primitives.index(NONE) if NONE in variant.primitives else None,
        layer=torch.tensor([places.index((edge.cell, edge.layer)) for edge in edges]),
        available={name: float(content["available"][key]) for name, key in RESOURCES.items()},
        plain={network["width"]: _figures(network) for network in networks},
        width=backbone.stem.channels,
        num_unknown=num_unknown,
        record=manifest.input_record(path, content),
    )


def _named(place: Place) -> str:
    return "cell {}, layer {}, input {}, op {}".format(*place)


def _prices(
    path: Path, content: Mapping[str, Any], edges: Set[tuple[int, int, int]]
) -> dict[Place, dict[str, float | None]]:
    prices: dict[Place, dict[str, float | None]] = {}
    for index, candidate in enumerate(content["candidates"]):
        place = (candidate["cell"], candidate["layer"], candidate["input"], candidate["op"])
        if place[:3] not in edges:
            raise ManifestError(
                f"{path}: candidates[{index}]: got {_named(place)}, which the backbone lacks; {_ADVICE}"
            )
        if place in prices:
            raise ManifestError(f"{path}: candidates[{index}]: got {_named(place)} twice, expected once; write it anew")
        resources = candidate["resources"]
        prices[place] = {name: resources[key] for name, key in RESOURCES.items()} | {CYCLES: candidate["cycles"]}
    return prices


def _figures(network: Mapping[str, Any]) -> dict[str, float]:
    """Return what a plain network takes, by metric; what is not known counts as 0."""
    figures = {name: network["resources"][key] for name, key in RESOURCES.items()} | {CYCLES: network["cycles"]}
    return {name: float(value or 0.0) for name, value in figures.items()}


def _check_space(path: Path, content: Mapping[str, Any], backbone: Genotype, variant: Variant) -> None:
    """Compare the shapes that were priced with those of the supernet, if the space file still lies beside its costs."""
    record = next((found for found in content["inputs"] if str(found["schema"]).startswith("nash.space/")), None)
    if record is None or not (path.parent / record["path"]).exists():
        warnings.warn(f"{path}: its space file is not beside it, so the shapes priced cannot be checked", stacklevel=3)
        return
    space_path = manifest.resolve(path, record["path"], record["sha256"])
    expected = {
        (found.cell, found.layer, found.input, found.op): asdict(found) for found in space.candidates(backbone, variant)
    }
    for index, found in enumerate(manifest.load(space_path, "space")["candidates"]):
        ours = expected.get((found["cell"], found["layer"], found["input"], found["op"]), {})
        for key in _SHAPES:
            if key in ours and found[key] != ours[key]:
                raise ManifestError(
                    f"{space_path}: candidates[{index}].{key}: got {found[key]}, expected {ours[key]}; {_ADVICE}"
                )
