"""The operations of the supernet, one class each.

A new one is a class here, in `PRIMITIVES`, with its name in variants.py, its kernel in space.py and its place in the
genotype's schema.

Shapes: a state is (B, C_in, H, W), an operation's output (B, C_out, H / stride, W / stride).

Convolutions are binary as in Bi-Real Net (arXiv 1808.00278): +1/-1 weights times their mean magnitude E on the
signs of the state, then ReLU and BN. They convolve with +1/-1, whose sums are exact integers, and bring E in
afterwards; convolving with +E/-E would turn exact zeros into rounding noise in front of the ReLU.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import parallel
from .variants import NONE

_MOMENTUM = 0.1  # of running statistics
_SMALLEST_SCALE = 1e-12  # of a convolution whose weights are all zero


class SignState(torch.autograd.Function):
    """Binarize a state to +1 and -1, with the triangular gradient 2 - 2|x| inside [-1, 1] (Bi-Real Net, eq. 9).

    >>> x = torch.tensor([-2.0, -0.5, 0.0, 0.25], requires_grad=True)
    >>> SignState.apply(x)
    tensor([-1., -1.,  1.,  1.], grad_fn=<SignStateBackward>)
    >>> SignState.apply(x).sum().backward()
    >>> x.grad
    tensor([0.0000, 1.0000, 2.0000, 1.5000])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).mul_(grad)


class SignWeight(torch.autograd.Function):
    """Binarize weights to +1 and -1 such that `scale` times the result has the identity for a gradient.

    >>> w = torch.tensor([-0.5, 0.0, 0.25], requires_grad=True)
    >>> binary = SignWeight.apply(w, 0.25)
    >>> binary
    tensor([-1.,  1.,  1.], grad_fn=<SignWeightBackward>)
    >>> (0.25 * binary).sum().backward()
    >>> w.grad
    tensor([1., 1., 1.])
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return _sign(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.scale, None


class MaxPool3x3(torch.autograd.Function):
    """3x3 max-pool that remembers where the maxima were in 16 bits where those suffice; torch takes 64.

    >>> x = torch.tensor([[[[1.0, 3.0, 2.0, 0.0]]]], requires_grad=True)
    >>> MaxPool3x3.apply(x, 2).sum().backward()
    >>> x.grad
    tensor([[[[0., 2., 0., 0.]]]])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        y, places = torch.ops.aten.max_pool2d_with_indices(x, [3, 3], [stride, stride], [1, 1])
        fits = x.shape[2] * x.shape[3] <= torch.iinfo(torch.int16).max
        ctx.save_for_backward(x, places.to(torch.int16) if fits else places)
        ctx.stride = stride
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, places = ctx.saved_tensors
        window = [3, 3], [ctx.stride, ctx.stride], [1, 1], [1, 1], False
        return torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *window, places.long()), None


def _sign(x: Tensor) -> Tensor:
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)  # in an eighth of the time of torch.where


class State:
    """One state of a cell, with the forms of it that the operations reading it share.

    before: what the signs are taken of instead of x, where x has been through a ReLU: its signs are all +1.
    """

    def __init__(self, x: Tensor, before: Tensor | None = None) -> None:
        self.x = x
        self._before = x if before is None else before
        self._sign: Tensor | None = None
        self._pooled: dict[int, Tensor] = {}

    def sign(self) -> Tensor:
        """Return the signs, +1 at 0."""
        if self._sign is None:
            self._sign = SignState.apply(self._before)
        return self._sign

    def pooled(self, stride: int) -> Tensor:
        """Return the 3x3 max-pool."""
        if stride not in self._pooled:
            self._pooled[stride] = MaxPool3x3.apply(self.x, stride)
        return self._pooled[stride]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization of `scale * x`, given x, that can leave its running statistics alone.

    normalize(s x, eps) equals normalize(x, eps / s^2), so the scale costs nothing; the running statistics are of x.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, momentum=_MOMENTUM)
        self.updates_statistics = True
        self.num_batches_tracked = None  # the average is exponential

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        running = self.updates_statistics or not self.training
        if self.training and parallel.size() > 1:
            return self._of_joined_batch(x, self.eps / scale**2)
        return F.batch_norm(
            x,
            self.running_mean if running else None,
            self.running_var if running else None,
            self.weight,
            self.bias,
            training=self.training,
            momentum=_MOMENTUM,
            eps=self.eps / scale**2,
        )

    def _of_joined_batch(self, x: Tensor, eps: float) -> Tensor:
        """Return what batch normalization of all processes' pictures gives for those of this one."""
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        count = parallel.total(x.numel() // x.shape[1])
        mean = parallel.summed(x.sum(axes)) / count
        centred = x - mean.view(shape)
        var = parallel.summed(centred.square().sum(axes)) / count
        if self.updates_statistics:
            with torch.no_grad():
                self.running_mean.lerp_(mean, _MOMENTUM)
                self.running_var.lerp_(var * (count / max(count - 1, 1)), _MOMENTUM)
        return centred * (self.weight * torch.rsqrt(var + eps)).view(shape) + self.bias.view(shape)


class Conv2d(nn.Conv2d):
    """Convolution that hands a strided 1x1 kernel only the pixels it reads.

    torch 2.13 on several CPU threads, channels last, up to 8 channels and an odd batch: the backward pass of the
    strided form writes past its memory and the process dies.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size != (1, 1) or self.stride == (1, 1):
            return super()._conv_forward(x, weight, bias)
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], weight, bias, groups=self.groups)


class BinaryConv2d(Conv2d):
    """Convolution of a state's signs with the signs of its weights; `scale()` is the factor still to be applied."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, *, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)

    def scale(self) -> float:
        """Return the mean magnitude of the weights."""
        return max(float(self.weight.detach().abs().mean()), _SMALLEST_SCALE)

    def forward(self, signs: Tensor) -> Tensor:
        return self._conv_forward(signs, SignWeight.apply(self.weight, self.scale()), None)


class Primitive(nn.Module):
    """An operation that a mixed operation may sample. Calling it with a `State` returns its output.

    It comes in two parts: `features` does the work, `finish` normalizes what that returns.
    """

    name: ClassVar[str]

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def features(self, state: State) -> Tensor | None:
        """Return what is to be normalized."""
        raise NotImplementedError

    def finish(self, features: Tensor) -> Tensor:
        """Return the output."""
        raise NotImplementedError

    def forward(self, state: State, kept: list[Tensor | None] | None = None) -> Tensor | None:
        """Return the output, and append its features to `kept`."""
        features = self.features(state)
        if kept is not None:
            kept.append(None if features is None else features.detach())
        return None if features is None else self.finish(features)


class Nothing(Primitive):
    """No connection: None, a term that is missing from the sum (zero times the state would let a NaN through)."""

    name = NONE

    def features(self, state: State) -> None:
        return None


class MaxPool(Primitive):
    """3x3 max-pool and BN; where channels grow by a factor, the pooled state is repeated that often."""

    name = "max_pool_3x3"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.repeats = out_channels // in_channels
        self.bn = BatchNorm(out_channels)

    def features(self, state: State) -> Tensor:
        pooled = state.pooled(self.stride)
        return torch.cat([pooled] * self.repeats, 1) if self.repeats > 1 else pooled

    def finish(self, features: Tensor) -> Tensor:
        return self.bn(features)


class SkipConnect(Primitive):
    """The state itself, or what comes nearest to it when the shape changes.

    At stride 2 a factorized reduction: two binary 1x1 convolutions, one on the even pixels and one on the odd
    ones, half of the output channels each; when only the channels change, one binary 1x1 convolution.
    """

    name = "skip_connect"

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.is_identity = stride == 1 and in_channels == out_channels
        num_convs = 0 if self.is_identity else stride
        self.convs = nn.ModuleList(
            BinaryConv2d(in_channels, out_channels // stride, 1, stride) for _ in range(num_convs)
        )
        self.bn = None if self.is_identity else BatchNorm(out_channels)

    def features(self, state: State) -> Tensor:
        if self.bn is None:
            return state.x
        signs = state.sign()
        parts = [conv(_shifted(signs, pixels)) * conv.scale() for pixels, conv in enumerate(self.convs)]
        return F.relu_(torch.cat(parts, 1))

    def finish(self, features: Tensor) -> Tensor:
        return features if self.bn is None else self.bn(features)


def _shifted(x: Tensor, pixels: int) -> Tensor:
    """Move x up and left; an odd size gets a zero row and column, so that every shift has an equal output."""
    if pixels == 0:
        return x
    height, width = x.shape[-2:]
    return F.pad(x[:, :, pixels:, pixels:], (0, width % 2, 0, height % 2))


class Conv(Primitive):
    """Binary convolution, ReLU and BN."""

    kernel: ClassVar[int]

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.conv = BinaryConv2d(in_channels, out_channels, self.kernel, stride)
        self.bn = BatchNorm(out_channels)

    def features(self, state: State) -> Tensor:
        return F.relu_(self.conv(state.sign()))

    def finish(self, features: Tensor) -> Tensor:
        return self.bn(features, self.conv.scale())


class Conv1x1(Conv):
    name, kernel = "conv_1x1", 1


class Conv3x3(Conv):
    name, kernel = "conv_3x3", 3


class Conv5x5(Conv):
    name, kernel = "conv_5x5", 5


_CLASSES: tuple[type[Primitive], ...] = (Nothing, MaxPool, SkipConnect, Conv1x1, Conv3x3, Conv5x5)
PRIMITIVES = {primitive.name: primitive for primitive in _CLASSES}
