from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import networks
import pytest
from networks import cell, layer, manifest

from nash_qat.base.errors import ManifestError
from nash_qat.network import genotype


@pytest.mark.parametrize("name", networks.ALL)
def test_genotype_is_read_whole(tmp_path: Path, name: str) -> None:
    tree = networks.ALL[name]
    parsed = genotype.load(networks.written(tree, tmp_path))
    assert parsed.manifest == tree
    assert [len(cell.layers) for cell in parsed.cells] == [len(cell["layers"]) for cell in tree["cells"]]
    assert parsed.input_shape == tuple(tree["input"].values())


def test_states_know_their_channels_and_strides() -> None:
    second = networks.parsed(networks.NASH).cells[1]
    assert second.state_channels == (4, 8, 8, 8)
    assert [second.stride_between(j, 2) for j in (0, 1)] == [2, 1]
    assert second.side_readers() == {0, 2}


WRONG = {
    "cells[1].in_channels: got 8, expected 4": manifest(cell(4, layer(4)), cell(8, layer(8))),
    "cells[0].layers[0].groups: got 3, expected a divisor of 4 and 6": manifest(cell(4, layer(6, groups=3))),
    "cells[0].layers[0].residual_from: got 1": manifest(cell(4, layer(4, residual_from=1))),
    "cells[0].layers[0].projection: got false, expected true": manifest(cell(4, layer(8, residual_from=0))),
    "cells[0].layers[0].projection: got true, expected false": manifest(cell(4, layer(4, projection=True))),
    "cells[0].layers[1].residual_from: got a stride of 4": manifest(
        cell(4, layer(4, stride=2), layer(4, stride=2, residual_from=0, projection=True))
    ),
    "cells[0].layers[0].nas_op.input: got 1": manifest(cell(4, layer(4, nas=("conv_1x1", 1)))),
    "cells[0].layers[1].nas_op.input: got a stride of 4": manifest(
        cell(4, layer(4, stride=2), layer(4, stride=2, nas=("skip_connect", 0)))
    ),
    "cells[0].layers[0].nas_op.op: got max_pool_3x3 from 4 to 6": manifest(cell(4, layer(6, nas=("max_pool_3x3", 0)))),
}


@pytest.mark.parametrize("message", WRONG)
def test_network_that_cannot_be_built_names_its_key(tmp_path: Path, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        genotype.load(networks.written(WRONG[message], tmp_path))
    assert message in str(caught.value)
    assert "genotype.json" in str(caught.value)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    tree = manifest(cell(4, layer(6, groups=3, nas=("max_pool_3x3", 0))), cell(8, layer(8)))
    with pytest.raises(ManifestError, match=r"cells\[0\].*\|.*\|.*cells\[1\]"):
        genotype.load(networks.written(tree, tmp_path))


def _without(key: str) -> dict[str, Any]:
    return {name: value for name, value in networks.NASH.items() if name != key}


def test_schema_violation_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="stem"):
        genotype.load(networks.written(_without("stem"), tmp_path))
    tree = copy.deepcopy(networks.NASH)
    tree["cells"][0]["layers"][0]["kernel"] = 4
    with pytest.raises(ManifestError, match=r"cells\[0\]\.layers\[0\]\.kernel: got 4"):
        genotype.load(networks.written(tree, tmp_path))


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    tree = {**networks.NASH, "note": {"by": "hand"}}
    assert genotype.load(networks.written(tree, tmp_path)).manifest["note"] == {"by": "hand"}
    assert json.loads((tmp_path / "genotype.json").read_text()) == tree
