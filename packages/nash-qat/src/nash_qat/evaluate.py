"""Accuracy of an exported network on a dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import data as datasets
from . import manifest as manifests
from .errors import DataError
from .execute import Runner

_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy in percent; top5 is None where there are five classes or fewer."""

    dataset: str
    split: str
    num_samples: int
    top1: float
    top5: float | None
    float_top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def load_split(
    dataset: str, split: datasets.SplitName, shape: tuple[int, int, int], num_classes: int, data_dir: Path | None
) -> datasets.Split:
    """Return a split prepared for a network's input (C, H, W).

    Raises:
        DataError: the dataset is broken, or has another number of classes than the network.
    """
    channels, height, width = shape
    preprocessing = datasets.Preprocessing(channels=channels, height=height, width=width)
    loaded = datasets.load(dataset, split, preprocessing, data_dir=data_dir)
    if len(loaded.class_names) != num_classes:
        raise DataError(
            f"{dataset}: got {len(loaded.class_names)} classes, expected {num_classes} as the network has; "
            "choose another dataset, or a genotype with its number of classes"
        )
    return loaded


def accuracy_of(onnx_path: Path, split: datasets.Split) -> Accuracy:
    """Run a QONNX file on a split."""
    runner = Runner(onnx_path, batch_size=_BATCH_SIZE)
    hits1 = hits5 = 0
    num_classes = len(split.class_names)
    for pictures, labels in split.batches(_BATCH_SIZE):
        ranked = np.argsort(-runner(pictures), axis=1, kind="stable")
        hits1 += int((ranked[:, 0] == labels).sum())
        hits5 += int((ranked[:, :5] == labels[:, None]).sum())
    name, _, part = split.name.partition("/")
    return Accuracy(
        dataset=name,
        split=part,
        num_samples=len(split),
        top1=100 * hits1 / len(split),
        top5=100 * hits5 / len(split) if num_classes > 5 else None,
    )


def evaluate(model_path: Path, *, dataset: str, data_dir: Path | None) -> tuple[str, Accuracy]:
    """Return a model manifest's name and its accuracy on the test split of a dataset.

    Raises:
        ManifestError, IntegrityError: the manifest or its file is broken.
        DataError, UsageError: the dataset is broken or does not fit.
    """
    model = manifests.load(model_path, "model")
    onnx_path = manifests.resolve(model_path, model["onnx"]["path"], model["onnx"]["sha256"])
    num_classes = model["genotype"]["copy"]["num_classes"]
    _, channels, height, width = model["input"]["shape"]
    split = load_split(dataset, "test", (channels, height, width), num_classes, data_dir)
    return model["name"], accuracy_of(onnx_path, split)
