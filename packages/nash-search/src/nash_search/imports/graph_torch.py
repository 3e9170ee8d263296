"""torchvision's classifiers as a graph, traced by torch.fx; module names are the names of their nodes."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..base.errors import DataError, IntegrityError, UnsupportedError, UsageError
from ..data import datasets as data
from .graphs import Graph, Node, square, unknown

PREFIX = "torchvision:"
_ALIASES = (nn.Identity, nn.Dropout, nn.Dropout2d)
_FUNCTIONS: dict[Any, str] = {
    operator.add: "add", operator.iadd: "add", torch.add: "add", F.relu: "relu", torch.relu: "relu", F.relu6: "relu6",
    torch.flatten: "flatten",
}  # fmt: skip
_METHODS = {"add": "add", "add_": "add", "relu": "relu", "relu_": "relu", "flatten": "flatten"}


def read(source: str, *, state: Path | None, input_size: int | None) -> Graph:
    """Return torchvision's network of a name such as 'torchvision:resnet18', with the weights of a state dict.

    Without `state`, the weights are those that torchvision publishes. input_size: pixels a side; None is 224.

    Raises:
        UsageError: torchvision has no classifier of that name.
        IntegrityError: the state dict cannot be read, or is another network's.
        DataError: torchvision is not installed, or its weights cannot be had.
        UnsupportedError: a node has no counterpart in a genotype.
    """
    name = source.removeprefix(PREFIX)
    models = data.load_torchvision().models
    known = [model for model in models.list_models() if hasattr(models, model)]
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else "torchvision.models.list_models() has its names"
        raise UsageError(f"SOURCE: got '{source}', expected one of torchvision's networks, or a file (.onnx); {hint}")
    tensors = _published(models, name) if state is None else _state_dict(state)
    last = [tensor for tensor in tensors.values() if tensor.ndim == 2][-1:]
    module = models.get_model(name, weights=None, **({"num_classes": len(last[0])} if last else {})).eval()
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ").replace("\t", "")[:200]
        raise IntegrityError(f"{state or source}: is not the state dict of {name} ({reason}); take that one") from error
    size = 224 if input_size is None else input_size
    return traced(module, source=source, name=name, shape=(3, size, size))


def traced(module: nn.Module, *, source: str, name: str, shape: tuple[int, int, int]) -> Graph:
    """Return the graph of a module of torch in evaluation mode.

    Raises:
        UnsupportedError: it cannot be traced, or a node has no counterpart in a genotype.
    """
    try:
        found = fx.symbolic_trace(module)
    except Exception as error:  # whatever the module's own code raises on a symbolic tensor
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(f"{source}: cannot be traced ({reason}); export it as ONNX and import that") from error
    reader = _Reader(found, source)
    nodes = list(reader.nodes())
    if reader.unknown:
        raise unknown(source, reader.unknown)
    return Graph(
        source=source,
        name=name,
        input=reader.input,
        shape=shape,
        output=reader.output,
        nodes=nodes,
        run=_run_of(module),
    )


def _run_of(module: nn.Module) -> Any:
    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        return module(x)

    return run


class _Reader:
    """Turns the nodes of fx into ours; those that it cannot are noted."""

    def __init__(self, found: fx.GraphModule, source: str) -> None:
        self._found, self._source = found, source
        self._modules = dict(found.named_modules())
        self._same: dict[str, str] = {}  # tensors that are others under a second name
        self.input = self.output = ""
        self.unknown: list[tuple[str, str]] = []

    def nodes(self) -> Iterator[Node]:
        for node in self._found.graph.nodes:
            inputs = tuple(self._resolved(argument.name) for argument in node.all_input_nodes)
            if node.op == "placeholder":
                self.input = node.name
            elif node.op == "output":
                self.output = inputs[0] if inputs else ""
            elif node.op == "call_module" and isinstance(self._modules[node.target], _ALIASES):
                self._same[node.name] = inputs[0]
            else:
                yield from self._node(node, inputs)

    def _resolved(self, name: str) -> str:
        return self._same.get(name, name)

    def _node(self, node: fx.Node, inputs: tuple[str, ...]) -> Iterator[Node]:
        if node.op == "call_module":
            module = self._modules[node.target]
            name, kind, described = str(node.target), type(module).__name__, _of_module(module)
        else:
            name = node.name
            kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            described = _of_call(node)
        if described is None:
            self.unknown.append((name, str(kind)))
            return
        op, attributes, tensors = described
        yield Node(
            name=name,
            kind=str(kind),
            op=op,
            inputs=inputs,
            output=node.name,
            attributes=attributes,
            tensors={key: tensor.detach() for key, tensor in tensors.items() if tensor is not None},
        )


_Described = tuple[str, Mapping[str, Any], Mapping[str, Any]]


def _of_module(module: nn.Module) -> _Described | None:
    match module:
        case nn.Conv2d() if module.padding_mode == "zeros" and not isinstance(module.padding, str):
            window = {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
            attributes = {key: square(value) for key, value in window.items()}
            attributes |= {"groups": module.groups, "dilation": square(module.dilation)}
            return "conv", attributes, {"weight": module.weight, "bias": module.bias}
        case nn.BatchNorm2d() if module.running_mean is not None:
            tensors = {"weight": module.weight, "bias": module.bias}
            tensors |= {"running_mean": module.running_mean, "running_var": module.running_var}
            return "batch_norm", {"eps": module.eps}, tensors
        case nn.ReLU6():
            return "relu6", {}, {}
        case nn.ReLU():
            return "relu", {}, {}
        case nn.MaxPool2d() if module.dilation == 1:
            sides = {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
            attributes = {key: square(value if isinstance(value, tuple) else (value,)) for key, value in sides.items()}
            return "max_pool", attributes | {"ceil": module.ceil_mode}, {}
        case nn.AdaptiveAvgPool2d():
            size = module.output_size
            return "adaptive_pool", {"size": size if isinstance(size, tuple) else (size, size)}, {}
        case nn.Linear():
            return "linear", {}, {"weight": module.weight, "bias": module.bias}
        case nn.Flatten() if module.start_dim == 1:
            return "flatten", {}, {}
    return None


def _of_call(node: fx.Node) -> _Described | None:
    op = _METHODS.get(str(node.target)) if node.op == "call_method" else _FUNCTIONS.get(node.target)
    numbers = [argument for argument in node.args if not isinstance(argument, fx.Node)]
    if op == "add" and (len(node.all_input_nodes) != 2 or numbers or node.kwargs):
        return None
    if op == "flatten" and [*numbers, *node.kwargs.values()] != [1]:
        return None
    if node.target is F.adaptive_avg_pool2d:
        size = numbers[0] if numbers else node.kwargs.get("output_size")
        return "adaptive_pool", {"size": tuple(size) if isinstance(size, (tuple, list)) else (size, size)}, {}
    if node.target == "mean" and [list(number) for number in numbers if not isinstance(number, int)] in (
        [[2, 3]],
        [[-2, -1]],
    ):
        return "global_pool", {}, {}
    return None if op is None else (op, {}, {})


def _published(models: Any, name: str) -> dict[str, Tensor]:
    weights = models.get_model_weights(name).DEFAULT
    try:
        return torch.hub.load_state_dict_from_url(weights.url, check_hash=True, progress=False, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{PREFIX}{name}: its published weights cannot be had ({error}); pass a state dict with --state FILE"
        ) from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save or safetensors; code in it is not run, but refused."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise IntegrityError(
            f"{path}: holds more than tensors, expected a state dict; write it anew with torch.save(model.state_dict())"
        ) from error
    except Exception as error:  # torch and safetensors raise of many kinds for a torn file
        reason = str(error).partition("\n")[0]
        raise IntegrityError(f"{path}: not a readable state dict ({reason}); write it anew with torch.save") from error
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise IntegrityError(f"{path}: holds something else, expected tensors by name; save a state_dict()")
    return dict(found)
