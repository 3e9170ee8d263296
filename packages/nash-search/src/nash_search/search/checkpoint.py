"""Checkpoints: tensors as safetensors, everything else as JSON, nothing pickled.

`checkpoint.json` takes the place of its predecessor last and in one go, and names its tensors by hash; whatever a
crash interrupts, the pair that it names is whole.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..base import json_file, manifest
from ..base.errors import IntegrityError, UsageError
from ..supernet.supernet import Supernet

STATE_FILE = "checkpoint.json"
_FORMAT = "nash-search checkpoint 1"
_ABSENT = {
    "relaxation": "edge",
    "recipe.warmup_epochs": 0,
    "device": "cpu",
}  # what settings were before they were written down
_FREE = ("threads", "device")  # what may change: sums in another order round differently
_ADDABLE = ("finish", "finish_epochs", "finish_random")  # what may be asked of a search that began without it


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A search between two steps: `state` is plain JSON, the tensors are by name."""

    settings: Mapping[str, Any]
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Make this checkpoint the one of the folder.

    Raises:
        OutputError: it cannot be written; the one before is kept.
    """
    path = folder / f"checkpoint-{checkpoint.state['step']:08}.safetensors"
    with manifest.atomic_path(path) as temporary:
        temporary.write_bytes(save(dict(checkpoint.tensors)))
    content = {
        "format": _FORMAT,
        "settings": checkpoint.settings,
        "state": checkpoint.state,
        "tensors": {"path": path.name, "sha256": manifest.file_sha256(path)},
    }
    with manifest.atomic_path(folder / STATE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    for leftover in {*folder.glob("checkpoint-*.safetensors")} - {path}:
        leftover.unlink(missing_ok=True)


def read(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of a folder, or None if there is none.

    Raises:
        IntegrityError: it is damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    advice = "choose another --out and start anew"
    try:
        content = json_file.read(path)
        if problems := manifest.problems(content, "checkpoint"):
            raise IntegrityError(manifest.joined(path, problems, advice))
        tensors = manifest.resolve(path, content["tensors"]["path"], content["tensors"]["sha256"])
        state = {key: content["state"][key] for key in ("step", "history", "sums")}
        return Checkpoint(settings=dict(content["settings"]), state=state, tensors=load(tensors.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise IntegrityError(f"{path}: damaged ({type(error).__name__}: {error}); {advice}") from error


def check_settings(folder: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a search under other settings than it began with; warn of other threads or another device.

    Raises:
        UsageError: naming each setting that differs, with both values.
    """
    saved, asked = _ABSENT | dict(saved), {"device": "cpu"} | dict(asked)
    differing = {
        key: f"{key}: got {asked.get(key)!r}, expected {saved.get(key)!r}"
        for key in dict.fromkeys([*saved, *asked])
        if saved.get(key) != asked.get(key)
    }
    for key in _ADDABLE:
        if key not in saved:
            differing.pop(key, None)
    refused = [text for key, text in differing.items() if key not in _FREE]
    if refused:
        listed = " | ".join(refused)
        raise UsageError(
            f"--resume: {folder / STATE_FILE}: {listed}; pass what the search began with, or another --out"
        )
    for text in differing.values():
        warnings.warn(f"--resume: {text} for bit-identical results; sums round differently from here on", stacklevel=2)


def tensors_of(
    supernet: Supernet, weight_optimizer: torch.optim.SGD, alpha_optimizer: torch.optim.Adam
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor that a search changes, by name; the values can be written to."""
    for name, tensor in supernet.state_dict().items():
        yield f"supernet.{name}", tensor
    for kind, optimizer in (("sgd", weight_optimizer), ("adam", alpha_optimizer)):
        for name, parameter in supernet.named_parameters():
            for key, value in optimizer.state.get(parameter, {}).items():
                yield f"{kind}.{key}.{name}", value


def restore(tensors: Mapping[str, Tensor], into: Iterator[tuple[str, Tensor]]) -> None:
    """Copy saved tensors into those of a search, keeping the memory format.

    Raises:
        IntegrityError: names or shapes differ.
    """
    targets = dict(into)
    if targets.keys() != tensors.keys():
        odd = sorted(targets.keys() ^ tensors.keys())[0]
        raise IntegrityError(f"{STATE_FILE}: its tensors are not of this supernet ({odd}); choose another --out")
    with torch.no_grad():
        for name, target in targets.items():
            if target.shape != tensors[name].shape:
                got, expected = tuple(tensors[name].shape), tuple(target.shape)
                raise IntegrityError(f"{STATE_FILE}: {name}: got shape {got}, expected {expected}; start anew")
            target.copy_(tensors[name])
