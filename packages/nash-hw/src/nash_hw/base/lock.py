"""One command at a time in a folder: an advisory lock on the output folder itself, which ends with its process.

There is no lock file: nothing is left behind by a killed command, and nothing stale has to be recognized.
"""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import atomic
from .errors import OutputError
from .quoting import brief

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)  # some network file systems


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other commands out of `folder` while the block runs; it is made if it is not there.

    What a killed command left half done in it is finished or removed. A folder that was made and is still empty at the
    end, after an error, vanishes again.

    Raises:
        OutputError: another process works in it (it is named), or it cannot be made.
    """
    made: list[Path] = []
    handle = _locked(folder, made)
    try:
        with atomic.guarded(folder, handle):
            _recover(folder)
            yield
    finally:
        os.close(handle)
        for each in made:
            if not _removed(each):
                break


def _locked(folder: Path, made: list[Path]) -> int:
    """Make, open and lock a folder; `made` takes those that were not there, the innermost first."""
    while True:
        try:
            made[:] = dict.fromkeys([*made, *(each for each in (folder, *folder.parents) if not each.exists())])
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(
                f"{folder}: cannot be written (is a file, expected a folder); choose another --out"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no path has a NUL byte"
            raise OutputError(f"{folder}: cannot be written ({reason}); choose another --out") from error
        try:
            _lock(folder, handle)
        except OutputError:
            os.close(handle)
            raise
        if atomic.is_same(folder, handle):
            return handle
        os.close(handle)  # another command has removed it, empty, before it was locked


def _recover(folder: Path) -> None:
    try:
        atomic.recover(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error


def _lock(folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"{folder}: {_holder(handle)} works in this folder; wait until it is done, or choose another --out"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise OutputError(f"{folder}: cannot be locked ({error.strerror}); choose another --out") from error
        warnings.warn(f"{folder}: its file system has no locks: start nothing else in it meanwhile", stacklevel=2)


def _holder(handle: int) -> str:
    """Return which process has the lock, as far as the system tells."""
    inode = os.fstat(handle).st_ino
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        number = next(int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5].endswith(f":{inode}"))
        command = Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except (OSError, ValueError, IndexError, StopIteration):
        return "another process"
    return f"process {number} ({brief(' '.join(command).strip(), is_text=True)})"


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
