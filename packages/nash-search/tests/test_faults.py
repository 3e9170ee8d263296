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
from conftest import Outcome, run_command

from nash_search.base import lock
from nash_search.genotype import genotype, zoo
from nash_search.search import engine

pytestmark = pytest.mark.usefixtures("handlers_as_before")

SPACE = ("--backbone", "resnet8", "--variant", "v3", "--width", "2", "--input-size", "8")
RUN = ("run", *SPACE, "--dataset", "digits", "--epochs", "1", "--threads", "1", "--num-images", "64")
FULL = (0, 300, 3000)  # bytes that the disk takes of each file


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
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def killed_in(folder: Path) -> None:
    """Let a process be killed that works in a folder."""
    child = os.fork()
    if child == 0:
        with lock.held(folder):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.json"
    genotype.save(zoo.build("resnet8", width=2, input_size=8), path)
    return path


@pytest.mark.parametrize("num_bytes", FULL)
@pytest.mark.parametrize("command", ["show", "space", "export"])
def test_full_disk_leaves_what_was_there(plain: Path, tmp_path: Path, command: str, num_bytes: int) -> None:
    out = tmp_path / "out"
    arguments, names = {
        "show": (("show", plain, "--svg", out / "a.svg"), ["a.svg"]),
        "space": (("space", *SPACE, "--out", out / "space.json"), ["space.json"]),
        "export": (("export", plain, "--out", out / "float.onnx"), ["float.onnx"]),
    }[command]
    out.mkdir()
    for name in names:
        (out / name).write_text("before")
    with disk_full_after(num_bytes):
        line = refused(run_command(*arguments))
    assert "cannot be written (File too large); what stood there before is kept" in line
    assert tree(out) == dict.fromkeys(names, b"before")


def test_two_drawings_change_together(tmp_path: Path) -> None:
    """The first fits on the disk, the second does not."""
    assert run_command(*RUN, "--out", tmp_path / "run").code == 0
    sizes = {}
    arguments = ("show", tmp_path / "run" / "genotype.json", "--svg", tmp_path / "a", "--heatmap", tmp_path / "b")
    assert run_command(*arguments).code == 0
    sizes = sorted((tmp_path / name).stat().st_size for name in "ab")
    for name in "ab":
        (tmp_path / name).write_text("before")
    with disk_full_after(sum(sizes) // 2):
        refused(run_command(*arguments))
    assert [(tmp_path / name).read_text() for name in "ab"] == ["before", "before"]


@pytest.mark.parametrize("num_bytes", [0, 3000])
def test_search_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, num_bytes: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run_command(*RUN, "--out", whole).code == 0
    with disk_full_after(num_bytes):
        refused(run_command(*RUN, "--out", out))
    assert not any(path.name.startswith(".") for path in tmp_path.rglob("*"))
    assert run_command(*RUN, "--out", out, "--resume").code == 0
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("command", ["run", "pareto"])
def test_second_process_in_a_folder_is_refused(priced: Callable[..., Path], tmp_path: Path, command: str) -> None:
    out, costs = tmp_path / "out", ()
    if command == "pareto":
        costs = ("--costs", priced(zoo.build("resnet8", width=2, input_size=8), has_backbone=True))
    with lock.held(out):
        line = refused(run_command(command, *RUN[1:], *costs, "--out", out))
        assert os.listdir(out) == []
    assert " works in this folder; wait until it is done, or choose another --out" in line
    assert f"process {os.getpid()} (" in line or "another process" in line


def test_killed_search_neither_blocks_nor_leaves_anything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed_in(out)
    for name in ("genotype.json", "alphas.json", "checkpoint.json"):
        (out / f".{name}.writing-left.json").write_text("half")
    assert run_command(*RUN, "--out", out).code == 0
    assert not list(out.glob(".*"))


def test_search_whose_folder_is_removed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, train = tmp_path / "out", engine.Search.train

    def train_and_remove(self: engine.Search, *arguments: object) -> None:
        train(self, *arguments)
        shutil.rmtree(out)

    monkeypatch.setattr(engine.Search, "train", train_and_remove)
    assert "was removed while this command worked in it" in refused(run_command(*RUN, "--out", out))
    assert not out.exists()
