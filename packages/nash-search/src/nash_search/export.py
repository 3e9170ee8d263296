"""A genotype's float network as one ONNX file, to look at, to run, or to start from."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from .base import manifest
from .base.errors import ToolchainError
from .genotype.genotype import Genotype
from .supernet import network

OPSET = 17


def export(genotype: Genotype, path: Path, *, seed: int) -> dict[str, Any]:
    """Write the randomly initialized float network as ONNX and return what was written.

    The graph takes `input` (batch, C, H, W) in [0, 1] and returns `output` (batch, num_classes) logits.

    Raises:
        ToolchainError: the package onnx is not installed.
        OutputError: the file cannot be written.
    """
    onnx = _onnx()
    model = network.build(genotype, seed=seed)
    shape = [genotype.input.channels, genotype.input.height, genotype.input.width]
    with manifest.atomic_path(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            torch.onnx.export(
                model,
                (torch.zeros(1, *shape),),
                temporary,
                dynamo=False,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            )
        graph = onnx.load(temporary)
        onnx.helper.set_model_props(graph, {"name": genotype.name, "seed": str(seed)})
        onnx.checker.check_model(graph)
        onnx.save(graph, temporary)
    return {
        "onnx": str(path),
        "name": genotype.name,
        "opset": OPSET,
        "input": ["batch", *shape],
        "output": ["batch", genotype.num_classes],
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "seed": seed,
    }


def _onnx() -> ModuleType:
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ToolchainError("export: onnx is not installed; pip install 'nash-search[export]'") from error
