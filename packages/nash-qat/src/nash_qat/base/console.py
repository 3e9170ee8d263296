"""What every command of this package has in common: results on stdout, progress on stderr, errors as one line."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .errors import Interrupted, NashError, OutputError
from .quoting import laid_out, one_line

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of text.")]

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def print_result(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result on stdout, as one JSON object or as text."""
    print(json.dumps(result, allow_nan=False) if as_json else laid_out(text))


def run(app: Callable[[], None]) -> None:
    """Run a command line and leave with the exit code of what happened (the table stands in errors.py)."""
    # for how long a thread of torch's waits awake: at once asleep, a quiet machine takes twice the time, and at the
    # default of 300,000 a busy one does
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    warnings.showwarning = _show_warning
    try:
        app()
        sys.stdout.flush()
    except NashError as error:
        _fail(error)
    except ImportError as error:  # a signal while a compiled module loads comes out of it in disguise
        if not isinstance(error.__cause__ or error.__context__, Interrupted):
            raise
        _fail(Interrupted("stopped while starting"))
    except BrokenPipeError:  # the reader of our output has left: `nash-x ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _fail(OutputError(f"{error.filename or '--out'}: cannot be written ({error.strerror}); choose another --out"))


def _fail(error: NashError) -> None:
    message = one_line(str(error))
    print(f"error: {message}", file=sys.stderr)
    if "--json" in sys.argv[1:]:
        print(json.dumps({"error": {"kind": error.kind, "message": message, "exit_code": error.exit_code}}))
    sys.exit(error.exit_code)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}")


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    if __package__.partition(".")[0] in filename:  # the libraries' own warnings are not for the user
        print(f"warning: {one_line(str(message))}", file=sys.stderr)
