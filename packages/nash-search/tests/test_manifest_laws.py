"""What is saved is what is loaded, for every genotype drawn and every key that a later version may add."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nash_search.base import manifest
from nash_search.genotype import backbones, genotype
from nash_search.genotype.genotype import Edge, Genotype, NasOp
from nash_search.genotype.primitives import NONE, PRIMITIVES

LAWS = settings(max_examples=50, deadline=None, derandomize=True)
NUMBERS = st.one_of(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    """A backbone with any operation, or none, beside each layer, of any state that it fits."""
    name, width = draw(st.sampled_from(["resnet8", "resnet18", "vgg11"])), draw(st.integers(1, 32))
    network = backbones.build(name, width=width, input_size=draw(st.sampled_from([32, 33])), num_classes=10)
    by_layer: dict[tuple[int, int], list[Edge]] = {}
    for edge in network.edges():
        by_layer.setdefault((edge.cell, edge.layer), []).append(edge)
    chosen: list[NasOp | None] = []
    for edges in by_layer.values():
        ops = [(op, edge.input) for edge in edges for op, kind in PRIMITIVES.items() if not kind.refusal(edge.shape)]
        op, source = draw(st.sampled_from(ops))
        probability = draw(st.one_of(st.none(), st.floats(0.0, 1.0)))
        chosen.append(None if op == NONE else NasOp(op=op, input=source, probability=probability))
    return network.with_nas_ops(chosen)


@LAWS
@given(genotypes())
def test_genotype_comes_back_as_it_was_saved(network: Genotype) -> None:
    with tempfile.TemporaryDirectory() as folder:
        genotype.save(network, Path(folder) / "genotype.json")
        assert genotype.load(Path(folder) / "genotype.json") == network


@LAWS
@given(st.dictionaries(st.text(min_size=1).map("later_{}".format), JSON, max_size=4))
def test_unknown_keys_come_back_as_they_were_saved(added: dict[str, Any]) -> None:
    plain = backbones.build("resnet8", width=4, input_size=16, num_classes=10)
    content = manifest.header("genotype") | genotype.to_manifest(plain) | added
    with tempfile.TemporaryDirectory() as folder:
        manifest.save(Path(folder) / "genotype.json", content, "genotype")
        assert manifest.load(Path(folder) / "genotype.json", "genotype") == content
