"""Binary convolutions as in Bi-Real Net (arXiv 1808.00278): signs of weights times their mean magnitude E, on signs.

Shapes: states (B, C, H, W), channels last.

They convolve with +1 and -1, whose sums are exact integers, and leave E to the normalization that follows; convolving
with +E and -E would turn exact zeros into rounding noise in front of a ReLU. Such sums are the same whether they are
added up in floating point or in integers. So where the processor multiplies 8-bit integers several times as fast, the
forward pass does that (oneDNN's quantized convolution), and its result is the same, bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .convolution import Conv2d, Every
from .sums import EPS

_SMALLEST_SCALE = 1e-12  # of a convolution whose weights are all zero
_ZERO = 1  # the code of 0, with which a picture is padded; those of -1 and +1 are 0 and 2
_FEWEST_PIXELS = 256  # packing the weights for 8 bits takes as long as it saves at about 180 pixels


class SignState(torch.autograd.Function):
    """What the signs of a state are in the graph, with the triangular gradient 2 - 2|x| inside [-1, 1] (eq. 9).

    Its value is a zero without memory; the signs themselves are in `Signs`.

    >>> x = torch.tensor([-2.0, -0.5, 0.0, 0.25], requires_grad=True)
    >>> SignState.apply(x).sum().backward()
    >>> x.grad
    tensor([0.0000, 1.0000, 2.0000, 1.5000])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.addcmul(grad, grad, x.abs().clamp_(max=1), value=-1).mul_(2)


class Signs:
    """The signs of a state, one byte each.

    carrier: what takes their gradient; a tensor of their shape whose values mean nothing.
    codes: 0 for -1, 2 for +1; 1 for the zeros of a padding.

    >>> Signs.of(torch.tensor([[[[-0.5, 0.0, 0.25]]]])).values()
    tensor([[[[-1.,  1.,  1.]]]])
    """

    def __init__(self, carrier: Tensor, codes: Tensor) -> None:
        self.carrier = carrier
        self.codes = codes

    @classmethod
    def of(cls, x: Tensor) -> Signs:
        """Take the signs of a state, +1 at 0.

        Raises:
            FloatingPointError: the state holds a NaN or an infinity, of which the signs would tell nothing.
        """
        carrier, x = SignState.apply(x), x.detach()
        if not math.isfinite(x.sum()):
            raise FloatingPointError("a state is not finite")
        # by way of float and int32, which are vectorized: in two thirds of the time of a bool
        return cls(carrier, torch.ge(x, 0, out=torch.empty_like(x)).to(torch.int32).to(torch.uint8).mul_(2))

    def values(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the signs as numbers, of the state's type unless told otherwise."""
        return self.codes.view(torch.int8).sub(_ZERO).to(self.carrier.dtype if dtype is None else dtype)

    def every(self, stride: int, first: int = 0) -> Signs:
        """Return those of each stride-th pixel a row and a column, from `first` on; past the edge there are zeros.

        There are as many as from 0 on, whatever `first` is.
        """
        carrier, codes = Every.apply(self.carrier, stride, first), self.codes[:, :, first::stride, first::stride]
        rows, columns = (-(-whole // stride) for whole in self.codes.shape[2:])
        rows, columns = rows - codes.shape[2], columns - codes.shape[3]
        if rows or columns:
            padding = (0, columns, 0, rows)
            carrier, codes = F.pad(carrier, padding), F.pad(codes, padding, value=_ZERO)
        return Signs(carrier, codes.contiguous(memory_format=torch.channels_last))


class BinaryConv2d(Conv2d):
    """Convolution of signs with the signs of its weights; `scale()` is the factor still to be applied.

    is_rectified: whether a ReLU follows it; done here, it costs nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        is_rectified: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups)
        self.is_rectified = is_rectified
        self._derived: _Derived | None = None

    def scale(self) -> float:
        """Return the mean magnitude of the weights."""
        return self._current().scale

    def eps(self) -> float:
        """Return what the variance of the sums gets in place of EPS, as the scale is still missing there."""
        return EPS / self.scale() ** 2

    def forward(self, signs: Signs) -> Tensor:
        """Return the sums of +1 and -1."""
        if self.kernel_size == (1, 1) and self.stride != (1, 1):
            signs = signs.every(self.stride[0])
        return _BinaryConvolution.apply(signs.carrier, self.weight, signs, self, self._current())

    def sums(self, signs: Signs, derived: _Derived) -> Tensor:
        """Return what `forward` returns, outside of the graph."""
        if self._takes_bytes(signs):
            return self._sums_of_bytes(signs.codes, derived)
        weight = derived.signs.to(self.weight.dtype)
        y = F.conv2d(signs.values(), weight, None, self.step(), self.padding, 1, self.groups)
        return y.clamp_(min=0) if self.is_rectified else y

    def _takes_bytes(self, signs: Signs) -> bool:
        batch, _, height, width = signs.codes.shape
        num_pixels = batch * height * width // self.step() ** 2
        return (
            self.groups == 1
            and self.weight.dtype == torch.float32
            and self.weight.device.type == "cpu"
            and num_pixels >= _FEWEST_PIXELS
            and _multiplies_bytes()
        )

    def _sums_of_bytes(self, codes: Tensor, derived: _Derived) -> Tensor:
        window = [self.step()] * 2, list(self.padding), [1, 1], 1
        one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        if derived.packed is None:
            derived.packed = torch.ops.onednn.qconv_prepack(derived.signs, one, 1.0, _ZERO, *window, list(codes.shape))
        after = "relu" if self.is_rectified else "none"
        return torch.ops.onednn.qconv2d_pointwise(
            codes, 1.0, _ZERO, derived.packed, one, zero, None, *window, 1.0, 0, torch.float32, after, [], ""
        )

    def _current(self) -> _Derived:
        """Return what follows from the weights as they are now.

        It is kept from call to call until the weights get a gradient, as an optimizer then changes them (a fused one
        without leaving a trace in their version), or are written to.
        """
        version = self.weight._version, self.weight.data_ptr()
        if self._derived is not None and self._derived.version == version and self.weight.grad is None:
            return self._derived
        weight = self.weight.detach()
        scale = max(float(weight.abs().mean()), _SMALLEST_SCALE)
        derived = _Derived(version=version, scale=scale, signs=torch.ge(weight, 0).view(torch.int8).mul_(2).sub_(1))
        self._derived = derived if self.weight.grad is None else None
        return derived

    def forget(self) -> None:
        """Let what follows from the weights be found anew, as they are about to change."""
        self._derived = None


@dataclass(kw_only=True)
class _Derived:
    """What follows from binary weights.

    signs: -1 and +1, one byte each; packed: the same as 8-bit convolutions want them.
    """

    version: tuple[int, int]
    scale: float
    signs: Tensor
    packed: Tensor | None = None


@cache
def _multiplies_bytes() -> bool:
    """Return whether 8-bit convolutions are fast here, and do what they should."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    with torch.random.fork_rng(devices=[]):
        conv, signs = BinaryConv2d(3, 5, 3), Signs.of(torch.randn(2, 3, 6, 6))
    try:
        sums = conv._sums_of_bytes(signs.codes, conv._current())
    except (AttributeError, RuntimeError):  # another torch: these operators are its own affair
        return False
    return torch.equal(sums, F.conv2d(signs.values(), torch.where(conv.weight.detach() >= 0, 1.0, -1.0), padding=1))


class _BinaryConvolution(torch.autograd.Function):
    """The weights' gradient is straight-through: `scale` times the result has that of the identity."""

    @staticmethod
    def forward(
        ctx: Any, carrier: Tensor, weight: Tensor, signs: Signs, conv: BinaryConv2d, derived: _Derived
    ) -> Tensor:
        y = conv.sums(signs, derived)
        ctx.signs, ctx.conv, ctx.derived = signs, conv, derived
        ctx.save_for_backward(y if conv.is_rectified else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        conv, signs, derived = ctx.conv, ctx.signs, ctx.derived
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        wanted = ctx.needs_input_grad
        dtype = conv.type_for(signs.codes)
        size = signs.codes.shape[2:]
        of_signs, of_weight = conv.gradients(grad, signs.values, derived.signs, size, dtype, wanted)
        if of_weight is not None:
            of_weight = of_weight.div_(derived.scale)
            conv.forget()
        return of_signs, of_weight, None, None, None
