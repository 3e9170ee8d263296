"""Training pictures that a search leaves alone: the validation split of the network that is trained afterwards.

nash-qat holds out the same pictures; a test of both packages holds the two rules together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError
from .datasets import Split


def held_out(split: Split, fraction: float) -> NDArray[np.int64]:
    """Return the indices, in order, of the pictures that a share holds out: of each class the same part.

    They do not depend on any seed, and what a smaller share holds out, a larger one does, too. A class keeps at least
    one picture, and gives at least one where it has two; a share of 0 takes none.

    Raises:
        DataError: no class has two pictures.
    """
    if fraction == 0:
        return np.empty(0, dtype=np.int64)
    random = np.random.Generator(np.random.PCG64(0))
    held: list[NDArray[np.int64]] = []
    for label in range(len(split.class_names)):
        members = np.flatnonzero(split.labels == label)
        number = min(max(1, round(fraction * len(members))), max(0, len(members) - 1))
        held.append(members[np.argsort(random.random(len(members)), kind="stable")[:number]])
    chosen = np.sort(np.concatenate(held))
    if not len(chosen):
        raise DataError(
            f"{split.name}: no class has two pictures, expected some to hold out for validation; pass --val-fraction 0"
        )
    return chosen
