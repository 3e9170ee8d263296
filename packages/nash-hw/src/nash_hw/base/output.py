"""The folder a build writes: nothing in it changes until everything is ready, and what a stopped build left is swept.

Work lies in ``OUT/.steps``, on the same disk as what it becomes: the checkpoint (`checkpoint`) and the files of the
build that runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Interrupted, NashError, OutputError

WORK = ".steps"


@contextmanager
def staging(out: Path, state_file: str) -> Iterator[Path]:
    """Yield an empty folder below `out` for the files to come, gone afterwards.

    After an error `out` is as it was before, but for a checkpoint (`state_file`) that this build has written: it is
    removed, unless the build was stopped, or the disk was full, and can go on.

    Raises:
        OutputError: `out` cannot be written.
    """
    created = not out.exists()
    work = out / WORK
    folder = work / "new"
    try:
        if not created and not out.is_dir():
            raise OutputError(f"{out}: is a file, expected a folder; choose another --out")
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    before = _stamp(work / state_file)
    is_kept = before is not None
    try:
        yield folder
        is_kept = True
    except (Interrupted, OutputError):
        is_kept = (work / state_file).exists()
        raise
    except NashError:
        is_kept = is_kept and _stamp(work / state_file) == before
        raise
    except OSError as error:
        is_kept = (work / state_file).exists()
        raise OutputError(f"{out}: cannot be written ({error.strerror}); what lay there is as it was") from error
    finally:
        shutil.rmtree(folder if is_kept else work, ignore_errors=True)
        if created and not is_kept:
            shutil.rmtree(out, ignore_errors=True)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is replaced, None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
