from __future__ import annotations

import pytest

from nash_qat.base import manifest
from nash_qat.base.errors import ManifestError, UsageError
from nash_qat.quant.presets import QuantizationSpec, preset


def test_weight_act_preset_sets_both_everywhere() -> None:
    spec = preset("w3a2")
    assert (spec.weight_bits, spec.nas_weight_bits, spec.act_bits, spec.state_bits) == (3, 3, 2, 2)
    assert (spec.join_bits, spec.stem_weight_bits, spec.feature_bits) == (8, 8, 4)
    assert preset("w8a8").feature_bits == 8
    assert spec.has_learned_weight_scales


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("v1", (8, 1, 8, 8)),
        ("v2", (8, 1, 8, 8)),
        ("v3", (4, 1, 4, 8)),
        ("v4", (1, 8, 8, 8)),
        ("resnet34-v3", (2, 1, 2, 8)),
    ],
)
def test_variants_have_the_papers_bits(name: str, bits: tuple[int, ...]) -> None:
    spec = preset(name)
    assert (spec.weight_bits, spec.nas_weight_bits, spec.act_bits, spec.state_bits) == bits
    assert spec.feature_bits == 4
    assert spec.weight_scale == "statistics"  # as the reference


def test_unknown_preset_gets_a_hint() -> None:
    with pytest.raises(UsageError, match=r"--preset: got 'w9a4'.*did you mean 'w4a4'"):
        preset("w9a4")


@pytest.mark.parametrize("bits", [0, 9, 12, -1, 4.0, True, "4", None])
def test_bits_out_of_range_are_rejected(bits: object) -> None:
    values = {"weight_bits": 4, "nas_weight_bits": 4, "act_bits": bits, "state_bits": 4}
    with pytest.raises(ManifestError, match=r"^quantization\.act_bits: got .*, expected 1\.\.8$"):
        QuantizationSpec.from_dict(values)


def test_signed_join_needs_two_bits() -> None:
    with pytest.raises(ManifestError, match=r"quantization\.join_bits: got 1, expected 2\.\.8"):
        QuantizationSpec(weight_bits=1, nas_weight_bits=1, act_bits=1, state_bits=1, join_bits=1)


def test_all_wrong_keys_are_named_with_a_hint() -> None:
    with pytest.raises(ManifestError) as caught:
        QuantizationSpec.from_dict({"weight_bits": 4, "act_bit": 4})
    message = str(caught.value)
    assert "quantization.act_bit: unknown key, did you mean 'act_bits'?" in message
    assert "misses the key 'state_bits'" in message


def test_spec_covers_the_schema() -> None:
    keys = set(manifest.schema("model")["properties"]["quantization"]["properties"])
    assert {*preset("w4a4").to_dict(), "resolved"} == keys
    assert QuantizationSpec.from_dict(preset("v3").to_dict()) == preset("v3")
    assert QuantizationSpec.from_dict({**preset("v3").to_dict(), "resolved": {"stem": 8}}) == preset("v3")


def test_files_without_a_weight_scale_are_those_of_before() -> None:
    bits = {"weight_bits": 4, "nas_weight_bits": 4, "act_bits": 4, "state_bits": 4}
    assert QuantizationSpec.from_dict(bits).weight_scale == "statistics"
    assert QuantizationSpec.from_dict({**bits, "weight_scale": "learned"}).has_learned_weight_scales
    with pytest.raises(ManifestError, match=r'quantization\.weight_scale: got "max", expected statistics or learned'):
        QuantizationSpec.from_dict({**bits, "weight_scale": "max"})
