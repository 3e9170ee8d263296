"""The operations that a search chooses from: all that the package knows of each is one class here.

A new one is a class in this file and its place in `PRIMITIVES`; its cost on a board comes from costs.json. Nothing
here needs torch before a network is built.
"""

# ruff: noqa: RUF001 - labels set multiplication signs
from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..layers.shape import Shape

if TYPE_CHECKING:
    from torch import nn

    from ..layers.operations import Operation

NONE = "none"


class Primitive:
    """One operation.

    name: in genotypes and options. kernel: pixels a side of what it reads. is_convolution: whether it streams well at
    stride 2, so that v2, v3 and v4 keep it there. label, colour: in drawings.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    colour: ClassVar[str] = "#4a525c"
    kernel: ClassVar[int] = 1
    is_convolution: ClassVar[bool] = False

    def refusal(self, shape: Shape) -> str | None:
        """Return why it cannot connect two states of these shapes, or None if it can."""
        return None if shape.stride <= 2 else f"stride {shape.stride} between the two states, expected 1 or 2"

    def num_weights(self, shape: Shape) -> int:
        """Return how many weights its convolutions have together."""
        return 0

    def searched(self, shape: Shape, bits: int | None = None) -> Operation:
        """Return it as the supernet runs it; bits: those of its weights in a quantized one."""
        raise NotImplementedError

    def retrained(self, shape: Shape, size: tuple[int, int]) -> nn.Module:
        """Return it as a layer of the float network; size: height and width of what it reads."""
        raise NotImplementedError


class Nothing(Primitive):
    """No connection; searched, but never kept."""

    name, label, colour = NONE, "none", "#8a929c"

    def refusal(self, shape: Shape) -> str | None:
        return None

    def searched(self, shape: Shape, bits: int | None = None) -> Operation:
        from ..layers.operations import Nothing

        return Nothing()


class MaxPool3x3(Primitive):
    """3x3 max-pool and BN; where channels grow by a factor, the pooled state is repeated that often."""

    name, label, colour, kernel = "max_pool_3x3", "max-pool 3×3", "#0b7a75", 3

    def refusal(self, shape: Shape) -> str | None:
        if shape.out_channels % shape.in_channels:
            return f"{shape.out_channels} output channels, expected a multiple of the {shape.in_channels} it pools"
        return super().refusal(shape)

    def searched(self, shape: Shape, bits: int | None = None) -> Operation:
        from ..layers.operations import MaxPool

        return MaxPool(shape)

    def retrained(self, shape: Shape, size: tuple[int, int]) -> nn.Module:
        from ..layers.blocks import MaxPoolBN

        return MaxPoolBN(shape.in_channels, shape.out_channels, shape.stride)


class SkipConnect(Primitive):
    """The state itself, or what comes nearest to it when the shape changes.

    At stride 2 a factorized reduction: two 1x1 convolutions, one on the even pixels and one on the odd ones, half of
    the output channels each; when only the channels change, one 1x1 convolution.
    """

    name, label, colour = "skip_connect", "skip", "#5b5f97"

    def refusal(self, shape: Shape) -> str | None:
        if shape.stride == 2 and shape.out_channels % 2:
            return f"{shape.out_channels} output channels, expected an even number (two halves are concatenated)"
        return super().refusal(shape)

    def num_weights(self, shape: Shape) -> int:
        return 0 if shape.is_same else shape.in_channels * shape.out_channels

    def searched(self, shape: Shape, bits: int | None = None) -> Operation:
        from ..layers.operations import Identity, QuantizedReduction, Reduction

        if shape.is_same:
            return Identity()
        return Reduction(shape) if bits is None else QuantizedReduction(shape, bits)

    def retrained(self, shape: Shape, size: tuple[int, int]) -> nn.Module:
        from torch import nn

        from ..layers.blocks import ConvBN, FactorizedReduction

        if shape.is_same:
            return nn.Identity()
        if shape.stride == 2:
            return FactorizedReduction(shape.in_channels, shape.out_channels, size=size)
        return ConvBN(shape.in_channels, shape.out_channels, 1, 1)


class Convolution(Primitive):
    """Convolution and BN, in the supernet a binary one with a ReLU in between unless that is quantized."""

    is_convolution = True

    def num_weights(self, shape: Shape) -> int:
        return shape.in_channels * shape.out_channels * self.kernel**2

    def searched(self, shape: Shape, bits: int | None = None) -> Operation:
        from ..layers.operations import BinaryConvolution, QuantizedConvolution

        return BinaryConvolution(shape, self.kernel) if bits is None else QuantizedConvolution(shape, self.kernel, bits)

    def retrained(self, shape: Shape, size: tuple[int, int]) -> nn.Module:
        from ..layers.blocks import ConvBN

        return ConvBN(shape.in_channels, shape.out_channels, self.kernel, shape.stride)


class Conv1x1(Convolution):
    name, label, colour, kernel = "conv_1x1", "conv 1×1", "#c77700", 1


class Conv3x3(Convolution):
    name, label, colour, kernel = "conv_3x3", "conv 3×3", "#c8481f", 3


class Conv5x5(Convolution):
    name, label, colour, kernel = "conv_5x5", "conv 5×5", "#9b1d4a", 5


_ALL = (Nothing, MaxPool3x3, SkipConnect, Conv1x1, Conv3x3, Conv5x5)
PRIMITIVES: dict[str, Primitive] = {primitive.name: primitive() for primitive in _ALL}
