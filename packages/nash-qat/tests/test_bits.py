from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import networks
import pytest
import torch
from networks import cell, layer, manifest, parsed

from nash_qat.base.errors import ManifestError
from nash_qat.export import files as export
from nash_qat.network import bits, complexity
from nash_qat.network.network import Network
from nash_qat.network.terms import ConvBN
from nash_qat.quant.presets import QuantizationSpec, preset

MIXED = [
    {"cells.*.join": 4, "cells.0.layers.0.act": 2, "classifier": 3},
    {"*.act": 3, "*.state": 5, "stem_act": 6, "stem_state": 2, "features": 7, "*.join": 3},
    {"*": 2, "*.join": 8, "cells.1*": 5, "stem*": 1},
    {"*.act": 8, "*.state": 2, "*.main": 1, "*.nas_op": 1, "*.residual": 3, "*.join": 2},
]


def spec_of(overrides: Mapping[str, int], name: str = "w4a4") -> QuantizationSpec:
    return dataclasses.replace(preset(name), overrides=overrides, join="quantized")


def resolved(overrides: Mapping[str, int], tree: dict[str, object] = networks.NASH) -> dict[str, int]:
    return bits.resolve(parsed(tree), spec_of(overrides))


def test_table_holds_every_tensor_in_the_order_of_the_network() -> None:
    tree = manifest(
        cell(4, layer(4), layer(4, residual_from=0)),
        cell(4, layer(8, stride=2, nas=("skip_connect", 0)), layer(8, residual_from=0, projection=True)),
        cell(8, layer(8, nas=("max_pool_3x3", 0))),
    )
    spec = QuantizationSpec(
        weight_bits=1, nas_weight_bits=1, act_bits=2, state_bits=3, join_bits=4, stem_weight_bits=5,
        projection_weight_bits=6, head_weight_bits=7, feature_bits=8,
    )  # fmt: skip
    assert bits.resolve(parsed(tree), spec) == {
        "stem": 5,
        "stem_act": 2,
        "stem_state": 3,
        "cells.0.layers.0.main": 1,
        "cells.0.layers.0.act": 2,
        "cells.0.layers.1.main": 1,
        "cells.0.layers.1.join": 4,
        "cells.0.layers.1.act": 2,
        "cells.0.layers.1.state": 3,
        "cells.1.layers.0.main": 1,
        "cells.1.layers.0.nas_op": 2,  # one bit has no zero
        "cells.1.layers.0.join": 4,
        "cells.1.layers.0.act": 2,
        "cells.1.layers.1.main": 1,
        "cells.1.layers.1.residual": 6,
        "cells.1.layers.1.join": 4,
        "cells.1.layers.1.act": 2,
        "cells.1.layers.1.state": 3,
        "cells.2.layers.0.main": 1,
        "cells.2.layers.0.join": 4,
        "cells.2.layers.0.act": 2,
        "features": 8,
        "classifier": 7,
    }


def test_pattern_sets_all_it_matches_and_nothing_else() -> None:
    plain, some = resolved({}), resolved({"cells.*.join": 3})
    changed = {name for name in plain if plain[name] != some[name]}
    assert changed == {name for name in plain if name.endswith(".join")} != set()
    assert {some[name] for name in changed} == {3}
    dot = {"cells.1.layers.0.act": 1}  # a dot is a dot, as no other character is special
    assert resolved(dot) == plain | dot
    with pytest.raises(ManifestError, match="has no such tensor"):
        resolved({"cells.1.layers.0[.]act": 1})


@pytest.mark.parametrize("reverse", [False, True])
def test_more_specific_override_counts_in_any_order(reverse: bool) -> None:
    given = {"*": 5, "*.act": 2, "cells.0.*.act": 3, "cells.*.layers.0.act": 6, "cells.0.layers.0.act": 7}
    given = dict(reversed(given.items())) if reverse else given
    found = resolved(given)
    assert (found["stem"], found["cells.1.layers.1.act"], found["cells.0.layers.1.act"]) == (5, 2, 3)
    assert (found["cells.1.layers.0.act"], found["cells.0.layers.0.act"]) == (6, 7)


def test_overrides_that_disagree_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"'cells\.0\.\*' and '\*rs\.0\.act' give cells\.0\.layers\.0\.act other"):
        resolved({"cells.0.*": 4, "*rs.0.act": 3})
    assert resolved({"cells.0.*": 4, "*rs.0.act": 4})["cells.0.layers.0.act"] == 4


def test_overrides_that_match_nothing_are_all_named() -> None:
    with pytest.raises(ManifestError) as caught:
        resolved({"cells.0.layer.0.main": 2, "cells.*.joins": 4, "clasifier": 3})
    message = str(caught.value)
    assert (
        "overrides.cells.0.layer.0.main: the network has no such tensor, did you mean 'cells.0.layers.0.main'"
        in message
    )
    assert "overrides.cells.*.joins: the network has no such tensor, did you mean 'cells." in message
    assert "did you mean 'classifier'" in message


def test_bits_depend_on_the_kind() -> None:
    with pytest.raises(ManifestError, match=r"overrides\.\*\.join: got 1, expected 2\.\.8 for cells\.0\.layers"):
        resolved({"*.join": 1})
    with pytest.raises(ManifestError, match=r"overrides\.\*: got 1, expected 2\.\.8 for cells"):
        resolved({"*": 1})
    table = resolved({"*.nas_op": 1}, networks.STRIDED_SIDE_OPS)
    assert table["cells.0.layers.0.nas_op"] == 2  # structural zeros
    assert table["cells.2.layers.0.nas_op"] == 1


@pytest.mark.parametrize("name", networks.ALL)
@pytest.mark.parametrize("overrides", MIXED)
def test_network_has_the_bits_of_the_table(name: str, overrides: dict[str, int]) -> None:
    genotype = parsed(networks.ALL[name])
    known = {each: value for each, value in overrides.items() if _is_there(genotype, each)}
    network = Network(genotype, spec_of(known))
    table = network.bits
    assert table == bits.resolve(genotype, spec_of(known))
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, ConvBN)}
    kinds = bits.tensors(genotype)
    weights = {name for name, tensor in kinds.items() if tensor.kind == "weight"}
    assert {*convolutions, "classifier"} == weights
    assert all(module.weight_bits == module.conv.weight_bits == table[name] for name, module in convolutions.items())
    assert network.classifier.weight_bits == table["classifier"]
    for name, tensor in kinds.items():
        if tensor.kind == "join":
            assert network.get_submodule(name).levels == (-(2 ** (table[name] - 1)), 2 ** (table[name] - 1) - 1)
    for act in (name for name, tensor in kinds.items() if tensor.kind == "act"):
        both = {table[act], table.get(act.removesuffix("act") + "state", table[act])}
        module = network.get_submodule(act)
        found = [quantizer for quantizer in (module.fine, module.coarse) if quantizer is not None]
        assert [quantizer.levels[1] for quantizer in found] == [2**each - 1 for each in sorted(both, reverse=True)]


def _is_there(genotype: object, pattern: str) -> bool:
    try:
        bits.resolve(genotype, spec_of({"*": 2, "*.join": 8} | {pattern: 8}))
    except ManifestError:
        return False
    return True


def test_complexity_counts_the_bits_that_are_read() -> None:
    tree = manifest(cell(4, layer(4), layer(8, stride=2, nas=("skip_connect", 0))), size=8)
    own = {"stem": 3, "stem_act": 2, "stem_state": 5, "cells.0.layers.0.act": 6, "*.nas_op": 7, "features": 1}
    measured = complexity.measure(Network(parsed(tree), spec_of(own | {"classifier": 2}, "w4a4")))
    rows = [  # weights, pixels, bits, bits of what they read
        (1 * 4 * 9, 64, 3, 8),
        (4 * 4 * 9, 64, 4, 2),
        (4 * 8 * 9, 16, 4, 6),
        (4 * 8, 16, 7, 5),
        (8 * 10, 1, 2, 1),
    ]
    assert measured.weight_bits == sum(weights * each for weights, _, each, _ in rows)
    assert measured.bops == sum(weights * pixels * each * reads for weights, pixels, each, reads in rows)


@pytest.mark.parametrize("overrides", MIXED)
def test_mixed_network_exports_exactly(overrides: dict[str, int], tmp_path: object) -> None:
    path = networks.written(networks.STRIDED_SIDE_OPS, tmp_path)
    network = export.untrained(parsed(networks.STRIDED_SIDE_OPS), spec_of(overrides), seed=0)
    pictures = torch.randint(0, 256, (8, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    written = export.export(network, pictures, tmp_path / "m", export.Provenance(genotype_path=path))
    assert written["onnx"]["agreement"]["exact_error"] < 1e-9
    assert written["quantization"]["resolved"] == network.bits
    assert QuantizationSpec.from_dict(written["quantization"]) == network.spec
