"""Price the bits of a model's tensors: what each piece of the accelerator takes for every bits of what decides it.

A piece (pieces.py) goes through the flow of `build` and takes, of each of its layers, the cheapest folding that reaches
the frame rate. What lies between pieces - width converters, FIFOs, copies of streams - and what other weights change is
the `rest`: the accelerator of the model as it is less its pieces at its own bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..base import manifest
from ..base.errors import CapacityError, ManifestError, UnsupportedError, UsageError
from ..base.progress import Steps
from ..boards.board import RESOURCES, Board
from ..boards.boards import find_board
from ..boards.clocks import check_clock
from ..build.flow import Source
from ..finn.finn_env import contained_finn
from ..fold.options import Option, price_groups
from .pieces import PIECE, Piece, PieceBits, write
from .places import NetworkPlace, Tensor, places_of, tensors_of
from .plain import refuse_newer
from .specialized import specialized

KIND = "bitcosts"
_BITS = range(1, 9)
_SUM_BITS = 8  # what stand-ins of a sum read
_NOTHING = dict.fromkeys(RESOURCES, 0)


@dataclass(frozen=True, kw_only=True)
class BitCostsConfig:
    """What to price for."""

    board: str
    bits: tuple[int, ...]
    target_fps: float
    clock_mhz: float = 200.0
    quiet: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"--bits: got {bits}, expected {_BITS.start}..{_BITS.stop - 1}" for bits in self.bits if bits not in _BITS
        ]
        if not self.bits:
            problems.append("--bits: got none, expected some of 1..8")
        if not self.target_fps > 0:
            problems.append(f"--target-fps: got {self.target_fps:g}, expected more than 0")
        if not 10 <= self.clock_mhz <= 1000:
            problems.append(f"--clock-mhz: got {self.clock_mhz:g}, expected 10..1000")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def max_cycles(self) -> int:
        """The cycles a frame may take."""
        return int(self.clock_mhz * 1e6 / self.target_fps)


def price_bits(model_path: Path, config: BitCostsConfig, out: Path) -> dict[str, Any]:
    """Price the bits of every tensor of a model.json, write bitcosts.json and return it.

    Raises:
        ManifestError: the model is malformed, or does not say the bits of its tensors.
        UnsupportedError: its sums are fused.
        CapacityError: a piece does not reach the frame rate, or the model as it is does not fit.
    """
    source = Source.read(model_path)
    if source.manifest.get("genotype") is None:
        raise ManifestError(f"{model_path}: genotype: got nothing, expected one; bits are priced of nash-qat's models")
    if "resolved" not in source.manifest.get("quantization", {}):
        raise ManifestError(f"{model_path}: quantization: misses the key 'resolved'; export the model anew")
    if source.manifest["quantization"].get("join") == "fused":
        raise UnsupportedError(
            f"{model_path}: quantization.join: got 'fused', expected quantized or aligned; a fused sum has no "
            "quantizer where it falls apart, so price the network with --join quantized"
        )
    refuse_newer(source.manifest["genotype"]["copy"], f"{model_path}: genotype.copy")
    tensors, places = tensors_of(source.manifest), places_of(source.manifest)
    candidates = {name: _candidates(tensor, config.bits) for name, tensor in tensors.items()}
    own = {name: tensor.bits for name, tensor in tensors.items()}
    with Steps(1 + len(places), quiet=config.quiet) as steps, contained_finn():
        board = find_board(config.board)
        check_clock(board, config.clock_mhz)
        prices = _Prices(config, board)
        with steps.step("the model as it is"):
            whole = _whole(source, config, board)
        priced = []
        for place in places:
            with steps.step(place.name):
                priced.append(_priced(place, candidates, prices))
        parts = [prices.of(place, own) for place in places]
    result = manifest.header(KIND, inputs=[manifest.input_record(model_path, source.manifest)]) | {
        "name": source.manifest["name"],
        "model": {"sha256": manifest.file_sha256(model_path)},
        "board": board.name,
        "fpga_part": board.fpga_part,
        "clock_mhz": config.clock_mhz,
        "target_fps": config.target_fps,
        "available": dict(board.resources),
        "model_resources": whole,
        "rest": {name: (whole[name] or 0) - sum(part[name] for part in parts) for name in RESOURCES},
        "tensors": [{"name": name, "bits": own[name], "candidates": candidates[name]} for name in tensors],
        "places": priced,
    }
    manifest.save(out, result, KIND)
    return result


def _candidates(tensor: Tensor, bits: tuple[int, ...]) -> list[int]:
    return sorted({tensor.bits, *(each for each in bits if each >= tensor.lowest)})


def _whole(source: Source, config: BitCostsConfig, board: Board) -> dict[str, float | None]:
    from ..fold.folding import FoldingSpace
    from ..graph.qonnx_graph import load_onnx

    model = specialized(load_onnx(source.onnx), board, config.max_cycles)
    return dict(FoldingSpace(model, board).for_fps(config.target_fps, config.clock_mhz).resources)


def _priced(place: NetworkPlace, candidates: Mapping[str, list[int]], prices: _Prices) -> dict[str, Any]:
    """Return the table of a place: its tensors, and each resource for all their bits, the last tensor's fastest."""
    names = place.bits.tensors
    found = [
        prices.of(place, dict(zip(names, bits, strict=True))) for bits in product(*(candidates[name] for name in names))
    ]
    return {
        "name": place.name,
        "kind": place.piece.kind,
        "tensors": list(names),
        "resources": {name: [each[name] for each in found] for name in RESOURCES},
    }


class _Prices:
    """Prices of pieces; equal ones are priced once."""

    def __init__(self, config: BitCostsConfig, board: Board) -> None:
        self._config, self._board = config, board
        self._pieces: dict[tuple[Piece, PieceBits], dict[str, float]] = {}
        self._layers: dict[str, tuple[Option, ...]] = {}

    def of(self, place: NetworkPlace, bits: Mapping[str, int]) -> dict[str, float]:
        """Return what a place takes when its tensors have these bits."""
        found = place.piece_bits(bits)
        if found is None:
            return _NOTHING
        key = (place.piece, found)
        if key not in self._pieces:
            self._pieces[key] = self._price(place, found)
        return self._pieces[key]

    def _price(self, place: NetworkPlace, bits: PieceBits) -> dict[str, float]:
        input_bits = _SUM_BITS if place.piece.kind == "sum" else bits.read
        max_cycles = self._config.max_cycles
        model = specialized(write(place.piece, bits), self._board, max_cycles, input_bits=input_bits)
        total = dict(_NOTHING)
        for group in price_groups(model, self._board, self._layers):
            if not group.source.startswith(PIECE):
                continue
            option = group.cheapest(max_cycles)
            if option is None:
                reached = self._config.clock_mhz * 1e6 / group.options[0].cycles
                raise CapacityError(
                    f"--target-fps: got {self._config.target_fps:g}, expected at most {reached:,.1f} at "
                    f"{self._config.clock_mhz:g} MHz; the bottleneck is {place.name}"
                )
            total = {name: total[name] + (option.resources[name] or 0) for name in RESOURCES}
        return total


def summary(costs: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of what each tensor's bits add in LUTs, DSPs and BRAMs, all others being as in the model."""
    own = {tensor["name"]: tensor["bits"] for tensor in costs["tensors"]}
    candidates = {tensor["name"]: tensor["candidates"] for tensor in costs["tensors"]}
    every = sorted({bits for of_one in candidates.values() for bits in of_one})
    table = [["tensor", "bits", *(f"LUT at {bits}" for bits in every)]]
    for name, of_one in candidates.items():
        changes = {bits: _added(costs, candidates, own, {name: bits}, "LUT") for bits in of_one}
        table.append([name, str(own[name]), *(f"{changes[bits]:+,.0f}" if bits in changes else "" for bits in every)])
    return table


def _added(
    costs: Mapping[str, Any],
    candidates: Mapping[str, list[int]],
    own: Mapping[str, int],
    changed: Mapping[str, int],
    resource: str,
) -> float:
    """Return what other bits of a tensor add to the places that it decides."""
    total = 0.0
    for place in costs["places"]:
        if not changed.keys() & set(place["tensors"]):
            continue
        for bits, sign in ((own | dict(changed), 1.0), (own, -1.0)):
            position = 0
            for name in place["tensors"]:
                position = position * len(candidates[name]) + candidates[name].index(bits[name])
            total += sign * place["resources"][resource][position]
    return total
