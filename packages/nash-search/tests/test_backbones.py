from __future__ import annotations

import pytest

from nash_search.base.errors import UsageError
from nash_search.genotype import backbones, genotype
from nash_search.genotype.genotype import Genotype
from nash_search.supernet.network import FloatNetwork


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


@pytest.mark.parametrize(("name", "stages"), [("resnet18-tv", (2, 2, 2, 2)), ("resnet34-tv", (3, 4, 6, 3))])
def test_torchvisions_resnets_project_only_where_they_shrink(name: str, stages: tuple[int, ...]) -> None:
    network = backbones.build(name, input_size=224, num_classes=1000)
    assert network.stem == genotype.Stem(channels=64, kernel=7, stride=2, max_pool=True)
    layers = [layer for cell in network.cells for layer in cell.layers]
    firsts, seconds = layers[::2], layers[1::2]
    widths = [width for width, num_blocks in zip((64, 128, 256, 512), stages, strict=True) for _ in range(num_blocks)]
    assert [layer.channels for layer in firsts] == [layer.channels for layer in seconds] == widths
    shrinking = [width > 64 and width != before for before, width in zip([64, *widths], widths, strict=False)]
    assert [layer.stride == 2 for layer in firsts] == [layer.projection for layer in seconds] == shrinking
    assert all(layer.residual_from is not None for layer in seconds)


def test_resnet8_projects_in_strided_cells_only() -> None:
    network = backbones.build("resnet8", width=8, input_size=16, num_classes=10)
    assert _cells(network) == [(2, 8, 1), (2, 16, 2), (2, 32, 2)]
    assert [cell.layers[1].projection for cell in network.cells] == [False, True, True]


def _complexity(network: Genotype) -> tuple[int, int]:
    """Return parameters (weights, BN scales and offsets) and multiplications of a picture, from the table alone."""
    stem, (height, width) = network.stem, network.sizes()[0][0]
    if stem.max_pool:
        height, width = 2 * height, 2 * width
    weights = stem.kernel**2 * network.input.channels * stem.channels
    params, macs = weights + 2 * stem.channels, weights * height * width
    for cell, sizes in zip(network.cells, network.sizes(), strict=True):
        for target, layer in enumerate(cell.layers, 1):
            weights = layer.kernel**2 * cell.channels(target - 1) * layer.channels // layer.groups
            params += weights + 2 * layer.channels
            if layer.projection:
                projection = cell.channels(layer.residual_from) * layer.channels
                params += projection + 2 * layer.channels
                weights += projection
            macs += weights * sizes[target][0] * sizes[target][1]
    head = network.cells[-1].layers[-1].channels * network.num_classes
    return params + head, macs + head


FIRST_PROJECTION = 64 * 64 + 2 * 64  # of ResNet18 and ResNet34, which torchvision's do without
CIFAR_PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # where the authors pad with zeros
VGG11_CONVS = 9_220_480 - 2_752  # torchvision's vgg11.features without the biases of its convolutions


@pytest.mark.parametrize(
    ("name", "input_size", "num_classes", "params"),
    [
        (
            "resnet18",
            224,
            1000,
            11_689_512 - 1000 + FIRST_PROJECTION,
        ),  # torchvision, without the bias of its classifier
        ("resnet34", 224, 1000, 21_797_672 - 1000 + FIRST_PROJECTION),
        ("resnet18-tv", 224, 1000, 11_689_512 - 1000),
        ("resnet34-tv", 224, 1000, 21_797_672 - 1000),
        ("resnet50", 224, 1000, 25_557_032 - 1000),
        ("resnet20", 32, 10, 269_722 - 10 + CIFAR_PROJECTIONS),  # "0.27M", "0.46M", "0.85M" of arXiv 1512.03385
        ("resnet32", 32, 10, 464_154 - 10 + CIFAR_PROJECTIONS),
        ("resnet56", 32, 10, 853_018 - 10 + CIFAR_PROJECTIONS),
        ("mobilenetv1", 224, 1000, 4_231_976 - 1000),  # Keras
        ("vgg11", 224, 1000, VGG11_CONVS + 2 * 2_752 + 512 * 1000),  # BN for the biases, one classifier
    ],
)
def test_parameters_are_those_of_the_published_network(
    name: str, input_size: int, num_classes: int, params: int
) -> None:
    network = backbones.build(name, input_size=input_size, num_classes=num_classes)
    assert _complexity(network)[0] == params
    assert sum(parameter.numel() for parameter in FloatNetwork(network).parameters()) == params


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("resnet50", 4_089_184_256),
        ("mobilenetv1", 568_740_352),  # "569 million" of arXiv 1704.04861
        ("vgg11", 7_609_090_048 - (25_088 * 4_096 + 4_096 * 4_096 + 4_096 * 1_000) + 512 * 1_000),
    ],
)
def test_multiplications_are_those_of_the_published_network(name: str, macs: int) -> None:
    assert _complexity(backbones.build(name, input_size=224, num_classes=1000))[1] == macs


@pytest.mark.parametrize(
    ("name", "last_sizes"),
    [
        ("resnet56", [32, 32, 32, 16, 16, 16, 8, 8, 8]),
        ("vgg11", [16, 8, 4, 2]),
        ("mobilenetv1", [32, 16, 8, 4, 4, 2]),
    ],
)
def test_small_pictures_keep_their_size_in_the_stem(name: str, last_sizes: list[int]) -> None:
    network = backbones.build(name, input_size=32, num_classes=10)
    assert [sizes[-1] for sizes in network.sizes()] == [(size, size) for size in last_sizes]


def test_bottleneck_strides_and_narrows_inside() -> None:
    cell = backbones.build("resnet50", width=16, input_size=32, num_classes=10).cells[2]
    assert [layer.kernel for layer in cell.layers] == [1, 3, 1, 1, 3, 1]
    assert [layer.channels for layer in cell.layers] == [32, 32, 128, 32, 32, 128]
    assert [layer.stride for layer in cell.layers] == [1, 2, 1, 1, 1, 1]
    assert [layer.residual_from for layer in cell.layers] == [None, None, 0, None, None, 3]
    assert [layer.projection for layer in cell.layers] == [False, False, True, False, False, False]


def test_separable_block_is_depthwise_then_pointwise() -> None:
    cell = backbones.build("mobilenetv1", width=8, input_size=32, num_classes=10).cells[1]
    assert [layer.groups for layer in cell.layers] == [16, 1, 32, 1]
    assert [(layer.kernel, layer.channels, layer.stride) for layer in cell.layers] == [
        *((3, 16, 2), (1, 32, 1), (3, 32, 1), (1, 32, 1)),
    ]


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_cells_are_small_enough_to_search(name: str) -> None:
    network = backbones.build(name, input_size=32, num_classes=10)
    assert max(len(cell.layers) for cell in network.cells) <= 6
    assert sum(len(cell.layers) for cell in network.cells) == backbones.BACKBONES[name].num_layers
    assert network.stem.channels == backbones.BACKBONES[name].width


STEMS = {"vgg11": (3, 1, False), "mobilenetv1": (3, 2, False)}


@pytest.mark.parametrize("name", backbones.BACKBONES)
@pytest.mark.parametrize(("width", "input_size"), [(1, 8), (16, 64), (48, 65)])
def test_backbone_is_consistent_at_any_width(name: str, width: int, input_size: int) -> None:
    network = backbones.build(name, width=width, input_size=input_size, num_classes=10)
    assert genotype.check(network) == []
    expected = (3, 1, False) if input_size <= 64 else STEMS.get(name, (7, 2, True))
    assert (network.stem.kernel, network.stem.stride, network.stem.max_pool) == expected
    assert all(layer.nas_op is None for cell in network.cells for layer in cell.layers)


def test_unknown_backbone_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match=r"did you mean resnet18\?"):
        backbones.build("resnet1", width=8, input_size=8, num_classes=2)
