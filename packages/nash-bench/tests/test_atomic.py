"""Files that appear whole or not at all, whatever happens in between; the module is the same in all four packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nash_bench.base import atomic, lock
from nash_bench.base.errors import IntegrityError, OutputError

LEFT = ".a.json.writing-left.json"
Work = Callable[[], None]


def killed_at(number: int, name: str, work: Work, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do a piece of work in a child that is killed before its call `number` of os.NAME; return whether it was."""
    child = os.fork()
    if child == 0:
        real, calls = getattr(os, name), iter(range(1000))

        def counted(*arguments: object, **options: object) -> object:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, counted)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def run_out_of_space(context: AbstractContextManager[Any], *names: str) -> None:
    """Write to what a context yields, to files of it if they are named, until the disk is full."""
    with context as new:
        for path in [new / name for name in names] or [new]:
            path.write_text("hal")
        raise OSError(28, "No space left on device")


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(OutputError, match=r"No space.*; what stood there before is kept"):
        run_out_of_space(atomic.atomic_path(path))
    assert contents(tmp_path) == {"a.json": "before"}
    with atomic.atomic_path(path) as new:
        new.write_text("after")
    assert contents(tmp_path) == {"a.json": "after"}


def test_folders_made_for_nothing_vanish(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        run_out_of_space(atomic.atomic_path(tmp_path / "a" / "b" / "c.json"))
    assert os.listdir(tmp_path) == []


def test_several_files_change_together(tmp_path: Path) -> None:
    paths = (tmp_path / "one", tmp_path / "two")
    paths[0].write_text("before")

    def write(texts: tuple[str, ...], *, is_full: bool) -> None:
        with atomic.atomic_paths(*paths) as temporaries:
            for temporary, text in zip(temporaries, texts, strict=True):
                temporary.write_text(text)
            if is_full:
                raise OSError(28, "No space left on device")

    with pytest.raises(OutputError):
        write(("after", "hal"), is_full=True)
    assert contents(tmp_path) == {"one": "before"}
    write(("after", "after"), is_full=False)
    assert contents(tmp_path) == {"one": "after", "two": "after"}


def test_folder_in_the_place_of_a_file_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    with pytest.raises(OutputError, match=r"cannot be written \(is a folder\)"):
        run_out_of_space(atomic.atomic_paths(tmp_path / "one", tmp_path / "two"))
    assert os.listdir(tmp_path) == ["two"]


def test_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_text("half")
    with atomic.atomic_path(tmp_path / "a.json") as new:
        new.write_text("whole")
    assert os.listdir(tmp_path) == ["a.json"]


def test_next_command_in_a_folder_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / LEFT).write_text("half")
    (tmp_path / ".staged.writing-left").mkdir()
    with lock.held(tmp_path):
        assert os.listdir(tmp_path) == []


def test_file_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / LEFT).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with lock.held(tmp_path), atomic.atomic_path(tmp_path / "a.json") as new:
            new.write_text("ours")
    assert sorted(os.listdir(tmp_path)) == [LEFT, "a.json"]


def test_writer_that_is_killed_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")

    def work() -> None:
        with atomic.atomic_path(path) as new:
            new.write_text("half")

    assert killed_at(0, "replace", work, monkeypatch) or killed_at(0, "rename", work, monkeypatch)
    assert path.read_text() == "before"
    with atomic.atomic_path(path) as new:
        new.write_text("after")
    assert contents(tmp_path) == {"a.json": "after"}


def _write_set(out: Path) -> None:
    with lock.held(out), atomic.staged(out) as folder:
        (folder / "plots").mkdir()
        (folder / "plots" / "a.svg").write_text("new plot")
        (folder / "b.onnx").write_text("new graph")
        (folder / "a.json").write_text("new manifest")


@pytest.mark.parametrize("call", ["rename", "replace"])
def test_files_of_a_folder_change_together_when_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Killed before any of its renames: at the next command all files are as before, or all are new."""
    before = {"a.json": "old manifest", "b.onnx": "old graph", "plots/other.svg": "kept"}
    after = before | {"a.json": "new manifest", "b.onnx": "new graph", "plots/a.svg": "new plot"}
    seen = []
    for number in range(10):
        out = tmp_path / f"{number}"
        for name, text in before.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
        was_killed = killed_at(number, call, partial(_write_set, out), monkeypatch)
        with lock.held(out):
            seen.append(contents(out))
        if not was_killed:
            break
    assert seen[-1] == after
    assert all(found in (before, after) for found in seen)
    assert len(seen) == {"rename": 2, "replace": 4}[call]
    assert seen[0] == (before if call == "rename" else after)


def test_full_disk_leaves_a_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("before")
    with lock.held(tmp_path), pytest.raises(OutputError, match="No space"):
        run_out_of_space(atomic.staged(tmp_path), "a.json")
    assert contents(tmp_path) == {"a.json": "before"}


def _remove_and_write(out: Path) -> None:
    with lock.held(out):
        shutil.rmtree(out)
        run_out_of_space(atomic.atomic_path(out / "a" / "b.json"))


def test_folder_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="was removed while this command worked in it"):
        _remove_and_write(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_copy_of_a_folder_appears_whole(tmp_path: Path) -> None:
    (tmp_path / ".out.writing-left").mkdir()
    with pytest.raises(OSError, match="No space"):
        run_out_of_space(atomic.whole_folder(tmp_path / "out"), "file")
    assert os.listdir(tmp_path) == []
    with atomic.whole_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("whole")
    assert contents(tmp_path) == {"out/file": "whole"}


@pytest.mark.parametrize("order", ['["../outside"]', '["/tmp/outside"]', '["a\\u0000b"]', '{"a": 1}', "[", "[1]"])
def test_an_order_that_leaves_the_folder_is_refused(order: str, tmp_path: Path) -> None:
    ready = tmp_path / "out" / ".ready"
    ready.mkdir(parents=True)
    (ready / ".order").write_text(order)
    with pytest.raises(IntegrityError, match=r"\.order: .*; remove "):
        atomic.recover(tmp_path / "out")
    assert not (tmp_path / "outside").exists()
