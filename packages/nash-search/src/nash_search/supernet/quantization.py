"""How many bits a quantized supernet has where, as data; the names are those of nash-qat's presets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..base.errors import UsageError
from ..base.suggest import one_of

_WEIGHT_ACT = re.compile(r"w([1-8])a([1-8])")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Bit widths, 1 to 8 each.

    weight_bits: convolutions of the backbone. nas_weight_bits: those of NAS operations (a factorized reduction has 2 at
    least, as nash-qat's needs a zero). act_bits: states as convolutions of the backbone read them. state_bits: as
    residuals, projections and NAS operations read them. feature_bits: pooled features, which the classifier reads.
    """

    preset: str
    weight_bits: int
    nas_weight_bits: int
    act_bits: int
    state_bits: int
    stem_weight_bits: int = 8
    projection_weight_bits: int = 8
    head_weight_bits: int = 8
    feature_bits: int = 4


_OF_VARIANTS = (
    Quantization(preset="v1", weight_bits=8, nas_weight_bits=1, act_bits=8, state_bits=8),
    Quantization(preset="v2", weight_bits=8, nas_weight_bits=1, act_bits=8, state_bits=8),
    Quantization(preset="v3", weight_bits=4, nas_weight_bits=1, act_bits=4, state_bits=8),
    Quantization(preset="v4", weight_bits=1, nas_weight_bits=8, act_bits=8, state_bits=8),
    Quantization(preset="resnet34-v3", weight_bits=2, nas_weight_bits=1, act_bits=2, state_bits=8),
)
_BY_NAME = {quantization.preset: quantization for quantization in _OF_VARIANTS}


def preset(name: str) -> Quantization:
    """Return a named one: 'w4a4' (any wNaM, 1..8), or a variant's own ('v1'..'v4', 'resnet34-v3').

    Raises:
        UsageError: an unknown name.

    >>> preset("w2a4").nas_weight_bits, preset("v3").nas_weight_bits
    (2, 1)
    """
    if (bits := _WEIGHT_ACT.fullmatch(name)) is not None:
        weight_bits, act_bits = int(bits[1]), int(bits[2])
        return Quantization(
            preset=name,
            weight_bits=weight_bits,
            nas_weight_bits=weight_bits,
            act_bits=act_bits,
            state_bits=act_bits,
            feature_bits=max(4, act_bits),
        )
    if name not in _BY_NAME:
        raise UsageError(f"--preset: got '{name}', expected wNaM with N, M in 1..8, or {one_of(name, _BY_NAME)}")
    return _BY_NAME[name]
