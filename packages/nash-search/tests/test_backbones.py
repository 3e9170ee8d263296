from __future__ import annotations

import pytest

from nash_search import backbones, genotype
from nash_search.errors import UsageError
from nash_search.genotype import Genotype


def _cells(network: Genotype) -> list[tuple[int, int, int]]:
    return [(len(cell.layers), cell.layers[0].channels, cell.layers[0].stride) for cell in network.cells]


def test_resnet18_has_its_published_shape() -> None:
    network = backbones.build("resnet18", width=64, input_size=224, num_classes=1000)
    assert _cells(network) == [(4, 64, 1), (4, 128, 2), (4, 256, 2), (4, 512, 2)]
    assert network.stem == genotype.Stem(channels=64, kernel=7, stride=2, max_pool=True)
    for cell in network.cells:
        assert [layer.residual_from for layer in cell.layers] == [None, 0, None, 2]
        assert [layer.projection for layer in cell.layers] == [False, True, False, False]


def test_resnet34_has_its_published_shape() -> None:
    network = backbones.build("resnet34", width=64, input_size=224, num_classes=1000)
    assert _cells(network) == [(6, 64, 1), (4, 128, 2), (4, 128, 1), (6, 256, 2), (6, 256, 1), (6, 512, 2)]
    assert [cell.layers[1].projection for cell in network.cells] == [True, True, False, True, False, True]
    assert not any(layer.projection for cell in network.cells for layer in cell.layers[2:])


def test_resnet8_projects_in_strided_cells_only() -> None:
    network = backbones.build("resnet8", width=8, input_size=16, num_classes=10)
    assert _cells(network) == [(2, 8, 1), (2, 16, 2), (2, 32, 2)]
    assert [cell.layers[1].projection for cell in network.cells] == [False, True, True]


@pytest.mark.parametrize("name", backbones.BACKBONES)
@pytest.mark.parametrize(("width", "input_size"), [(1, 8), (16, 64), (48, 65)])
def test_backbone_is_consistent_at_any_width(name: str, width: int, input_size: int) -> None:
    network = backbones.build(name, width=width, input_size=input_size, num_classes=10)
    assert genotype.check(network) == []
    assert (network.stem.kernel, network.stem.max_pool) == ((3, False) if input_size <= 64 else (7, True))
    assert all(layer.nas_op is None for cell in network.cells for layer in cell.layers)


def test_unknown_backbone_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match=r"did you mean resnet18\?"):
        backbones.build("resnet1", width=8, input_size=8, num_classes=2)
