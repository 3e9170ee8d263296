"""The folder a build writes: nothing in it changes until everything is ready, and what a stopped build left is swept.

Work lies in ``OUT/.steps``, on the same disk as what it becomes: the checkpoint (`checkpoint`) and the files of the
build that runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Interrupted, OutputError

WORK = ".steps"


@contextmanager
def staging(out: Path, state_file: str) -> Iterator[Path]:
    """Yield an empty folder below `out` for the files to come, gone afterwards.

    After an error `out` is as it was before. Only a build that was stopped leaves its work behind, if it has got as
    far as to write `state_file` there.

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
    is_kept = False
    try:
        yield folder
        is_kept = True
    except Interrupted:
        is_kept = (work / state_file).exists()
        raise
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); nothing is changed") from error
    finally:
        shutil.rmtree(folder if is_kept else work, ignore_errors=True)
        if created and not is_kept:
            shutil.rmtree(out, ignore_errors=True)


def move_in(folder: Path, out: Path, names: Iterable[str]) -> None:
    """Move finished files and folders into `out` in this order: name the manifest last, it tells of the others."""
    for name in names:
        target = out / name
        if target.is_dir():
            os.replace(target, folder / f"old-{name}")
        os.replace(folder / name, target)
