from __future__ import annotations

import pytest

from nash_search.base.errors import UsageError
from nash_search.supernet import quantization


@pytest.mark.parametrize(
    ("name", "bits"),  # weights, NAS weights, activations, states, pooled features
    [
        ("w4a4", (4, 4, 4, 4, 4)),
        ("w1a2", (1, 1, 2, 2, 4)),
        ("w8a8", (8, 8, 8, 8, 8)),
        ("v1", (8, 1, 8, 8, 4)),
        ("v2", (8, 1, 8, 8, 4)),
        ("v3", (4, 1, 4, 8, 4)),
        ("v4", (1, 8, 8, 8, 4)),
        ("resnet34-v3", (2, 1, 2, 8, 4)),
    ],
)
def test_presets_have_the_bits_of_retraining(name: str, bits: tuple[int, ...]) -> None:
    found = quantization.preset(name)
    assert found.preset == name
    assert (found.weight_bits, found.nas_weight_bits, found.act_bits, found.state_bits, found.feature_bits) == bits
    assert (found.stem_weight_bits, found.projection_weight_bits, found.head_weight_bits) == (8, 8, 8)


@pytest.mark.parametrize("name", ["w9a4", "w4", "w4a0", "v5", "", "W4A4", "w4a4 "])
def test_unknown_preset_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"--preset: got '.*', expected wNaM with N, M in 1\.\.8, or one of v1"):
        quantization.preset(name)
