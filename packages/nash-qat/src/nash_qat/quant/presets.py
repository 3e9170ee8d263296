"""Bit widths as data: the quantization of a network, and the named ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ..base.errors import ManifestError, UsageError
from ..base.quoting import brief

WeightScale = Literal["statistics", "learned"]
JoinKind = Literal["quantized", "aligned", "fused"]
BITS = range(1, 9)
SHIFTS = range(7)
RESOLVED = "resolved"  # in model.json: the bits of every tensor
_WEIGHT_ACT = re.compile(r"w([1-8])a([1-8])")


@dataclass(frozen=True, kw_only=True)
class QuantizationSpec:
    """Bit widths of every tensor of a network, 1 to 8 each.

    weight_bits: backbone convolutions. nas_weight_bits: convolutions of NAS operations (a factorized reduction needs a
    zero and uses at least 2). act_bits: activations that backbone convolutions read. state_bits: the same activations
    as NAS operations, projections and residuals read them; one quantizer serves both when they are equal.
    join_bits: both sides of an addition, signed. feature_bits: pooled features, which the classifier reads.
    weight_scale: 'learned', scales that train with the weights (arXiv 1902.08153), or 'statistics', those of their mean
    or largest magnitude, which is also what files without this key have.
    join: 'quantized', all terms of a sum on a grid of their own, which is also what files without this key have, or
    'aligned', on that of the states among them, divided by 2^join_shift, or 'fused', as the accumulators and states
    that they are, with one batch normalization behind the sum (see joins.py); join_bits are of no account then.
    overrides: bits of single tensors by their names in the network, such as 'cells.0.layers.1.main', or by a pattern
    such as 'cells.*.join', in which '*' stands for any characters (see bits.py).
    """

    preset: str | None = None
    weight_bits: int
    nas_weight_bits: int
    act_bits: int
    state_bits: int
    join_bits: int = 8
    stem_weight_bits: int = 8
    projection_weight_bits: int = 8
    head_weight_bits: int = 8
    feature_bits: int = 4
    weight_scale: WeightScale = "statistics"
    join: JoinKind = "quantized"
    join_shift: int = 2
    overrides: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.overrides, Mapping):
            got = brief(self.overrides)
            raise ManifestError(f"quantization.overrides: got {got}, expected an object of bits by name")
        values = {name: getattr(self, name) for name in _BIT_KEYS}
        values |= {f"overrides.{name}": bits for name, bits in self.overrides.items()}
        problems = []
        if not isinstance(self.preset, str | None):
            problems.append(f"quantization.preset: got {brief(self.preset)}, expected a name or null")
        for name, bits in values.items():
            lowest = 2 if name == "join_bits" else BITS.start  # signed: one bit has no positive value
            if isinstance(bits, bool) or not isinstance(bits, int) or not lowest <= bits < BITS.stop:
                problems.append(f"quantization.{name}: got {brief(bits)}, expected {lowest}..{BITS.stop - 1}")
        for name, kinds in (("weight_scale", WeightScale), ("join", JoinKind)):
            if getattr(self, name) not in get_args(kinds):
                choices = " or ".join(get_args(kinds))
                problems.append(f"quantization.{name}: got {brief(getattr(self, name))}, expected {choices}")
        shift = self.join_shift
        if isinstance(shift, bool) or not isinstance(shift, int) or shift not in SHIFTS:
            problems.append(f"quantization.join_shift: got {brief(shift)}, expected {SHIFTS.start}..{SHIFTS.stop - 1}")
        if problems:
            raise ManifestError(" | ".join(problems))

    @property
    def has_learned_weight_scales(self) -> bool:
        """Say whether scales of weights train with them."""
        return self.weight_scale == "learned"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizationSpec:
        """Return the spec of a JSON object; the table `resolved` of a model manifest follows from the rest.

        Raises:
            ManifestError: an unknown or missing key, or a bit width out of range.
        """
        if not isinstance(values, Mapping):
            raise ManifestError(f"quantization: got {brief(values)}, expected an object of bit widths")
        values = {key: value for key, value in values.items() if key != RESOLVED}
        known = [each.name for each in fields(cls)]
        problems = [_unknown(key, known) for key in values if key not in known]
        required = ("weight_bits", "nas_weight_bits", "act_bits", "state_bits")
        problems += [f"quantization: misses the key '{key}'" for key in required if key not in values]
        if problems:
            raise ManifestError(" | ".join(problems))
        return cls(**values)


_BIT_KEYS = tuple(each.name for each in fields(QuantizationSpec) if each.name.endswith("_bits"))


def preset(name: str) -> QuantizationSpec:
    """Return a named spec: 'w4a4' (any wNaM, 1..8) or a variant's own ('v1'..'v4', 'resnet34-v3').

    Sums of wNaM are `aligned`, which costs less and loses nothing (README); a variant's own are the reference's.

    Raises:
        UsageError: an unknown name.
    """
    match = _WEIGHT_ACT.fullmatch(name)
    if match is not None:
        weight_bits, act_bits = int(match[1]), int(match[2])
        return QuantizationSpec(
            preset=name,
            weight_bits=weight_bits,
            nas_weight_bits=weight_bits,
            act_bits=act_bits,
            state_bits=act_bits,
            feature_bits=max(4, act_bits),
            weight_scale="learned",
            join="aligned",
        )
    if name not in _VARIANTS:
        close = difflib.get_close_matches(name, [*_VARIANTS, "w4a4"], n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        choices = ", ".join(_VARIANTS)
        raise UsageError(f"--preset: got '{name}', expected wNaM with N, M in 1..8, or one of {choices}{hint}")
    return QuantizationSpec(preset=name, **_VARIANTS[name])


_VARIANTS: dict[str, dict[str, int]] = {
    "v1": {"weight_bits": 8, "nas_weight_bits": 1, "act_bits": 8, "state_bits": 8},
    "v2": {"weight_bits": 8, "nas_weight_bits": 1, "act_bits": 8, "state_bits": 8},
    "v3": {"weight_bits": 4, "nas_weight_bits": 1, "act_bits": 4, "state_bits": 8},
    "v4": {"weight_bits": 1, "nas_weight_bits": 8, "act_bits": 8, "state_bits": 8},
    "resnet34-v3": {"weight_bits": 2, "nas_weight_bits": 1, "act_bits": 2, "state_bits": 8},
}


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"quantization.{key}: unknown key" + (f", did you mean '{close[0]}'?" if close else "")
