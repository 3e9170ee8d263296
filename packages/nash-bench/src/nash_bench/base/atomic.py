"""Files that appear whole or not at all: one, some that belong together, or what a folder holds.

What is written lies beside its place under a name of its own and is moved there when all of it is on the disk. A
process that is killed leaves such files behind; whoever next writes the same file, or works in the same folder
(lock.py), removes them. A file that is being written is locked, and so is told from one that was left.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from . import json_file
from .errors import IntegrityError, OutputError

_MARK = ".writing-"  # in the name of what is not finished: .model.json.writing-ab12cd34.json
_READY, _ORDER = ".ready", ".order"
_guarded: dict[int, Path] = {}  # folders that this process works in, by handle


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well, and vanishes otherwise.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary paths that take the places of `paths` together, in this order, when the block ends well.

    Raises:
        OutputError: a folder or a file cannot be written; then none has changed.
    """
    path = paths[0]
    made: list[Path] = []
    with ExitStack() as stack:
        stack.callback(_unmake, made)
        try:
            for path in paths:
                made += _make(path.parent)
                _remove_leftovers(path.parent, f".{glob.escape(path.name)}{_MARK}*")
                if path.is_dir():
                    raise OutputError(f"{path}: cannot be written (is a folder); choose another --out")
            temporaries = tuple(stack.enter_context(_temporary(path)) for path in paths)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no path has a NUL byte"
            raise OutputError(f"{path}: cannot be written ({reason}); choose another --out") from error
        try:
            yield temporaries
            for temporary in temporaries:
                _sync(temporary)
            for path, temporary in zip(paths, temporaries, strict=True):
                temporary.replace(path)
                _sync(path.parent)
        except OSError as error:
            _refuse_if_gone(path)
            reason = error.strerror or error
            raise OutputError(f"{path}: cannot be written ({reason}); what stood there before is kept") from error


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder in `out`, which this process has locked; its files move to `out` when the block ends well.

    Raises:
        OutputError: a file cannot be written; then none has changed.
    """
    _refuse_if_gone(out)
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".staged{_MARK}", dir=out))
        yield folder
        move_in(folder, out, (path.relative_to(folder).as_posix() for path in _files_in(folder)))
    except OSError as error:
        _refuse_if_gone(out)
        raise OutputError(f"{out}: cannot be written ({error.strerror or error}); what lay there is kept") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, which is not there, that takes its place when the block ends well.

    Raises:
        OSError: it cannot be made or moved.
    """
    made = _make(out.parent)
    _remove_leftovers(out.parent, f".{glob.escape(out.name)}{_MARK}*")
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}{_MARK}", dir=out.parent))
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        folder.chmod(0o777 & ~_umask())
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unmake(made)
        os.close(handle)


def move_in(source: Path, out: Path, names: Iterable[str]) -> None:
    """Move finished files and folders from `source`, a folder in `out`, to `out`, in this order.

    The manifest comes last, it tells of the others. A process that is killed meanwhile leaves the rest to `recover`.
    """
    order = list(names)
    for name in order:
        if (out / name).is_dir() and not (source / name).is_dir():
            raise OutputError(f"{out / name}: cannot be written (is a folder); choose another --out")
        if (source / name).is_file():
            _sync(source / name)
    (source / _ORDER).write_text(json.dumps(order), "utf-8")
    _sync(source / _ORDER)
    os.rename(source, out / _READY)
    _finish(out)


def recover(out: Path) -> None:
    """Finish what a killed process was moving into a folder that this one has locked, and remove what it left there.

    Raises:
        IntegrityError: what is to be moved there would leave the folder.
    """
    order = out / _READY / _ORDER
    if order.is_file():
        _require_inside(out, order)
        _finish(out)
    _remove_leftovers(out, f".*{_MARK}*")


@contextmanager
def guarded(folder: Path, handle: int) -> Iterator[None]:
    """Refuse to write below a folder, while the block runs, once it is no more that of the handle."""
    _guarded[handle] = folder.absolute()
    try:
        yield
    finally:
        del _guarded[handle]


def is_same(folder: Path, handle: int) -> bool:
    """Tell whether a folder is still the one that was opened."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except OSError:
        return False


def _refuse_if_gone(path: Path) -> None:
    for handle, folder in _guarded.items():
        if path.absolute().is_relative_to(folder) and not is_same(folder, handle):
            raise OutputError(f"{folder}: was removed while this command worked in it; start it anew")


def _finish(out: Path) -> None:
    ready = out / _READY
    for number, name in enumerate(json.loads((ready / _ORDER).read_text("utf-8"))):
        source, target = ready / name, out / name
        if not source.exists():  # moved before the process was killed
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            os.replace(target, ready / f".old-{number}")
        os.replace(source, target)
        _sync(target.parent)
    shutil.rmtree(ready, ignore_errors=True)


def _require_inside(out: Path, order: Path) -> None:
    """Refuse an order that no command has written: the folder may be a stranger's."""
    try:
        names = json_file.read(order)
    except json_file.Unreadable as error:
        raise IntegrityError(f"{order}: {error}; remove {order.parent}") from error
    if not isinstance(names, list) or not all(_lies_in(out.resolve(), name) for name in names):
        raise IntegrityError(f"{order}: names what is not in its folder; remove {order.parent}")


def _lies_in(folder: Path, name: object) -> bool:
    return isinstance(name, str) and "\0" not in name and (folder / name).resolve().is_relative_to(folder)


def _files_in(folder: Path) -> list[Path]:
    """Return the files below a folder, manifests last."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: (path.suffix == ".json", path))


def _make(folder: Path) -> list[Path]:
    """Make a folder; return those that were made, the innermost first."""
    _refuse_if_gone(folder)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _unmake(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # something lies there
            folder.rmdir()


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    handle, name = _locked_file(path)
    try:
        os.chmod(name, 0o666 & ~_umask())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(handle)


def _locked_file(path: Path) -> tuple[int, str]:
    """Make a temporary file and lock it, so that nobody takes it for one that a killed process has left."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}{_MARK}", suffix=path.suffix, dir=path.parent)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, where nothing is taken for left
            return handle, name
        if os.fstat(handle).st_nlink:  # nobody has removed it in between
            return handle, name
        os.close(handle)


def _remove_leftovers(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # somebody writes it
            pass
        finally:
            os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
