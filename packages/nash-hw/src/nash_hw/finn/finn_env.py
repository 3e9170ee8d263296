"""Use FINN+ as a library: without Vivado, without its noise, leaving nothing behind."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ..base.errors import ToolchainError
from .deferred import deferred

FINN_SERIES = "1.6"
_FINN_LOGGER = "finn_logger"
# what layer normalization and rolled loops need, and three quarters of the time that importing FINN takes
_RARELY_USED = ("torch", "onnxscript", "finn.util.onnxscript_helpers")
_INSTALL_FINN = "install nash-hw with its dependencies, or 'pip install finn-plus==1.6.1'"


def finn_version() -> str:
    """Return the version of FINN+.

    Raises:
        ToolchainError: FINN+ is not installed, or of a release this package was not made for.
    """
    try:
        version = metadata.version("finn-plus")
    except metadata.PackageNotFoundError:
        raise ToolchainError(f"finn-plus: not installed; {_INSTALL_FINN}") from None
    if not version.startswith(FINN_SERIES + "."):
        raise ToolchainError(f"finn-plus: got version {version}, expected {FINN_SERIES}.x; {_INSTALL_FINN}")
    return version


def vivado_version() -> str | None:
    """Return the version of the Vivado that the environment offers, or None."""
    program = shutil.which("vivado")
    if program is None:
        return None
    found = re.search(r"\d{4}\.\d", os.environ.get("XILINX_VIVADO", "") + program)
    return found[0] if found else "unknown"


@contextlib.contextmanager
def contained_finn() -> Iterator[str]:
    """Let FINN+ work in a temporary build folder, its output and warnings kept away; yield its version.

    Raises:
        ToolchainError: see `finn_version`.
    """
    from threadpoolctl import threadpool_limits

    version = finn_version()
    with (
        tempfile.TemporaryDirectory(prefix="nash-hw-") as folder,
        _environment("FINN_BUILD_DIR", folder),
        _silenced(),
    ):
        _import_custom_ops()
        with threadpool_limits(limits=1):  # the matrices are small: two threads wait for each other
            yield version


def _import_custom_ops() -> None:
    """Import FINN and its operations here, where what they print is contained."""
    try:
        with deferred(_RARELY_USED):
            import finn.custom_op.fpgadataflow.hls
            import finn.custom_op.fpgadataflow.rtl  # noqa: F401
    except ImportError as error:
        raise ToolchainError(f"finn-plus: misses a dependency ({error}); {_INSTALL_FINN}") from error
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = str(Path(value).resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    logger = logging.getLogger(_FINN_LOGGER)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
