"""What a full disk, a lost folder, a second process and a killed one do to each command that writes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Outcome

from nash_qat.base import lock, manifest
from nash_qat.export import files
from nash_qat.train import trainer

Run = Callable[..., Outcome]


@contextmanager
def disk_full_after(num_bytes: int) -> Iterator[None]:
    """Let every write beyond `num_bytes` of a file fail."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


def refused(outcome: Outcome) -> str:
    """Return the one line of a command that could not write."""
    assert outcome.code == 10, outcome
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def killed_in(folder: Path) -> None:
    """Let a process be killed that works in a folder."""
    child = os.fork()
    if child == 0:
        with lock.held(folder):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def is_whole(out: Path) -> bool:
    """Tell whether a model's manifest and its files are of one export."""
    found = manifest.load(out / "model.json", "model")
    for artifact in found["artifacts"]:
        manifest.resolve(out / "model.json", artifact["path"], artifact["sha256"])
    return True


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What an earlier export left, as far as a later one sees: files with the names of its own."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("model.onnx", "golden.npz", "model.json"):
        (out / name).write_text("before")
    return out


@pytest.mark.parametrize("num_bytes", [0, 20_000])
def test_full_disk_leaves_an_export_as_it_was(run: Run, nash_path: Path, exported: Path, num_bytes: int) -> None:
    out, before = exported, tree(exported)
    with disk_full_after(num_bytes):
        outcome = run("export", nash_path, "--preset", "w4a4", "--qcdq", "--out", out)
    assert "cannot be written (File too large)" in refused(outcome)
    assert tree(out) == before


def test_training_on_a_full_disk_leaves_nothing(run: Run, nash_path: Path, recipe_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with disk_full_after(2000):
        refused(run("train", nash_path, "--recipe", recipe_path, "--out", out))
    assert sorted(os.listdir(out) if out.exists() else ()) in ([], ["genotype.json"])


@pytest.mark.parametrize("command", ["train", "export"])
def test_second_process_in_a_folder_is_refused(run: Run, nash_path: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    with lock.held(out):
        line = refused(run(command, nash_path, "--out", out))
        assert os.listdir(out) == []
    assert " works in this folder; wait until it is done, or choose another --out" in line
    assert f"process {os.getpid()} (" in line or "another process" in line


def test_export_killed_between_its_files_is_finished_by_the_next_command(
    run: Run, nash_path: Path, exported: Path, tmp_path: Path
) -> None:
    out, whole = exported, tmp_path / "whole"
    assert run("export", nash_path, "--preset", "w4a4", "--out", whole).code == 0
    child = os.fork()
    if child == 0:
        replace = os.replace

        def replace_model_only(source: str, target: str, **options: int) -> None:
            if Path(target).name == "model.json" and Path(target).parent == out:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **options)

        os.replace = replace_model_only
        run("export", nash_path, "--preset", "w4a4", "--out", out)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert tree(out) != tree(whole)
    with lock.held(out):
        assert is_whole(out)
    assert tree(out) == tree(whole)


def test_killed_process_neither_blocks_nor_leaves_anything(run: Run, nash_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_in(out)
    (out / ".checkpoint.safetensors.writing-left.safetensors").write_text("half")
    (out / ".staged.writing-left").mkdir()
    assert run("export", nash_path, "--out", out).code == 0
    assert sorted(os.listdir(out)) == ["golden.npz", "model.json", "model.onnx"]


def test_export_whose_folder_is_removed_meanwhile(
    run: Run, nash_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, verify = tmp_path / "out", files._verify

    def verify_and_remove(*arguments: object) -> object:
        found = verify(*arguments)
        shutil.rmtree(out)
        return found

    monkeypatch.setattr(files, "_verify", verify_and_remove)
    assert "was removed while this command worked in it" in refused(run("export", nash_path, "--out", out))
    assert not out.exists()


def test_run_whose_folder_is_removed_meanwhile(
    run: Run, nash_path: Path, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, train = tmp_path / "out", trainer.Trainer.train

    def remove_and_train(self: trainer.Trainer) -> None:
        shutil.rmtree(out)
        train(self)

    monkeypatch.setattr(trainer.Trainer, "train", remove_and_train)
    outcome = run("train", nash_path, "--recipe", recipe_path, "--out", out)
    assert "was removed while this command worked in it" in refused(outcome)
    assert not out.exists()
