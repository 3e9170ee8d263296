"""Image classification datasets as uint8 pixels.

Shapes: images (N, C, H, W) uint8, labels (N,) int64. Every package of NASH prepares pixels in exactly
this way, so an accuracy measured in one is comparable with that of another.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..base.errors import DataError, UsageError

DATASETS = ("digits", "cifar10", "cifar100", "imagefolder")
SplitName = Literal["train", "val", "test"]
_FOLDERS = {"train": ("train",), "val": ("val",), "test": ("test", "val")}  # without test/, val/ is the test split
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
_CACHE_BYTES = 2 << 30
Decoded = TypeVar("Decoded")


class Images(Protocol):
    """Pixels that may be in memory or decoded when asked for: `images[indices]` is (B, C, H, W) uint8."""

    def __len__(self) -> int: ...
    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a dataset; label k stands for class_names[k]."""

    name: str
    images: Images
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Yield (images (B, C, H, W), labels (B,)) in order; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self)))
            yield self.images[indices], self.labels[indices]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the network's input: shorter side to `resize` pixels, centre crop to (height, width)."""

    channels: int
    height: int
    width: int

    @property
    def resize(self) -> int:
        """Return the shorter side before the crop: 256 for 224, the input's own size for small ones."""
        side = max(self.height, self.width)
        return side if side <= 64 else round(side * 256 / 224)

    def __call__(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return the picture as (C, H, W) uint8."""
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        scale = self.resize / min(picture.size)
        if scale != 1:
            size = tuple(max(self.resize, round(side * scale)) for side in picture.size)
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (picture.width - self.width) // 2, (picture.height - self.height) // 2
        picture = picture.crop((left, top, left + self.width, top + self.height))
        pixels = np.asarray(picture, dtype=np.uint8)
        return pixels[None] if self.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def load(dataset: str, split: SplitName, preprocessing: Preprocessing, *, data_dir: Path | None = None) -> Split:
    """Return a split of a dataset, every picture prepared for the network.

    "test" of an image folder is test/, or val/ where there is no test/; "val" is there in image folders alone.

    Raises:
        UsageError: an unknown dataset, or one that needs --data without it.
        DataError: the folder or a picture is missing or broken, or there are fewer than two classes.
    """
    if dataset not in DATASETS:
        raise UsageError(f"--dataset: got '{dataset}', expected one of {', '.join(DATASETS)}")
    if split == "val" and dataset != "imagefolder":
        raise UsageError(f"--dataset {dataset}: has no validation split of its own, expected an imagefolder")
    if preprocessing.channels not in (1, 3):
        raise DataError(f"input.channels: got {preprocessing.channels}, expected 1 or 3 for pictures")
    if dataset == "digits":
        return _digits(split, preprocessing)
    if data_dir is None:
        raise UsageError(f"--dataset {dataset} needs --data DIR, the folder it lies in")
    loader = _imagefolder if dataset == "imagefolder" else _cifar
    return loader(dataset, split, preprocessing, data_dir)


def _digits(split: SplitName, preprocessing: Preprocessing) -> Split:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    chosen = np.sort(train if split == "train" else test)
    grey = np.rint(pixels[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.stack([preprocessing(Image.fromarray(digit)) for digit in grey])
    return Split(
        name=f"digits/{split}",
        images=images,
        labels=labels[chosen].astype(np.int64),
        class_names=tuple("0123456789"),
    )


def _cifar(dataset: str, split: SplitName, preprocessing: Preprocessing, data_dir: Path) -> Split:
    datasets = load_torchvision().datasets
    factory = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
    try:  # torchvision checks the archive's hashes before it reads it
        source = factory(str(data_dir), train=split == "train", download=False)
    except RuntimeError as error:
        raise DataError(
            f"{data_dir}: no intact {dataset} archive ({error}); put the extracted python version there"
        ) from error
    images = _same_size_or_prepared(source.data, preprocessing)
    return Split(
        name=f"{dataset}/{split}",
        images=images,
        labels=np.asarray(source.targets, dtype=np.int64),
        class_names=tuple(source.classes),
    )


def _same_size_or_prepared(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    if pixels.shape[1:] == (preprocessing.height, preprocessing.width, preprocessing.channels):
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return np.stack([preprocessing(Image.fromarray(picture)) for picture in pixels])


def _imagefolder(dataset: str, split: SplitName, preprocessing: Preprocessing, data_dir: Path) -> Split:
    names = _FOLDERS[split]
    folder = next((data_dir / name for name in names if (data_dir / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{data_dir}: holds no folder {' or '.join(names)}; expected {names[0]}/CLASS/picture.jpg")
    class_names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(class_names) < 2:
        raise DataError(f"{folder}: got {len(class_names)} class folders, expected at least 2")
    paths, labels = [], []
    for label, name in enumerate(class_names):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"{folder / name}: holds no picture ({', '.join(sorted(_IMAGE_SUFFIXES))})")
        paths += found
        labels += [label] * len(found)
    return Split(
        name=f"{dataset}/{folder.name}",
        images=Files(paths, preprocessing),
        labels=np.asarray(labels, dtype=np.int64),
        class_names=tuple(class_names),
    )


class Files:
    """Picture files, decoded when first asked for and kept while they fit into memory."""

    def __init__(self, paths: list[Path], prepare: Callable[[Image.Image], NDArray[np.uint8]]) -> None:
        self.paths = paths
        self._prepare = prepare
        self._pixels: NDArray[np.uint8] | None = None
        self._known = np.zeros(len(paths), dtype=bool)
        self._pool = ThreadPoolExecutor()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        indices = np.asarray(indices)
        missing = np.unique(indices[~self._known[indices]])
        decoded = list(self._pool.map(self._decode, missing.tolist()))
        if decoded and self._pixels is None and decoded[0].nbytes * len(self) <= _CACHE_BYTES:
            self._pixels = np.empty((len(self), *decoded[0].shape), dtype=np.uint8)
        if self._pixels is None:
            by_index = dict(zip(missing.tolist(), decoded, strict=True))
            return np.stack([by_index[index] for index in indices.tolist()])
        if decoded:
            self._pixels[missing] = decoded
            self._known[missing] = True
        return self._pixels[indices]

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return decode(self.paths[index], self._prepare)


def decode(path: Path, prepare: Callable[[Image.Image], Decoded]) -> Decoded:
    """Open a picture file and return what `prepare` makes of it.

    Raises:
        DataError: it is not a picture, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"got pixels of mode {picture.mode}, expected 8 bits a channel")
            return prepare(picture)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not a readable picture ({error}); replace or remove it") from error


def load_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators do not load beside the installed torch."""
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise DataError(
            "torchvision is not installed; pip install torchvision, or use --dataset imagefolder"
        ) from error
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        if "torchvision::" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library: Any = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):  # declared, never run: datasets and transforms do not use them
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torchvision: Any = importlib.import_module("torchvision")
    torchvision._nash_declarations = library  # keeps the declarations alive
    return torchvision
