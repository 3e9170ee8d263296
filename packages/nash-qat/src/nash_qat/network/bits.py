"""The quantized tensors of a network by name, and the bits that a quantization gives each of them.

Weights have the name of their convolution ('stem', 'cells.0.layers.1.main', '.residual', '.nas_op') or 'classifier'.
Activations: 'stem_act' and 'cells.0.layers.1.act' as backbone convolutions read them, 'stem_state' and '.state' the
same as residuals, projections and NAS operations read them (there only if one does), '.join' both sides of an addition
(there only if it quantizes them: a fused one does not), and 'features', which the classifier reads.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..base.errors import ManifestError
from ..quant.presets import BITS, JoinKind, QuantizationSpec
from .genotype import Cell, Genotype, Layer

Kind = Literal["weight", "act", "state", "join", "features"]
_LEAST_SIGNED = 2  # bits: a sign and one more


@dataclass(frozen=True, kw_only=True)
class QuantizedTensor:
    """A tensor's kind, the key of the quantization that gives its bits where no override does, and its fewest bits."""

    kind: Kind
    key: str
    lowest: int = BITS.start


def tensors(genotype: Genotype, join: JoinKind = "quantized") -> dict[str, QuantizedTensor]:
    """Return the quantized tensors of a network by name, from the pictures to the logits; `join` is its additions'."""
    stem_is_read, are_read = _side_reads(genotype)
    found = {"stem": _weight("stem_weight_bits")} | _activation("stem_act", "stem_state", is_side_read=stem_is_read)
    for c, cell in enumerate(genotype.cells):
        for index, layer in enumerate(cell.layers):
            place = f"cells.{c}.layers.{index}"
            of_layer = _layer_tensors(cell, index + 1, layer)
            if join != "fused" and layer.has_sum:
                of_layer["join"] = QuantizedTensor(kind="join", key="join_bits", lowest=_LEAST_SIGNED)
            lowest = _LEAST_SIGNED if layer.is_linear else BITS.start
            of_layer |= _activation("act", "state", is_side_read=are_read[c][index], lowest=lowest)
            found |= {f"{place}.{name}": tensor for name, tensor in of_layer.items()}
    features = QuantizedTensor(kind="features", key="feature_bits")
    return found | {"features": features, "classifier": _weight("head_weight_bits")}


def resolve(genotype: Genotype, spec: QuantizationSpec) -> dict[str, int]:
    """Return the bits of every quantized tensor of a network, in the order of `tensors`.

    Of the overrides that match a tensor, the one with the most characters beside '*' counts. Weights with structural
    zeros have at least 2 bits.

    Raises:
        ManifestError: an override matches nothing, gives a join one bit, or is as specific as another that disagrees.
    """
    found = tensors(genotype, spec.join)
    matches = {pattern: _matching(pattern, found) for pattern in spec.overrides}
    problems = [_no_match(pattern, found) for pattern, names in matches.items() if not names]
    problems += [_too_few(pattern, spec, names[0]) for pattern, names in _unsigned_joins(matches, spec, found).items()]
    chosen = {name: [pattern for pattern, names in matches.items() if name in names] for name in found}
    problems += [
        problem for name, patterns in chosen.items() if (problem := _ambiguity(name, patterns, spec)) is not None
    ]
    if problems:
        raise ManifestError(" | ".join(dict.fromkeys(problems)))
    return {
        name: max(tensor.lowest, _bits(chosen[name], spec, default=getattr(spec, tensor.key)))
        for name, tensor in found.items()
    }


def state_prefixes(genotype: Genotype) -> list[list[str]]:
    """Return, for every state of every cell, what the names of its tensors begin with: of its 'act', for example."""
    prefixes, first = [], "stem_"
    for c, cell in enumerate(genotype.cells):
        of_cell = [first, *(f"cells.{c}.layers.{index}." for index in range(len(cell.layers)))]
        prefixes.append(of_cell)
        first = of_cell[-1]
    return prefixes


def _weight(key: str, *, lowest: int = BITS.start) -> QuantizedTensor:
    return QuantizedTensor(kind="weight", key=key, lowest=lowest)


def _activation(act: str, state: str, *, is_side_read: bool, lowest: int = BITS.start) -> dict[str, QuantizedTensor]:
    found = {act: QuantizedTensor(kind="act", key="act_bits", lowest=lowest)}
    return found | ({state: QuantizedTensor(kind="state", key="state_bits", lowest=lowest)} if is_side_read else {})


def _side_reads(genotype: Genotype) -> tuple[bool, list[list[bool]]]:
    """Say of the stem and of every cell's layers whether a residual or a NAS operation reads their output."""
    readers = [cell.side_readers() for cell in genotype.cells]
    next_cell_reads = [*(0 in reader for reader in readers[1:]), False]
    layers = [
        [*(number in reader for number in range(1, len(cell.layers))), of_next]
        for cell, reader, of_next in zip(genotype.cells, readers, next_cell_reads, strict=True)
    ]
    return 0 in readers[0], layers


def _layer_tensors(cell: Cell, number: int, layer: Layer) -> dict[str, QuantizedTensor]:
    found = {"main": _weight("weight_bits")}
    if layer.projection:
        found["residual"] = _weight("projection_weight_bits")
    if layer.nas_op is not None:
        source, op = layer.nas_op.input, layer.nas_op.op
        is_reduction = op == "skip_connect" and cell.stride_between(source, number) == 2
        widens = op == "skip_connect" and cell.state_channels[source] != layer.channels
        if is_reduction or widens or op.startswith("conv"):
            found["nas_op"] = _weight("nas_weight_bits", lowest=2 if is_reduction else BITS.start)
    return found


def _matching(pattern: str, found: Mapping[str, QuantizedTensor]) -> list[str]:
    expression = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    return [name for name in found if expression.fullmatch(name)]


def _bits(patterns: list[str], spec: QuantizationSpec, *, default: int) -> int:
    return spec.overrides[max(patterns, key=_specificity)] if patterns else default


def _specificity(pattern: str) -> tuple[bool, int]:
    """Return what orders patterns: a name comes before any pattern, a pattern before one with fewer characters."""
    return "*" not in pattern, len(pattern.replace("*", ""))


def _ambiguity(name: str, patterns: list[str], spec: QuantizationSpec) -> str | None:
    if not patterns:
        return None
    most = max(map(_specificity, patterns))
    first, *others = (pattern for pattern in patterns if _specificity(pattern) == most)
    for other in others:
        if spec.overrides[other] != spec.overrides[first]:
            return f"quantization.overrides: '{first}' and '{other}' give {name} other bits; name more of it in one"
    return None


def _unsigned_joins(
    matches: Mapping[str, list[str]], spec: QuantizationSpec, found: Mapping[str, QuantizedTensor]
) -> dict[str, list[str]]:
    """Return the patterns of fewer bits than a sum of signed numbers has, and the joins each matches."""
    joins = {
        pattern: [name for name in names if found[name].kind == "join" and spec.overrides[pattern] < found[name].lowest]
        for pattern, names in matches.items()
    }
    return {pattern: names for pattern, names in joins.items() if names}


def _too_few(pattern: str, spec: QuantizationSpec, name: str) -> str:
    expected = f"2..{BITS.stop - 1} for {name}, which is signed"
    return f"quantization.overrides.{pattern}: got {spec.overrides[pattern]}, expected {expected}"


def _no_match(pattern: str, found: Mapping[str, QuantizedTensor]) -> str:
    close = difflib.get_close_matches(pattern, found, n=1, cutoff=0.5)
    hint = f", did you mean '{close[0]}'?" if close else f"; its tensors are {', '.join(list(found)[:3])}, ..."
    return f"quantization.overrides.{pattern}: the network has no such tensor{hint}"
