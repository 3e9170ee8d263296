"""Run a QONNX classifier: fast through onnxruntime, or node by node through qonnx as the reference.

Shapes: pixels (N, C, H, W) uint8, logits (N, K) float32.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..base.errors import UnsupportedError
from .convert import to_qcdq


def num_available_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Runtime:
    """A QONNX network in onnxruntime, for batches of any size.

    onnxruntime's graph optimizations are off: fusing a quantizer, a scale or a batch normalization into a neighbour
    changes the order of roundings, and a value on a threshold then falls on the other side. What is gained over
    qonnx's executor is gained by running whole graphs and batches.
    """

    def __init__(self, model: onnx.ModelProto, *, scale: float, num_threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.intra_op_num_threads = num_threads or num_available_cores()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                to_qcdq(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except _runtime_errors() as error:
            raise UnsupportedError(f"onnxruntime refuses the network ({_first_line(error)}); export it anew") from error
        self.num_threads = options.intra_op_num_threads
        self._input = self._session.get_inputs()[0].name
        self._scale = np.float32(scale)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of a batch."""
        try:
            logits = self._session.run(None, {self._input: pixels.astype(np.float32) * self._scale})[0]
        except _runtime_errors() as error:
            raise UnsupportedError(
                f"onnxruntime cannot run the network on {pixels.shape} ({_first_line(error)}); export it anew"
            ) from error
        if logits.ndim != 2 or len(logits) != len(pixels):
            raise UnsupportedError(
                f"logits: got shape {logits.shape} for {len(pixels)} pictures, expected ({len(pixels)}, classes); "
                "export a classifier that holds no fixed batch size"
            )
        return logits


class Reference:
    """The same network executed node by node by qonnx, one picture at a time: slow, and what QONNX means."""

    def __init__(self, model: onnx.ModelProto, *, scale: float) -> None:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.transformation.infer_shapes import InferShapes

        self._model: Any = ModelWrapper(model, make_deepcopy=True).transform(InferShapes())
        self._input = self._model.graph.input[0].name
        self._output = self._model.graph.output[0].name
        self._scale = np.float32(scale)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of a batch."""
        from qonnx.core.onnx_exec import execute_onnx

        pictures = pixels.astype(np.float32) * self._scale
        logits = [execute_onnx(self._model, {self._input: picture[None]})[self._output] for picture in pictures]
        return np.concatenate(logits)


def _runtime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
