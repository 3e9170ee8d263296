from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nash_search.base import manifest
from nash_search.genotype import genotype, space, zoo
from nash_search.genotype.genotype import Genotype
from nash_search.genotype.primitives import PRIMITIVES
from nash_search.genotype.space import Candidate
from nash_search.genotype.variants import VARIANTS
from nash_search.layers.operations import State
from nash_search.layers.shape import Shape
from nash_search.supernet.supernet import Supernet


def _one(network: Genotype, variant: str, place: tuple[int, int, int], op: str) -> Candidate:
    found = [
        candidate
        for candidate in space.candidates(network, VARIANTS[variant])
        if (candidate.cell, candidate.layer, candidate.input, candidate.op) == (*place, op)
    ]
    assert len(found) == 1
    return found[0]


def test_candidates_have_the_shapes_worked_out_by_hand() -> None:
    network = zoo.build("resnet18")
    assert _one(network, "v1", (1, 2, 0), "conv_5x5") == Candidate(
        cell=1,
        layer=2,
        input=0,
        op="conv_5x5",
        decodable=True,
        in_channels=64,
        out_channels=128,
        kernel=5,
        stride=2,
        input_height=32,
        input_width=32,
        output_height=16,
        output_width=16,
        macs=64 * 128 * 25 * 256,
        num_weights=64 * 128 * 25,
    )
    skip = _one(network, "v1", (1, 1, 0), "skip_connect")
    assert (skip.num_weights, skip.macs) == (64 * 128, 64 * 128 * 256)  # two 1x1 convolutions, 64 outputs each
    identity, pool = (_one(network, "v1", (1, 3, 2), op) for op in ("skip_connect", "max_pool_3x3"))
    assert (identity.num_weights, identity.macs, pool.num_weights, pool.macs) == (0, 0, 0, 0)
    assert (identity.kernel, pool.kernel) == (1, 3)


@pytest.mark.parametrize(("variant", "count"), [("v1", 40 * 5), ("v2", 40 * 5), ("v3", 40 * 5), ("v4", 40 * 3)])
def test_each_edge_has_each_operation_of_the_variant(variant: str, count: int) -> None:
    found = list(space.candidates(zoo.build("resnet18", width=2), VARIANTS[variant]))
    assert len(found) == len(set(found)) == count
    undecodable = [candidate for candidate in found if not candidate.decodable]
    assert len(undecodable) == (3 * 4 * 2 if variant in ("v2", "v3") else 0)  # skip and max-pool on strided edges
    assert all(candidate.stride == 2 for candidate in undecodable)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["resnet50", "mobilenetv1", "vgg11", "odd"])
def test_candidates_are_what_the_supernet_samples(variant: str, name: str, odd_network: Genotype) -> None:
    network = odd_network if name == "odd" else zoo.build(name, width=1, input_size=8)
    found = list(space.candidates(network, VARIANTS[variant]))
    edges, layers = (Supernet(network, VARIANTS[variant], relaxation) for relaxation in ("edge", "layer"))
    assert len(found) == int(edges.admissible[:, 1:].sum())
    assert sum(candidate.decodable for candidate in found) == int(layers.admissible[:, 1:].sum())


def test_shapes_and_weights_are_those_of_the_primitives(odd_network: Genotype) -> None:
    for candidate in space.candidates(odd_network, VARIANTS["v1"]):
        shape = Shape(in_channels=candidate.in_channels, out_channels=candidate.out_channels, stride=candidate.stride)
        op = PRIMITIVES[candidate.op].searched(shape)
        term = op(State(torch.rand(2, candidate.in_channels, candidate.input_height, candidate.input_width)))
        assert term.features.shape == (2, candidate.out_channels, candidate.output_height, candidate.output_width)
        weights = sum(parameter.numel() for parameter in op.parameters() if parameter.dim() == 4)
        assert candidate.num_weights == weights


def test_space_survives_a_round_trip(tmp_path: Path, odd_network: Genotype) -> None:
    genotype.save(odd_network, tmp_path / "g.json")
    count = space.save(odd_network, VARIANTS["v3"], tmp_path / "space.json")
    content = manifest.load(tmp_path / "space.json", "space")
    assert content["schema"] == "nash.space/1.1"
    network = content["network"] | {"name": "odd", "variant": None}
    assert genotype.from_manifest(network) == odd_network.without_nas_ops()
    assert [Candidate(**entry) for entry in content["candidates"]] == list(
        space.candidates(odd_network, VARIANTS["v3"])
    )
    assert (len(content["candidates"]), content["name"], content["backbone"]) == (count, "odd-v3", None)
    schema = manifest.schema("space")["properties"]["candidates"]["items"]
    assert set(schema["required"]) == set(schema["properties"]) == set(json.loads(json.dumps(content["candidates"][0])))
