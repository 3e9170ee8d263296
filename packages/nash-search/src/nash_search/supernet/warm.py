"""A warm start: the backbone's weights from a float checkpoint.

Taken by name from a safetensors file: of a search (`supernet.layers.0.conv.weight`), of a checkpoint of nash-qat
(`network/cells.0.layers.0.main.conv.weight`), or of `import` and of nash-qat's float epochs (the same without
`network/`); a bias of the classifier is left out, as a supernet has none. Every weight and running statistic of the
backbone must be there in its shape; NAS operations are taken from a search, and start at random otherwise. Alphas
always start anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..base.errors import IntegrityError, UsageError
from ..base.quoting import brief
from ..genotype.genotype import Genotype
from .supernet import Supernet

_OURS = "supernet."
_OF_RETRAINING = "network/"


def start(supernet: Supernet, path: Path) -> int:
    """Copy the weights of a file into a supernet and return how many tensors it took.

    Raises:
        IntegrityError: the file cannot be read.
        UsageError: it lacks a weight of the backbone, or has it in another shape; the text names the first.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: cannot be read as safetensors ({error}); check --init-weights") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise IntegrityError(f"{path}: {brief(name)} holds a value that is not finite; take other weights")
    renamed = dict(_names_of_retraining(supernet.backbone))
    is_ours = any(name.startswith(_OURS) for name in tensors)
    theirs = _OF_RETRAINING if any(name.startswith(_OF_RETRAINING) for name in tensors) else ""
    num_taken = 0
    for name, target in supernet.state_dict().items():
        if name in ("alpha", "admissible"):
            continue
        prefix, suffix = name.rpartition(".")[0], name.rpartition(".")[2]
        source = f"{_OURS}{name}" if is_ours else f"{theirs}{renamed.get(prefix, prefix)}.{suffix}"
        if source not in tensors:
            if ".mixed." in name:
                continue
            raise UsageError(f"--init-weights: {path}: got no '{source}', expected every weight of the backbone")
        if tensors[source].shape != target.shape:
            got, expected = tuple(tensors[source].shape), tuple(target.shape)
            raise UsageError(f"--init-weights: {path}: {source}: got shape {got}, expected {expected}; check --width")
        with torch.no_grad():
            target.copy_(tensors[source])
        num_taken += 1
    return num_taken


def _names_of_retraining(backbone: Genotype) -> Iterator[tuple[str, str]]:
    """Yield the modules of a supernet and what nash-qat calls them."""
    yield from (("stem", "stem.conv"), ("stem_bn", "stem.bn"))
    number = 0
    for cell, plan in enumerate(backbone.cells):
        for layer in range(len(plan.layers)):
            ours, theirs = f"layers.{number}", f"cells.{cell}.layers.{layer}"
            yield from ((f"{ours}.conv", f"{theirs}.main.conv"), (f"{ours}.bn", f"{theirs}.main.bn"))
            yield from (
                (f"{ours}.projection.0", f"{theirs}.residual.conv"),
                (f"{ours}.projection.1", f"{theirs}.residual.bn"),
            )
            number += 1
