"""The errors a user can meet, one exit code a kind.

The table is the same in all four packages, so a script that chains them needs only one:

====  ===================  =====================================================
code  class                meaning
====  ===================  =====================================================
0                          done
1                          a bug of ours: a traceback follows
2     `UsageError`         a wrong option or argument
3     `ManifestError`      a manifest is malformed, or breaks its schema or its own shapes
4     `IntegrityError`     a hash differs, a file is missing or damaged, a path leaves its folder
5     `DataError`          a dataset is missing, broken or does not fit the network
6     `UnsupportedError`   the hardware flow cannot express an operation of this network
7     `VerificationError`  two executions that must agree do not
8     `ToolchainError`     a tool is missing or fails (FINN, a compiler, Vivado)
9     `CapacityError`      the board is too small, or the target out of reach
10    `OutputError`        a result cannot be written (disk full, no permission, already there)
11    `DivergedError`      training diverged (NaN or infinite loss); the last good checkpoint is kept
130   `Interrupted`        stopped by SIGINT or SIGTERM; go on with `--resume`
====  ===================  =====================================================
"""

from __future__ import annotations

from typing import ClassVar


class NashError(Exception):
    """Base of every error that is the user's to mend; its text is one line."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"


class UsageError(NashError):
    exit_code = 2
    kind = "usage"


class ManifestError(NashError):
    exit_code = 3
    kind = "manifest"


class IntegrityError(NashError):
    exit_code = 4
    kind = "integrity"


class DataError(NashError):
    exit_code = 5
    kind = "data"


class UnsupportedError(NashError):
    exit_code = 6
    kind = "unsupported"


class VerificationError(NashError):
    exit_code = 7
    kind = "verification"


class ToolchainError(NashError):
    exit_code = 8
    kind = "toolchain"


class CapacityError(NashError):
    exit_code = 9
    kind = "capacity"


class OutputError(NashError):
    exit_code = 10
    kind = "output"


class DivergedError(NashError):
    exit_code = 11
    kind = "diverged"


class Interrupted(NashError):
    exit_code = 130
    kind = "interrupted"
