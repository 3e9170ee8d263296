"""A graph of nodes as a chain of states, each the activated sum of convolutions and earlier states.

What it matches is conv - BN - (add) - (activation) - (max-pool). A sum that several nodes read, or a convolution reads,
without an activation is a state of a linear layer. A dense layer on maps of k x k pixels is a k x k convolution without
padding. Whatever else there is, is refused by the name of its node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor

from ..genotype.genotype import LINEAR, RELU, RELU6, Layer, Pool
from .graphs import Graph, Node

PIXELS = -1  # what the stem reads
_KERNELS, _STRIDES, _MOST_PADDING = (1, 3, 5, 7), (1, 2), 3


@dataclass(kw_only=True)
class Convolution:
    """A convolution of a state, with its batch normalization if it has one."""

    node: Node
    reads: int
    kernel: int
    stride: int
    padding: int
    groups: int
    weight: Tensor
    bias: Tensor | None
    norm: Node | None = None

    @property
    def channels(self) -> int:
        """Return how many channels it makes."""
        return len(self.weight)

    def size(self, before: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of what it makes."""
        window = Layer(kernel=self.kernel, channels=1, stride=self.stride, padding=self.padding)
        return window.summed(before)


@dataclass(kw_only=True)
class Sum:
    """Terms that are added: convolutions, and earlier states by their numbers; `node` made it."""

    node: Node
    convolutions: list[Convolution]
    states: list[int]


@dataclass(kw_only=True)
class State:
    """An activated sum; `main` is the convolution of the state before it, `projection` the other one, if any."""

    sum: Sum
    activation: str
    channels: int
    size: tuple[int, int]  # of the sum
    pool: Pool | None = None
    residual_from: int | None = None
    projection: Convolution | None = None
    main: Convolution = field(init=False)

    @property
    def pooled_size(self) -> tuple[int, int]:
        """Return height and width of the state."""
        return self.size if self.pool is None else self.pool.shrunk(self.size)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A network: the stem's state, those of all layers, and the classifier."""

    states: Sequence[State]
    classifier: Node


@dataclass(frozen=True)
class _Features:
    """Pooled or flattened maps of a state."""

    state: int


def match(graph: Graph) -> Chain:
    """Return the chain of states of a graph.

    Raises:
        UnsupportedError: it is none; the text names the node.
    """
    return _Matcher(graph).match()


class _Matcher:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._num_readers = Counter(name for node in graph.nodes for name in node.inputs)
        self._num_readers[graph.output] += 1
        self._values: dict[str, Sum | _Features | int] = {graph.input: PIXELS}
        self._states: list[State] = []
        self._classifier = self._bias_of_classifier = cast("Node | None", None)

    def match(self) -> Chain:
        for node in self._graph.nodes:
            if node is self._bias_of_classifier:
                continue
            if self._classifier is not None:
                raise self._graph.refusal(node, "got it behind the classifier, expected nothing there; cut it off")
            missing = [name for name in node.inputs if name not in self._values]
            if missing or not node.inputs:
                raise self._graph.refusal(node, f"reads {missing or 'nothing'}, expected what an earlier node makes")
            getattr(self, f"_{node.op}")(node)
        if self._classifier is None:
            last = self._graph.nodes[-1] if self._graph.nodes else None
            why = "is the last one, expected a dense layer as the classifier"
            raise self._graph.refusal(last, why) if last else _empty(self._graph)
        for number, state in enumerate(self._states):
            self._settle(number, state)
        if len(self._states) < 2:
            raise self._graph.refusal(
                self._states[0].sum.node, "is the only layer, expected one behind a stem at least"
            )
        return Chain(states=self._states, classifier=self._classifier)

    def _conv(self, node: Node) -> None:
        sides = {key: node.attributes[key] for key in ("kernel", "stride", "padding")}
        ranges = {"kernel": _KERNELS, "stride": _STRIDES, "padding": range(_MOST_PADDING + 1)}
        for key, value in sides.items():
            if value not in ranges[key]:
                expected = ", ".join(map(str, ranges[key]))
                raise self._graph.refusal(
                    node, f"{key}: got {value or 'sides that differ'}, expected one of {expected}"
                )
        if node.attributes["dilation"] != 1:
            raise self._graph.refusal(node, f"dilation: got {node.attributes['dilation']}, expected 1")
        self._convolve(node, node.tensors["weight"], **sides, groups=node.attributes["groups"])

    def _convolve(self, node: Node, weight: Tensor, *, kernel: int, stride: int, padding: int, groups: int) -> None:
        convolution = Convolution(
            node=node,
            reads=self._state(node, node.inputs[0]),
            kernel=kernel,
            stride=stride,
            padding=padding,
            groups=groups,
            weight=weight,
            bias=node.tensors.get("bias"),
        )
        self._values[node.output] = Sum(node=node, convolutions=[convolution], states=[])

    def _batch_norm(self, node: Node) -> None:
        convolution = self._lone(node)
        convolution.norm = node

    def _bias(self, node: Node) -> None:
        convolution = self._lone(node)
        bias = node.tensors["bias"].expand(convolution.channels)
        convolution.bias = bias if convolution.bias is None else convolution.bias + bias

    def _lone(self, node: Node) -> Convolution:
        """Return the convolution that a node normalizes; its value is the node's, too."""
        before = self._values[node.inputs[0]]
        is_lone = isinstance(before, Sum) and len(before.convolutions) == 1 and not before.states
        if not is_lone or before.convolutions[0].norm is not None or self._num_readers[node.inputs[0]] > 1:
            raise self._graph.refusal(
                node, "got it elsewhere, expected it behind a convolution that nothing else reads"
            )
        self._values[node.output] = Sum(node=node, convolutions=before.convolutions, states=[])
        return before.convolutions[0]

    def _add(self, node: Node) -> None:
        total = Sum(node=node, convolutions=[], states=[])
        for name in node.inputs:
            value = self._values[name]
            if isinstance(value, Sum) and self._num_readers[name] == 1:
                total.convolutions += value.convolutions
                total.states += value.states
            else:
                total.states.append(self._state(node, name))
        if len(node.inputs) != 2:
            raise self._graph.refusal(node, "adds something to itself, expected two different tensors")
        self._values[node.output] = total

    def _relu(self, node: Node) -> None:
        self._activate(node, RELU)

    def _relu6(self, node: Node) -> None:
        self._activate(node, RELU6)

    def _activate(self, node: Node, activation: str) -> None:
        before = self._values[node.inputs[0]]
        if not isinstance(before, Sum) or self._num_readers[node.inputs[0]] > 1:
            raise self._graph.refusal(node, "expected it behind a convolution or an addition that nothing else reads")
        self._values[node.output] = self._add_state(before, activation)

    def _add_state(self, total: Sum, activation: str) -> int:
        if not total.convolutions:
            raise self._graph.refusal(total.node, "adds no convolution, expected one of the state before it")
        sizes, channels = set(), set()
        for convolution in total.convolutions:
            sizes.add(convolution.size(self._size(convolution.reads)))
            channels.add(convolution.channels)
        sizes.update(self._size(number) for number in total.states)
        channels.update(self._states[number].channels for number in total.states if number >= 0)
        if len(sizes) > 1 or len(channels) > 1:
            raise self._graph.refusal(
                total.node, f"adds maps of {sorted(sizes)} pixels and {sorted(channels)} channels"
            )
        size = sizes.pop()
        if min(size) < 1:
            raise self._graph.refusal(total.node, f"makes {size[0]} x {size[1]} pixels; pass a larger --input-size")
        self._states.append(State(sum=total, activation=activation, channels=channels.pop(), size=size))
        return len(self._states) - 1

    def _size(self, number: int) -> tuple[int, int]:
        return self._graph.shape[1:] if number == PIXELS else self._states[number].pooled_size

    def _state(self, node: Node, name: str) -> int:
        """Return the number of the state that a tensor is; a sum becomes that of a linear layer."""
        value = self._values[name]
        if isinstance(value, Sum):
            value = self._values[name] = self._add_state(value, LINEAR)
        if isinstance(value, _Features):
            raise self._graph.refusal(node, "reads pooled or flattened maps, expected the classifier there")
        return value

    def _max_pool(self, node: Node) -> None:
        number, kernel, stride = self._values[node.inputs[0]], node.attributes["kernel"], node.attributes["stride"]
        is_known = (kernel, node.attributes["padding"]) in ((2, 0), (3, 1)) and stride in _STRIDES
        if not is_known or node.attributes["ceil"]:
            raise self._graph.refusal(node, "expected 2 x 2 pixels without padding or 3 x 3 with one, of stride 1 or 2")
        is_alone = isinstance(number, int) and number >= 0 and self._num_readers[node.inputs[0]] == 1
        if not is_alone or self._states[number].pool is not None:
            raise self._graph.refusal(node, "expected it behind an activation that nothing else reads")
        self._states[number].pool = Pool(kernel=kernel, stride=stride)
        self._values[node.output] = number

    def _avg_pool(self, node: Node) -> None:
        number = self._state(node, node.inputs[0])
        if node.attributes["padding"] != 0 or {node.attributes["kernel"]} != set(self._size(number)):
            raise self._graph.refusal(node, "averages windows, expected all pixels: a global average pool")
        self._values[node.output] = _Features(number)

    def _adaptive_pool(self, node: Node) -> None:
        number = self._state(node, node.inputs[0])
        wanted = tuple(
            own if side is None else side for side, own in zip(node.attributes["size"], self._size(number), strict=True)
        )
        if wanted == self._size(number):
            self._values[node.output] = number
        elif wanted == (1, 1):
            self._values[node.output] = _Features(number)
        else:
            got, expected = (" x ".join(map(str, size)) for size in (wanted, self._size(number)))
            raise self._graph.refusal(node, f"makes {got} pixels of {expected}, expected as many, or one")

    def _global_pool(self, node: Node) -> None:
        self._values[node.output] = _Features(self._state(node, node.inputs[0]))

    def _flatten(self, node: Node) -> None:
        value = self._values[node.inputs[0]]
        self._values[node.output] = value if isinstance(value, _Features) else self._state(node, node.inputs[0])

    def _linear(self, node: Node) -> None:
        value = self._values[node.inputs[0]]
        is_last = node.output == self._graph.output or self._is_biased_last(node)
        if isinstance(value, _Features) and not is_last:
            raise self._graph.refusal(node, "is a hidden layer behind the pooled maps, expected the classifier there")
        number = value.state if isinstance(value, _Features) else self._state(node, node.inputs[0])
        size = (1, 1) if isinstance(value, _Features) else self._size(number)
        if is_last and size == (1, 1):
            self._classify(node, number)
            return
        weight, channels = node.tensors["weight"], self._states[number].channels
        is_square = size[0] == size[1] and size[0] in _KERNELS
        if is_last or not is_square or weight.shape[1] != channels * size[0] * size[1]:
            shape = f"{channels} x {size[0]} x {size[1]}"
            raise self._graph.refusal(node, f"reads {shape} values of a map, expected them pooled to one pixel")
        weight = weight.reshape(len(weight), channels, *size)
        self._convolve(node, weight, kernel=size[0], stride=1, padding=0, groups=1)

    def _is_biased_last(self, node: Node) -> bool:
        """Say whether a bias that makes the output is all that reads a node."""
        readers = [other for other in self._graph.nodes if node.output in other.inputs]
        return len(readers) == 1 and readers[0].op == "bias" and readers[0].output == self._graph.output

    def _classify(self, node: Node, number: int) -> None:
        if number != len(self._states) - 1:
            raise self._graph.refusal(node, "reads a state that is not the last one")
        if node.output != self._graph.output:
            (bias,) = (other for other in self._graph.nodes if node.output in other.inputs)
            values = bias.tensors["bias"].expand(len(node.tensors["weight"]))
            node, self._bias_of_classifier = replace(node, tensors={**node.tensors, "bias": values}), bias
        self._classifier = node

    def _settle(self, number: int, state: State) -> None:
        """Tell the convolution of the state before from what is added to it."""
        before, total = number - 1, state.sum
        ready = [found for found in total.convolutions if found.reads == before]
        if not ready:
            reads = ", ".join(str(found.reads) for found in total.convolutions)
            raise self._graph.refusal(
                total.node,
                f"convolves the states {reads}, expected the one before it ({before}): branches are no chain",
            )
        state.main = max(ready, key=lambda found: (found.kernel, found.groups))
        others = [found for found in total.convolutions if found is not state.main]
        if number == 0:
            if others or total.states or state.main.groups != 1 or state.activation == LINEAR:
                raise self._graph.refusal(total.node, "is the stem, expected one dense convolution and a ReLU")
            if state.main.padding != state.main.kernel // 2 or (state.pool is not None and state.pool.stride != 2):
                raise self._graph.refusal(
                    total.node, "is the stem, expected half its kernel as padding, a pool of stride 2"
                )
            return
        if len(others) + len(total.states) > 1:
            count = 1 + len(others) + len(total.states)
            raise self._graph.refusal(total.node, f"adds {count} terms, expected a convolution and one residual")
        for found in others:
            if (found.kernel, found.padding, found.groups) != (1, 0, 1) or found.reads == PIXELS:
                raise self._graph.refusal(found.node, "stands beside another one, expected a 1 x 1 projection there")
            state.residual_from, state.projection = found.reads, found
        if total.states:
            state.residual_from = total.states[0]
        if state.residual_from == PIXELS:
            raise self._graph.refusal(total.node, "adds the pixels themselves, expected a state behind the stem")


def _empty(graph: Graph) -> Exception:
    from ..base.errors import UnsupportedError

    return UnsupportedError(f"{graph.source}: holds no node, expected a classifier")
