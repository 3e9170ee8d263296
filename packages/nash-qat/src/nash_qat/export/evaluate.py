"""Accuracy of an exported network on a dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import manifest as manifests
from ..data import datasets, pictures
from . import confusion
from .execute import Runner

_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy in percent; top5 is None where there are five classes or fewer, per_class where one has no picture."""

    dataset: str
    split: str
    num_samples: int
    top1: float
    top5: float | None
    per_class: tuple[float | None, ...]
    float_top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "per_class": list(self.per_class)}


def accuracy_of(onnx_path: Path, split: datasets.Split) -> tuple[Accuracy, NDArray[np.int64]]:
    """Run a QONNX file on a split; return the accuracy and how often (row) a class was taken for (column) a class."""
    runner = Runner(onnx_path, batch_size=_BATCH_SIZE)
    num_classes = len(split.class_names)
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    hits5 = 0
    for images, labels in split.batches(_BATCH_SIZE):
        ranked = np.argsort(-runner(images), axis=1, kind="stable")
        np.add.at(matrix, (labels, ranked[:, 0]), 1)
        hits5 += int((ranked[:, :5] == labels[:, None]).sum())
    name, _, part = split.name.partition("/")
    hits, totals = np.diag(matrix).tolist(), matrix.sum(axis=1).tolist()
    accuracy = Accuracy(
        dataset=name,
        split=part,
        num_samples=len(split),
        top1=100 * sum(hits) / len(split),
        top5=100 * hits5 / len(split) if num_classes > 5 else None,
        per_class=tuple(100 * hit / total if total else None for hit, total in zip(hits, totals, strict=True)),
    )
    return accuracy, matrix


def evaluate(
    model_path: Path,
    *,
    dataset: str,
    data_dir: Path | None,
    confusion_path: Path | None = None,
    skip_broken: bool = False,
) -> tuple[str, Accuracy]:
    """Return a model manifest's name and its accuracy on the test split of a dataset; draw the confusion if wanted.

    Raises:
        ManifestError, IntegrityError: the manifest or its file is broken.
        DataError, UsageError: the dataset is broken or does not fit.
    """
    model = manifests.load(model_path, "model")
    onnx_path = manifests.resolve(model_path, model["onnx"]["path"], model["onnx"]["sha256"])
    num_classes = model["genotype"]["copy"]["num_classes"]
    _, channels, height, width = model["input"]["shape"]
    split = pictures.load(dataset, "test", (channels, height, width), num_classes, data_dir, skip_broken=skip_broken)
    accuracy, matrix = accuracy_of(onnx_path, split)
    if confusion_path is not None:
        confusion.draw(matrix, split.class_names, confusion_path)
    return model["name"], accuracy
