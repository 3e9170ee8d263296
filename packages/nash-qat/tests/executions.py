"""What an exported network gives in every execution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nash_qat.export import execute
from nash_qat.network import calibrate
from nash_qat.network.network import Network


def assert_equal_golden(network: Network, folder: Path) -> None:
    """Check that onnxruntime and torch give the golden logits of an export, but for float32's rounding."""
    golden = np.load(folder / "golden.npz")
    x = calibrate.to_input(torch.from_numpy(golden["input"]))
    with torch.no_grad():
        found = {
            "onnxruntime": execute.Runner(folder / "model.onnx")(golden["input"]),
            "torch": torch.cat([network(x[i : i + 1]) for i in range(len(x))]).numpy(),
        }
    for way, logits in found.items():
        errors = np.abs(logits - golden["output"]).max(axis=1) / np.abs(golden["output"]).max()
        assert (errors <= 1e-5).all(), way
