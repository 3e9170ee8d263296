"""Teachers from files: a float network of this or another genotype, or a TorchScript program.

Shapes: pictures x (B, C, H, W) in [0, 1], logits (B, K).
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..base import manifest as manifests
from ..base.errors import IntegrityError, UsageError
from ..network import genotype as genotypes
from ..network import pretrained, weights
from ..network.genotype import Genotype
from ..network.network import Network
from ..quant import presets, quantizers
from . import runs

_ANY_BITS = "w8a8"  # a teacher runs in float


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen network that maps pictures to the logits to imitate, and the hashes of its files."""

    module: nn.Module
    sha256: str
    genotype_sha256: str | None = None


def read(
    path: Path,
    student: Genotype,
    *,
    genotype_path: Path | None = None,
    normalization: pretrained.Normalization | None = None,
) -> Teacher:
    """Read a teacher for a student: float weights, a run's folder with its own genotype, or a TorchScript file.

    Weights are those of the student's genotype, or of the one at `genotype_path`.

    Raises:
        IntegrityError, ManifestError: a file is missing, damaged, or does not give the student's number of logits.
        UsageError: a genotype beside a teacher that has its own.
    """
    is_script = path.is_file() and _is_torchscript(path)
    if genotype_path is not None and (path.is_dir() or is_script):
        kind = "TorchScript file" if is_script else "run's folder"
        raise UsageError(f"--teacher-genotype: got a {kind} beside it, which needs none; leave it out")
    if is_script:
        teacher = Teacher(module=_script(path), sha256=manifests.file_sha256(path))
    elif path.is_dir():
        teacher = _network(path / runs.FLOAT, path / runs.GENOTYPE, None)
    else:
        teacher = _network(path, genotype_path or student, normalization)
    teacher.module.eval().requires_grad_(False)
    _probe(teacher.module, student, path)
    return teacher


def _network(path: Path, source: Path | Genotype, normalization: pretrained.Normalization | None) -> Teacher:
    genotype = source if isinstance(source, Genotype) else genotypes.load(source)
    found = weights.read(path, genotype, normalization=normalization)
    with torch.random.fork_rng(devices=[]):
        network = Network(genotype, presets.preset(_ANY_BITS))
    try:
        weights.load_all(network, found)
    except IntegrityError as error:
        hint = ", or name the teacher's own with --teacher-genotype" if source is genotype else ""
        raise IntegrityError(f"{error}{hint}") from error
    quantizers.set_mode(network, "float")
    bias = found.classifier_bias
    return Teacher(
        module=network if bias is None else _Biased(network, bias),
        sha256=found.sha256,
        genotype_sha256=None if source is genotype else manifests.file_sha256(source),
    )


class _Biased(nn.Module):
    """A network with the bias that the classifiers of this package do without."""

    def __init__(self, network: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("bias", bias.float())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + self.bias


class _Script(nn.Module):
    """A TorchScript program, run as it is written.

    Its optimizer would replace parts after the first calls, and a resumed run would not come to the same bits.
    """

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):
            return self.script(x)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _script(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return _Script(torch.jit.load(str(path), map_location="cpu"))
    except (RuntimeError, OSError, ValueError) as error:
        reason = _first_line(error)
        raise IntegrityError(f"{path}: not a readable TorchScript file ({reason}); write it anew") from error


@torch.no_grad()
def _probe(teacher: nn.Module, student: Genotype, path: Path) -> None:
    """Refuse a teacher that does not give the student's number of finite logits for its pictures."""
    x = torch.full((2, *student.input_shape), 0.5)
    try:
        logits = teacher(x)
    except (RuntimeError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path}: cannot run on pictures {tuple(x.shape)} ({_first_line(error)}); pass a teacher for such pictures"
        ) from error
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != (2, student.num_classes):
        raise IntegrityError(
            f"{path}: got logits {got} for two pictures, expected (2, {student.num_classes}) as the genotype has "
            f"{student.num_classes} classes; pass a teacher of the same classes"
        )
    if not torch.isfinite(logits).all():
        raise IntegrityError(f"{path}: got logits that are not finite; pass a teacher that did not diverge")


def _first_line(error: Exception) -> str:
    """Return the line of an error of TorchScript that says what went wrong: its last, without the trace before it."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
