"""Compile each distinct module once, into a cache that every network shares; a compilation that was stopped goes on.

CACHE/KEY.so        a layer: the hash of its sources, of what joins them to the kernel, of tools and options
CACHE/kernel-KEY    the program that loads layers and runs the clock
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from ..base.errors import OutputError, ToolchainError
from .modules import TOP, Module, source_text
from .tools import Tools

_KERNEL = ("kernel.cpp", "accelerator.h", "fifo.h", "module.h")
_TRACE = ("trace.h", "lz4.h", "zlib.h")
_RUNTIME = ("verilated", "verilated_threads")
_OPTIMIZATION = "-O1"
_WORK = ".work-"
_STALE_SECONDS = 24 * 3600
_CXX = ("-std=c++17", "-fPIC", "-pthread", "-DVL_TIME_CONTEXT", "-DVL_IGNORE_UNKNOWN_ARCH")
_VERILATE = (
    *("--cc", "-sv", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", TOP, "--Mdir", "obj"),
)
_FUNCTION = re.compile(r"^(?:VL_\w+ )*[\w:]+ (\w+)\([^;]*?\)(?: const)? \{$(.*?)^\}", re.M | re.S)
_OUTPUTS = re.compile(
    r"(?:\.|->)(?:in\d+_V_TREADY|out\d+_V_T(?:VALID|DATA))\b\s*(?:\[[^\]]*\]\s*)?=[^=]|"
    r"(?:_W|_I|_X|_Q|_S)\((?:[^,;]*, ?)*vlSelfRef\.out\d+_V_TDATA\b"
)


def default_cache() -> Path:
    """Return the folder of compiled modules: that of the user's caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nash-hw" / "simulate"


class Compiler:
    """Turns modules into shared libraries, several at a time; use as a context, which ends what still runs."""

    def __init__(self, tools: Tools, cache: Path, *, jobs: int | None = None) -> None:
        self._tools = tools
        self._cache = cache.resolve()
        self._jobs = jobs or os.cpu_count() or 1
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def __enter__(self) -> Compiler:
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self._cache}: cannot be written ({error.strerror}); choose another --cache") from error
        for folder in self._cache.glob(f"{_WORK}*"):  # of compilations that were killed
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                os.killpg(process.pid, signal.SIGTERM)

    def libraries(self, modules: Iterable[Module], tell: Callable[[int, int], None]) -> dict[str, Path]:
        """Return the library of each module by its key; `tell` hears how many of how many are there.

        Raises:
            ToolchainError: a compilation fails; the message has the tool's first error.
        """
        distinct = {module.key: module for module in modules}
        paths = {key: self._path(f"{key}.so", [module.key]) for key, module in distinct.items()}
        missing = [key for key, path in paths.items() if not path.exists()]
        tell(len(paths) - len(missing), len(paths))
        if missing:
            header = self._precompiled()
        with ThreadPoolExecutor(self._jobs) as pool:
            running = {pool.submit(self._compile, distinct[key], paths[key], header) for key in missing}
            try:
                while running:
                    done, running = wait(running, timeout=0.5, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if done:
                        tell(len(paths) - len(running), len(paths))
            except BaseException:
                self.__exit__()
                for future in running:
                    future.cancel()
                raise
        return paths

    def kernel(self, *, trace: bool = False) -> Path:
        """Return the program that simulates, for waveforms another one."""
        names = (*_KERNEL, *(_TRACE if trace else ()))
        texts = {name: source_text(name) for name in names}
        path = self._path(f"kernel{'-trace' if trace else ''}-", texts.values())
        if not path.exists():
            runtime = [str(self._runtime(name)) for name in _RUNTIME]
            with self._work() as folder:
                _write(folder, texts)
                options = ["-O2", "-rdynamic", *(("-DNASH_TRACE",) if trace else ()), "-I.", *self._includes()]
                command = [self._tools.compiler, *_CXX, *options, "kernel.cpp", *runtime, "-o", "kernel", "-ldl"]
                self._run(command, folder, "the simulation's kernel")
                os.replace(folder / "kernel", path)
        return path

    def _runtime(self, name: str) -> Path:
        """Return a part of Verilator's own code, which both kernels have in them."""
        path = self._path(f"{name}.o", [name])
        if not path.exists():
            with self._work() as folder:
                source = str(self._tools.root / "include" / f"{name}.cpp")
                options = [*_CXX, _OPTIMIZATION, "-c", *self._includes(), source, "-o", "runtime.o"]
                self._run([self._tools.compiler, *options], folder, "Verilator's runtime")
                os.replace(folder / "runtime.o", path)
        return path

    def _path(self, name: str, parts: Iterable[str]) -> Path:
        """Return where a result lies: its name has the hash of what it depends on."""
        digest = hashlib.sha256()
        common = (self._tools.version, self._tools.compiler_version, _OPTIMIZATION, *_CXX, *_VERILATE)
        for part in (*common, source_text("module.h"), source_text("glue.cpp"), *parts):
            digest.update(part.encode())
            digest.update(b"\0")
        stem, dot, suffix = name.partition(".")
        stem = "" if suffix else stem
        return self._cache / f"{stem}{digest.hexdigest()[:24]}{dot}{suffix}"

    def _work(self) -> tempfile.TemporaryDirectory[str]:
        return _Folder(prefix=_WORK, dir=self._cache, ignore_cleanup_errors=True)

    def _includes(self) -> list[str]:
        include = self._tools.root / "include"
        return [f"-I{include}", f"-I{include / 'vltstd'}"]

    def _precompiled(self) -> Path:
        """Return a header that every library begins with; compiled beforehand it takes half of their time."""
        text = '#include "verilated.h"\n'
        header = self._path("verilated.h", [text])
        compiled = header.with_name(f"{header.name}.gch")
        if not compiled.exists():
            with self._work() as folder:
                _write(folder, {"all.h": text})
                options = [*_CXX, _OPTIMIZATION, *self._includes(), "-x", "c++-header", "all.h", "-o", "all.gch"]
                self._run([self._tools.compiler, *options], folder, "Verilator's headers")
                os.replace(folder / "all.h", header)
                os.replace(folder / "all.gch", compiled)
        return header

    def _compile(self, module: Module, path: Path, header: Path) -> None:
        prefix = f"V{path.stem}"
        with self._work() as folder:
            _write(folder, {**module.texts, "module.h": source_text("module.h")})
            command = [*self._tools.verilator, *_VERILATE, "--prefix", prefix, *module.texts]
            self._run(command, folder, _title(module))
            written = sorted((folder / "obj").glob("*.cpp"))
            is_registered = not _has_paths("".join(source.read_text("utf-8") for source in written))
            glue = _glue(module, prefix, folder / "obj", is_registered=is_registered)
            includes = "".join(f'#include "{source.name}"\n' for source in written)
            (folder / "obj" / "all.cc").write_text(f"{includes}{glue}", "utf-8")
            options = [*_CXX, _OPTIMIZATION, "-shared", "-w", "-I..", *self._includes(), "-include", str(header)]
            self._run([self._tools.compiler, *options, "all.cc", "-o", "module.so"], folder / "obj", _title(module))
            os.replace(folder / "obj" / "module.so", path)

    def _run(self, command: list[str], folder: Path, what: str) -> None:
        with self._lock:
            if self._is_stopped:
                raise ToolchainError(f"{what}: its compilation was stopped")
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=self._tools.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        printed, _ = process.communicate()
        with self._lock:
            self._running.discard(process)
        if process.returncode:
            if os.strerror(errno.ENOSPC) in printed:
                raise OutputError(
                    f"{self._cache}: cannot be written ({os.strerror(errno.ENOSPC)}); free some space, or choose "
                    "another --cache"
                )
            lines = [line for line in printed.splitlines() if "rror" in line] or printed.splitlines() or ["no message"]
            raise ToolchainError(
                f"{what}: {Path(command[0]).name} fails: {lines[0].strip()[:300]}; report this as a bug"
            )


class _Folder(tempfile.TemporaryDirectory):
    def __enter__(self) -> Path:
        return Path(super().__enter__())


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def _title(module: Module) -> str:
    return next((Path(name).stem for name in module.texts if name.startswith("layer/")), next(iter(module.texts)))


def _glue(module: Module, prefix: str, folder: Path, *, is_registered: bool) -> str:
    """Return the end of a library's source: what module.h asks for."""
    root = (folder / f"{prefix}___024root.h").read_text("utf-8")
    clock = re.search(r"\bCData/\*0:0\*/ (__Vtrigprevexpr\w*ap_clk\w*);", root)
    ports = [
        f"{direction}({i})"
        for direction, bits in (("IN", module.in_bits), ("OUT", module.out_bits))
        for i in range(len(bits))
    ]
    defined = {
        "MODEL": prefix,
        "SYMS": f"{prefix}__Syms",
        "CLK_BEFORE": f"&m.rootp->{clock[1]}" if clock else "nullptr",
        "PORTS": " ".join(ports),
        "NUM_IN": len(module.in_bits),
        "NUM_OUT": len(module.out_bits),
        "IS_REGISTERED": "true" if is_registered else "false",
    }
    defines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    return (
        f'#include "{prefix}.h"\n#include "{prefix}__Syms.h"\n#include "module.h"\n{defines}{source_text("glue.cpp")}'
    )


def _has_paths(text: str) -> bool:
    """Tell whether an output of a Verilated module follows an input within a cycle.

    What follows inputs is computed in what Verilator calls from the function eval_ico ("input combinational").
    """
    bodies = dict(_FUNCTION.findall(text))
    pending = [name for name in bodies if "_ico" in name]
    seen = set(pending)
    while pending:
        body = bodies[pending.pop()]
        if _OUTPUTS.search(body):
            return True
        called = {name for name in re.findall(r"\b(\w+)\(", body) if name in bodies} - seen
        seen |= called
        pending += called
    return False
