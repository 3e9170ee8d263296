"""The history as TensorBoard sees it: a scalar a key, at the step that closes an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ToolchainError


class Board:
    """Writes a search's epochs for TensorBoard."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Begin to write behind `first_step`; what an interrupted search wrote later is hidden.

        Raises:
            ToolchainError: the package tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ToolchainError(
                "--tensorboard: tensorboard is not installed; pip install 'nash-search[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write what an epoch came to."""
        for key, value in record.items():
            if key not in ("epoch", "step"):
                self._writer.add_scalar(key, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()
