"""Run one package's commands on broken files, each in a forked process, and judge what they leave.

    python fuzz/worker.py PACKAGE --seeds DIR --out RESULTS.jsonl [--cases 200] [--kinds board space] [--seed 0]

It runs in an environment that has the package. A case is its kind and number alone: the same seed breaks the same file
in the same way. RESULTS gets a line a case, and a run goes on behind those that are there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cases import Kind, of_package

_ALLOWED = (0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 130)
_MAX_LINE = 500
_MAX_MEMORY_KB = 4 * 2**20
_GRACE_S = 60
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=200, help="of each kind")
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=5.0, help="seconds until a command that runs on is stopped")
    arguments = parser.parse_args()
    _load_all(f"nash_{arguments.package}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = Counter()
    if arguments.out.exists():
        done.update(json.loads(line)["kind"] for line in arguments.out.read_text("utf-8").splitlines())
    kinds = [kind for kind in of_package(arguments.package) if not arguments.kinds or kind.name in arguments.kinds]
    is_bad = False
    with arguments.out.open("a", encoding="utf-8") as results:
        for kind in kinds:
            tally = Counter()
            if done[kind.name] < arguments.cases:
                _warm_up(kind, arguments)
            for number in range(done[kind.name], arguments.cases):
                found = _case(kind, number, arguments)
                results.write(json.dumps(found) + "\n")
                results.flush()
                tally[found["code"]] += 1
                if found["problems"]:
                    is_bad = True
                    print(f"{kind.name} {number}: {'; '.join(found['problems'])}", flush=True)
            print(f"{kind.name:20} {sum(tally.values()):6} cases, exit codes {dict(sorted(tally.items()))}", flush=True)
    sys.exit(1 if is_bad else 0)


def _load_all(package: str) -> None:
    """Import every module of a package, so that a forked case begins at once."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _warm_up(kind: Kind, arguments: argparse.Namespace) -> None:
    """Import what the command imports on the way through a whole file, so that a forked case begins at once."""
    with tempfile.TemporaryDirectory(prefix="nash-fuzz-") as name:
        folder = Path(name)
        replace(kind, mutation=lambda content, dice: content).prepare(arguments.seeds, folder, random.Random(0))
        code, *_ = _run(kind, folder, patience=300.0, tells=True)
        if code != 0:
            said = (folder / "stderr").read_text("utf-8", errors="replace")
            sys.exit(f"{kind.name}: the whole file is refused with exit code {code}: {_last_line(said)}")
        for module in (folder / "modules").read_text("utf-8").split():
            if module not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(module)


def _case(kind: Kind, number: int, arguments: argparse.Namespace) -> dict:
    folder = Path(tempfile.mkdtemp(prefix="nash-fuzz-"))
    try:
        kind.prepare(arguments.seeds, folder, random.Random(f"{arguments.seed} {kind.name} {number}"))
        before = _listing(folder)
        code, memory, seconds, is_hung = _run(kind, folder, arguments.patience)
        said = {name: (folder / name).read_bytes().decode("utf-8", "replace") for name in ("stdout", "stderr")}
        problems = [
            *_problems(code, memory, is_hung, said),
            *_left_behind(folder, before, is_free=kind.keeps or code in (0, 130)),
        ]
        return {"kind": kind.name, "number": number, "code": code, "memory_mb": memory // 1024,
                "seconds": round(seconds, 2), "said": said["stderr"][-300:], "problems": problems}  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(kind: Kind, folder: Path, patience: float, *, tells: bool = False) -> tuple[int, int, float, bool]:
    """Return the exit code, the largest resident size in kB, the seconds, and whether it had to be killed."""
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(kind, folder, tells=tells)
    is_told = is_hung = False
    while True:
        number, status, usage = os.wait4(child, os.WNOHANG)
        if number:
            break
        seconds = time.monotonic() - begun
        if seconds > patience and not is_told:
            os.kill(child, signal.SIGTERM)
            is_told = True
        if seconds > patience + _GRACE_S:
            os.kill(child, signal.SIGKILL)
            is_hung = True
            os.waitpid(child, 0)
            return 137, usage.ru_maxrss, seconds, is_hung
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss, time.monotonic() - begun, is_hung


def _become(kind: Kind, folder: Path, *, tells: bool) -> None:
    """In the forked process: be the command."""
    code = 1
    try:
        os.chdir(folder)
        for name, number in (("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["COLUMNS"] = "400"
        sys.argv = [f"nash-{kind.package}", *kind.arguments]
        importlib.import_module(f"nash_{kind.package}.cli").main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if tells:
            (folder / "modules").write_text("\n".join([*sys.modules]), "utf-8")
        os._exit(code)


def _problems(code: int, memory: int, is_hung: bool, said: dict[str, str]) -> list[str]:
    found = [] if code in _ALLOWED else [f"exit code {code}: {_last_line(said['stderr'])[:200]}"]
    if is_hung:
        found.append("did not end")
    if "Traceback (most recent call last)" in said["stderr"]:
        found.append("traceback")
    if memory > _MAX_MEMORY_KB:
        found.append(f"{memory / 2**20:.1f} GB of memory")
    for name, text in said.items():
        longest = max(text.splitlines(), key=len, default="")
        if len(longest) > _MAX_LINE:
            found.append(f"a line of {len(longest)} characters on {name}: {longest[:80]!r}")
        if control := _CONTROL.search(text):
            found.append(f"character {ord(control[0]):#x} on {name}")
    if code not in (0, 130) and not _last_line(said["stderr"]).strip():
        found.append("no message")
    return found


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else ""


def _listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _left_behind(folder: Path, before: set[str], *, is_free: bool) -> list[str]:
    """Name new files of a command that has failed; hidden ones where it may leave others (`is_free`)."""
    new = _listing(folder) - before - {"stdout", "stderr"}
    hidden = [name for name in new if Path(name).name.startswith(".") and Path(name).name != ".steps"]
    left = sorted(hidden if is_free else new)
    return [f"left behind: {', '.join(left[:3])}"] if left else []


if __name__ == "__main__":
    main()
