"""Hold every stage of the flow against the network's own reference, golden.npz.

The accelerator's outputs are integers, its logits ``scale * integers + bias``; so the golden logits, divided by the
scale, are integers too, and "equal" needs no tolerance. Within the flow all stages must agree in every integer, at
any bit width. Against golden.npz they must where activations have at most 4 bits; with wider ones a value may lie so
near to a rounding bound that the float32 arithmetic of whoever made the golden logits went over it. Such a flip moves
a value by one step. A sample with different integers counts as flipped; flips are an error if more than half of the
samples have one, or if a logit moves by more than a quarter of the largest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base import binary_file, json_file
from ..base.errors import IntegrityError, ManifestError, VerificationError
from ..graph.integers import Dequantization
from ..graph.model import Model
from .execute import Executor

_MAX_EXACT_BITS = 4
_MAX_FLIPPED_SAMPLES = 0.5
_MAX_FLIPPED_LOGIT = 0.25
_NUM_SAMPLES = 8
_LARGE_PIXELS = 96 * 96  # from there on a sample takes seconds to execute
_NUM_LARGE_SAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Pictures (N, C, H, W) uint8 and the logits (N, K) the network gives for them."""

    pictures: np.ndarray
    logits: np.ndarray

    @property
    def num_samples(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of executing one stage."""

    stage: str
    num_samples: int
    max_abs_error: float
    num_flips: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_golden(path: Path, input_shape: tuple[int, ...]) -> Golden:
    """Read golden.npz, as many samples as the flow executes.

    Raises:
        IntegrityError: it is damaged.
        ManifestError: its arrays are not the network's.
    """
    try:
        arrays = binary_file.arrays(path, "input", "output")
    except json_file.Unreadable as error:
        raise IntegrityError(f"{path}: not a whole golden.npz ({error}); export the model anew") from error
    pictures, logits = arrays["input"], arrays["output"]
    if pictures.dtype != np.uint8 or pictures.shape[1:] != input_shape[1:]:
        raise ManifestError(
            f"{path}: input: got {pictures.dtype} {list(pictures.shape)}, expected uint8 [N, "
            f"{', '.join(map(str, input_shape[1:]))}] as model.onnx takes it; export the model anew"
        )
    if logits.ndim != 2 or len(logits) != len(pictures) or not len(logits) or not np.isfinite(logits).all():
        raise ManifestError(
            f"{path}: output: got shape {list(logits.shape)}, expected finite logits [{len(pictures)}, K]; "
            "export the model anew"
        )
    large = input_shape[2] * input_shape[3] >= _LARGE_PIXELS
    count = _NUM_LARGE_SAMPLES if large else _NUM_SAMPLES
    return Golden(pictures=pictures[:count], logits=logits[:count].astype(np.float64))


class Verifier:
    """Executes stages on the golden pictures and keeps a record of each."""

    def __init__(
        self, golden: Golden, dequantization: Dequantization, *, act_bits: int, integers: np.ndarray | None = None
    ) -> None:
        """`act_bits`: the widest activations of the network, joins aside; `integers`: what an earlier stage gave."""
        if golden.logits.shape[1] != len(dequantization.scale):
            raise ManifestError(
                f"golden.npz: output: got {golden.logits.shape[1]} logits, "
                f"expected {len(dequantization.scale)} as model.onnx gives; export the model anew"
            )
        self._golden = golden
        self._dequantization = dequantization
        self._is_exact = act_bits <= _MAX_EXACT_BITS
        self.integers = integers  # (N, K), the outputs of the first stage
        self.records: list[Record] = []

    def check(self, stage: str, model: Model, num_samples: int | None = None) -> Record:
        """Execute `model` on the first samples (all by default) and hold it against the golden logits.

        Raises:
            VerificationError: the outputs differ by more than the rules of this module allow.
        """
        count = min(num_samples or self._golden.num_samples, self._golden.num_samples)
        integers = self._execute(model, count)
        if self.integers is not None:
            self._compare_stages(stage, integers, self.integers[:count])
        else:
            self.integers = integers
        record = self._compare_golden(stage, integers, self._golden.logits[:count])
        self.records.append(record)
        return record

    def _execute(self, model: Model, count: int) -> np.ndarray:
        executor = Executor(model)
        takes_nchw = model.get_tensor_shape(model.graph.input[0].name)[1:] == list(self._golden.pictures.shape[1:])
        pictures = self._golden.pictures[:count]
        if not takes_nchw:
            pictures = pictures.transpose(0, 2, 3, 1)
        return np.stack([executor.run(picture[None]).reshape(-1) for picture in pictures]).astype(np.float64)

    def _compare_stages(self, stage: str, integers: np.ndarray, first: np.ndarray) -> None:
        different = np.flatnonzero((integers != first).any(axis=1))
        if different.size:
            distance = np.abs(integers - first).max()
            raise VerificationError(
                f"stage '{stage}': sample {different[0]}: its output integers are up to {distance:g} from those of "
                "the first stage, expected the same; report this as a bug of nash-hw"
            )

    def _compare_golden(self, stage: str, integers: np.ndarray, golden: np.ndarray) -> Record:
        scale, bias = self._dequantization.scale, self._dequantization.bias
        logits = integers * scale + bias
        flipped = (np.abs(integers - (golden - bias) / scale) >= 0.5).any(axis=1)
        error = float(np.abs(logits - golden).max())
        num_flips, largest = int(flipped.sum()), float(np.abs(golden).max())
        if self._is_exact:
            is_wrong, expected = num_flips > 0, "the same at up to 4 bits"
        else:
            is_wrong = num_flips > _MAX_FLIPPED_SAMPLES * len(integers) or error > _MAX_FLIPPED_LOGIT * largest
            expected = f"at most {_MAX_FLIPPED_LOGIT:g} of the largest in at most half of the samples"
        if is_wrong:
            raise VerificationError(
                f"stage '{stage}': logits differ from golden.npz in {num_flips} of {len(integers)} samples, by up to "
                f"{error:.3g} (the largest is {largest:.3g}), expected {expected}; export the model anew, and if that "
                "does not help report this as a bug"
            )
        return Record(stage=stage, num_samples=len(integers), max_abs_error=error, num_flips=num_flips)
