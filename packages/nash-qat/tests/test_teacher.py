from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from conftest import TINY_RECIPE, Outcome
from resnets import ResNet, randomize
from safetensors.torch import load_file
from torch import Tensor, nn

from nash_qat.base import interrupt, manifest
from nash_qat.base.errors import IntegrityError, UsageError
from nash_qat.network import weights
from nash_qat.network.network import Network
from nash_qat.quant import presets, quantizers
from nash_qat.train import teacher

Run = Callable[..., Outcome]
GENOTYPE = networks.parsed(networks.NASH)
OTHER = networks.BASELINE


class _Net(nn.Module):
    """A small network of another kind, which normalizes its pictures itself."""

    def __init__(self, num_classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.silu(self.bn(self.conv((x - 0.3) / 0.3)))
        return self.fc(y.mean((2, 3)))


class _Pair(_Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = super().forward(x)
        return y, y


def _script(
    path: Path, module: nn.Module | None = None, *, size: int = 8, channels: int = 1, seed: int = 0
) -> nn.Module:
    module = randomize(_Net() if module is None else module, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, torch.rand(2, channels, size, size)).save(str(path))
    return module


def _float_network(tree: dict[str, Any], path: Path) -> Network:
    torch.manual_seed(1)
    network = Network(networks.parsed(tree), presets.preset("w3a3"))
    randomize(network, seed=1)
    weights.write(path, network)
    quantizers.set_mode(network, "float")
    return network


def _written(tree: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return networks.written(tree, folder)


@torch.no_grad()
def test_every_kind_gives_its_networks_logits(tmp_path: Path) -> None:
    x = torch.rand(5, 1, 8, 8)
    module = _script(tmp_path / "t.pt")
    read = teacher.read(tmp_path / "t.pt", GENOTYPE)
    torch.testing.assert_close(read.module(x), module(x))
    assert (read.sha256, read.genotype_sha256) == (manifest.file_sha256(tmp_path / "t.pt"), None)

    path = _written(OTHER, tmp_path / "run")
    network = _float_network(OTHER, tmp_path / "run" / "float.safetensors")
    for found in (
        teacher.read(tmp_path / "run", GENOTYPE),
        teacher.read(tmp_path / "run" / "float.safetensors", GENOTYPE, genotype_path=path),
    ):
        torch.testing.assert_close(found.module(x), network(x))
        assert found.sha256 == manifest.file_sha256(tmp_path / "run" / "float.safetensors")
        assert found.genotype_sha256 == manifest.file_sha256(path)

    same = _float_network(networks.NASH, tmp_path / "same.safetensors")
    found = teacher.read(tmp_path / "same.safetensors", GENOTYPE)
    torch.testing.assert_close(found.module(x), same(x))
    assert found.genotype_sha256 is None
    assert not any(parameter.requires_grad for parameter in found.module.parameters())


@torch.no_grad()
def test_torchvisions_teacher_keeps_its_bias(tmp_path: Path) -> None:
    network = randomize(ResNet((1, 1), width=4), seed=3)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    layer = networks.layer
    cells = (
        networks.cell(4, layer(4), layer(4, residual_from=0)),
        networks.cell(4, layer(8, stride=2), layer(8, residual_from=0, projection=True)),
    )
    tree = networks.manifest(*cells, channels=3)
    found = teacher.read(tmp_path / "w.pth", networks.parsed(tree))
    x = torch.rand(2, 3, 8, 8)
    inner = found.module.network(x)
    torch.testing.assert_close(found.module(x) - inner, network.fc.bias.expand(2, -1))


@pytest.mark.parametrize(
    ("module", "size", "channels", "message"),
    [
        (_Net(num_classes=7), 8, 1, "got logits (2, 7) for two pictures, expected (2, 10)"),
        (_Pair(), 8, 1, "got logits tuple for two pictures"),
        (_Net(channels=3), 8, 3, "cannot run on pictures (2, 1, 8, 8)"),
    ],
)
def test_program_of_another_shape_is_refused(
    run: Run, nash_path: Path, tmp_path: Path, module: nn.Module, size: int, channels: int, message: str
) -> None:
    _script(tmp_path / "t.pt", module, size=size, channels=channels)
    _refused(run, nash_path, tmp_path, 4, message, "--teacher", tmp_path / "t.pt")


def test_program_without_finite_logits_is_refused(run: Run, nash_path: Path, tmp_path: Path) -> None:
    module = _Net()
    module.fc.bias.data[3] = torch.nan
    _script(tmp_path / "t.pt", module)
    _refused(run, nash_path, tmp_path, 4, "logits that are not finite", "--teacher", tmp_path / "t.pt")


def _refused(run: Run, genotype: Path, folder: Path, code: int, message: str, *options: object) -> None:
    outcome = run("train", genotype, "--out", folder / "out", *options)
    assert outcome.code == code, outcome.err
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (folder / "out").exists()


def test_damaged_and_contradicting_teachers_are_refused(run: Run, nash_path: Path, tmp_path: Path) -> None:
    _script(tmp_path / "t.pt")
    with zipfile.ZipFile(tmp_path / "t.pt") as whole, zipfile.ZipFile(tmp_path / "half.pt", "w") as half:
        for name in whole.namelist()[:-4]:
            half.writestr(name, whole.read(name))
        half.writestr("t/code/x.py", "")
    _refused(run, nash_path, tmp_path, 4, "half.pt: not a readable TorchScript", "--teacher", tmp_path / "half.pt")
    path = _written(OTHER, tmp_path / "run")
    missing = "float.safetensors: cannot be read"
    _refused(run, nash_path, tmp_path, 4, missing, "--teacher", tmp_path / "run")
    _float_network(OTHER, tmp_path / "run" / "float.safetensors")
    floats = ("--teacher", tmp_path / "run" / "float.safetensors")
    _refused(run, nash_path, tmp_path, 4, "name the teacher's own with --teacher-genotype", *floats)
    _refused(run, nash_path, tmp_path, 2, "got no --teacher beside it", "--teacher-genotype", path)
    for both in (tmp_path / "t.pt", tmp_path / "run"):
        with pytest.raises(UsageError, match="which needs none"):
            teacher.read(both, GENOTYPE, genotype_path=path)
    tree = {**OTHER, "num_classes": 7}
    _float_network(tree, tmp_path / "seven.safetensors")
    with pytest.raises(IntegrityError, match=r"got logits \(2, 7\)"):
        teacher.read(tmp_path / "seven.safetensors", GENOTYPE, genotype_path=_written(tree, tmp_path / "seven"))


@pytest.mark.parametrize("kind", ["program", "run"])
def test_other_teachers_teach_and_resume_to_the_same_bits(
    run: Run, nash_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    plan = {**TINY_RECIPE, "epochs": 1, "distill_weight": 1.0, "batch_size": 256, "float_fraction": 0.0}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    path = tmp_path / "t.pt" if kind == "program" else tmp_path / "other"
    if kind == "program":
        _script(path)
    else:
        _written(OTHER, path)
        _float_network(OTHER, path / "float.safetensors")
    common = ("train", nash_path, "--recipe", tmp_path / "plan.json")
    whole = run(*common, "--teacher", path, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    training = manifest.load(tmp_path / "whole" / "model.json", "model")["training"]
    file = path if kind == "program" else path / "float.safetensors"
    assert training["teacher_sha256"] == manifest.file_sha256(file)
    expected = None if kind == "program" else manifest.file_sha256(path / "genotype.json")
    assert training["teacher_genotype_sha256"] == expected
    with monkeypatch.context() as patch:
        _stop_after(patch, 3)
        assert run(*common, "--teacher", path, "--out", tmp_path / "two").code == 130
    _script(tmp_path / "other.pt", seed=1)
    other = run(*common, "--teacher", tmp_path / "other.pt", "--out", tmp_path / "two", "--resume")
    assert other.code == 2
    assert "teacher_sha256: got" in other.err
    resumed = run(*common, "--teacher", path, "--out", tmp_path / "two", "--resume")
    assert resumed.code == 0, resumed.err
    first, second = (load_file(str(tmp_path / name / "checkpoint.safetensors")) for name in ("whole", "two"))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def _stop_after(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    looks = 0

    class Stops(interrupt.StopRequest):
        @property
        def signal_name(self) -> str | None:  # type: ignore[override]
            nonlocal looks
            looks += 1
            return "SIGTERM" if looks > num_steps else None

        @signal_name.setter
        def signal_name(self, value: str | None) -> None:
            pass

    monkeypatch.setattr(interrupt, "StopRequest", Stops)
