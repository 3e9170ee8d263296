"""A run's history for TensorBoard, an optional extra."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ..base.errors import UsageError

FOLDER = "tensorboard"


def check() -> None:
    """Refuse when TensorBoard is not installed.

    Raises:
        UsageError: it is not.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise UsageError("--tensorboard: it is not installed; pip install 'nash-qat[tensorboard]'") from error


def write(out: Path, history: list[dict[str, Any]]) -> None:
    """Write the numbers of a run's last epoch into the folder `tensorboard`; later epochs found there are void."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter

        entry = history[-1]
        with SummaryWriter(str(out / FOLDER), purge_step=entry["epoch"]) as writer:
            for name in ("loss", "top1", "learning_rate"):
                writer.add_scalar(f"{entry['phase']}/{name}", entry[name], entry["epoch"])
