"""A search from its settings to its genotype: begun, gone on with, or opened again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..base import manifest, parallel
from ..base.board import Board
from ..base.errors import DataError, OutputError
from ..base.progress import Reporter
from ..data import datasets as data
from ..genotype.genotype import Genotype
from ..supernet import allocator
from . import checkpoint, finish
from .engine import GENOTYPE_FILE, Search
from .settings import Settings

BOARD_FOLDER = "tensorboard"


def run(
    settings: Settings,
    out: Path,
    *,
    data_dir: Path | None = None,
    backbone_file: Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
) -> Path:
    """Search, or go on with the search of `out`, and return the path of its genotype.json.

    A named backbone gets as many classes as the dataset has; a user's must have them. The processes that torchrun has
    started search together, and all return when the files are written.
    """
    torch.set_num_threads(settings.threads)
    allocator.keep_freed()
    with parallel.joined(settings.device), parallel.alone_in(out):
        return _run(settings, out, data_dir, backbone_file, resume=resume, tensorboard=tensorboard)


def _run(
    settings: Settings,
    out: Path,
    data_dir: Path | None,
    backbone_file: Path | None,
    *,
    resume: bool,
    tensorboard: bool,
) -> Path:
    saved = _open(out, resume=resume)
    parallel.wait()  # before any of them writes there
    search = _begin(settings, out, data_dir, backbone_file)
    inputs = []
    if backbone_file is not None:
        inputs = [manifest.input_record(backbone_file, manifest.load(backbone_file, "genotype"))]
    with parallel.JointStop() as stop:
        if saved is None:
            search.save()
        else:
            search.restore(saved)
        is_first = parallel.is_first()
        board = Board(out / BOARD_FOLDER, search.step) if tensorboard and is_first else None
        with Reporter(search.num_steps, search.step, board=board, is_silent=not is_first) as reporter:
            search.train(stop, reporter)
        finished = None if settings.finish is None else finish.run(search, stop)
        if parallel.is_first():
            search.write_genotype(inputs, finished)
        parallel.wait()
        return out / GENOTYPE_FILE


def reopen(settings: Settings, out: Path, data_dir: Path | None, backbone_file: Path | None) -> Search:
    """Return the search of a folder as it ended, to score genotypes in its supernet.

    Raises:
        IntegrityError, UsageError: there is none, or of other settings.
    """
    search = _begin(settings, out, data_dir, backbone_file)
    search.restore(checkpoint.read(out))
    return search


def _begin(settings: Settings, out: Path, data_dir: Path | None, backbone_file: Path | None) -> Search:
    shape = settings.backbone.input
    preprocessing = data.Preprocessing(channels=shape.channels, height=shape.height, width=shape.width)
    split = data.load(settings.dataset, "train", preprocessing, data_dir=data_dir)
    backbone = _fit_classes(settings.backbone, len(split.class_names), backbone_file)
    return Search(replace(settings, backbone=backbone), split, out)


def _open(out: Path, *, resume: bool) -> checkpoint.Checkpoint | None:
    saved = checkpoint.read(out) if resume else None
    present = [name for name in (checkpoint.STATE_FILE, GENOTYPE_FILE) if (out / name).exists()]
    if present and saved is None:
        advice = "choose another --out" if resume else "go on with --resume, or choose another --out"
        raise OutputError(f"{out / present[0]}: a search lies here already; {advice}")
    return saved


def _fit_classes(backbone: Genotype, num_classes: int, backbone_file: Path | None) -> Genotype:
    if backbone_file is not None and backbone.num_classes != num_classes:
        raise DataError(
            f"{backbone_file}: num_classes: got {backbone.num_classes}, expected {num_classes} as the dataset has; "
            "change it, or take another dataset"
        )
    return replace(backbone, num_classes=num_classes)
