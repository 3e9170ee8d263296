from __future__ import annotations

import json
from importlib import resources

import pytest

from nash_search.base.errors import UsageError
from nash_search.genotype import backbones, genotype, zoo

PUBLISHED = json.loads(resources.files("nash_search.genotype").joinpath("published_genotypes.json").read_text())


def test_zoo_lists_the_published_and_the_baselines() -> None:
    names = [entry.name for entry in zoo.entries()]
    assert names == [*PUBLISHED, *backbones.BACKBONES]
    assert set(names) >= {"resnet20", "resnet32", "resnet50", "resnet56", "vgg11", "mobilenetv1"}
    assert len(PUBLISHED) == 5


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("width", "input_size"), [(1, 8), (64, 224)])
def test_published_genotype_is_consistent_and_complete(name: str, width: int, input_size: int) -> None:
    network = zoo.build(name, width=width, input_size=input_size)
    assert genotype.check(network) == []
    found = [
        [{"op": layer.nas_op.op, "input": layer.nas_op.input} for layer in cell.layers if layer.nas_op]
        for cell in network.cells
    ]
    assert found == PUBLISHED[name]["cells"]
    assert (network.name, network.variant) == (name, PUBLISHED[name]["variant"])


@pytest.mark.parametrize("name", [name for name in PUBLISHED if not name.endswith("v1")])
def test_published_genotype_keeps_the_rule_of_its_variant(name: str) -> None:
    network = zoo.build(name)
    for cell in network.cells:
        for target, layer in enumerate(cell.layers, 1):
            if cell.stride(layer.nas_op.input, target) == 2:
                assert layer.nas_op.op.startswith("conv")


def test_defaults_fit_cifar10_and_digits() -> None:
    network = zoo.build("resnet18-v3")
    assert (network.input.channels, network.input.height, network.num_classes) == (3, 32, 10)
    assert (network.stem.channels, network.stem.kernel, network.stem.max_pool) == (64, 3, False)


def test_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match=r"did you mean resnet18-v4\?"):
        zoo.build("resnet18-v5")
