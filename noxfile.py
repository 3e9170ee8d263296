#!/usr/bin/env python3
"""Sessions of the repository: `python3 noxfile.py` passes every test, `python3 noxfile.py -s demo` runs the chain.

Run as a script it needs Python 3.11 and nothing else: nox and uv go into a private environment first.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PRIVATE = ROOT / ".nox" / "bootstrap"


def _bootstrap() -> None:
    """Replace this process by nox from a private environment, made on the first call."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is where an older one is turned away
        sys.exit(f"noxfile.py: got Python {sys.version.split()[0]}, expected 3.11 or newer; run it with python3.11")
    python, complete = PRIVATE / "bin" / "python", PRIVATE / "complete"
    if not complete.exists():
        print("noxfile.py: installing nox and uv into .nox/bootstrap", flush=True)
        shutil.rmtree(PRIVATE, ignore_errors=True)
        pip = _make_environment(python)
        subprocess.run([*pip, "install", "--quiet", "nox>=2025.2.9"], check=True)
        subprocess.run([*pip, "install", "--quiet", "uv"], check=False)  # without it nox takes virtualenv and pip
        complete.touch()
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    os.execv(python, [str(python), "-m", "nox", "-f", __file__, *sys.argv[1:]])


def _make_environment(python: Path) -> list[str]:
    """Make the private environment and return the command of a pip that installs into it."""
    if importlib.util.find_spec("ensurepip"):
        venv.create(PRIVATE, with_pip=True)
        return [str(python), "-m", "pip", "--disable-pip-version-check"]
    if importlib.util.find_spec("pip"):
        venv.create(PRIVATE, with_pip=False)
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    sys.exit("noxfile.py: this Python has neither ensurepip nor pip; install python3-venv and run again")


if __name__ == "__main__":
    _bootstrap()

import nox  # noqa: E402

PACKAGES = ("search", "qat", "hw", "bench")
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"))
DEMO = ROOT / "runs" / "demo"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # enough for small networks, and the result is the same on every machine
PYTEST = ("pytest", "-q", "-n", "logical", "--dist", "worksteal")  # a worker a core

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "tests", "build", "integration"]


def _hand_pip_settings_to_uv() -> None:
    """Pass pip's index, wheel folders and certificates on to uv, which reads no pip configuration."""
    handed = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE"}
    for key, variable in handed.items():
        values = os.environ.get(f"PIP_{key.replace('-', '_').upper()}", "").split()
        for scope in ("global", "install", "user", "site") if not values else ():
            command = [sys.executable, "-m", "pip", "config", "get", f"{scope}.{key}"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            values += found.stdout.split() if found.returncode == 0 else []
        if values:
            os.environ.setdefault(variable, ",".join(dict.fromkeys(values)))


_hand_pip_settings_to_uv()
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # importing torch without bytecode takes twice as long


def _folder(package: str) -> Path:
    return ROOT / "packages" / f"nash-{package}"


def _install(
    session: nox.Session,
    package: str,
    *,
    wheel: Path | None = None,
    test: bool = True,
    bounds: tuple[str, ...] = CONSTRAINTS,
) -> None:
    """Install one package, editable or as a wheel, with what its tests need or with every other extra."""
    optional = nox.project.load_toml(_folder(package) / "pyproject.toml")["project"]["optional-dependencies"]
    extras = [need for extra, needs in optional.items() if (extra == "test") == test for need in needs]
    target = [str(wheel)] if wheel else ["--editable", str(_folder(package))]
    if package == "hw":  # finn-plus pins a brevitas (never imported) that cannot stand beside torch 2.13
        requirements = _folder("hw") / "requirements"
        session.install(*bounds, "-r", str(requirements / "finn-runtime.txt"))
        session.install("--no-deps", "-r", str(requirements / "finn-nodeps.txt"))
    else:
        session.install(*bounds, *target)
    session.install("--no-deps", "--force-reinstall", *target)
    if extras:
        session.install(*bounds, *extras)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, types, and that the tables of READMEs are those of their sources."""
    session.install("ruff>=0.17,<0.18", "mypy>=2.4,<2.5", "typer>=0.21.2")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy", "--config-file", ".mypy.toml")
    session.run("python", "tools/readme.py", "--check")


@nox.session(venv_backend="none")
def readme(session: nox.Session) -> None:
    """Write the tables of READMEs anew from their sources; with `-- --check` name the stale ones."""
    session.run(sys.executable, "tools/readme.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Make build/docs/index.html of the READMEs and docstrings, without a warning."""
    session.install("-r", "docs/requirements.txt")
    out = ROOT / "build" / "docs"
    session.run("sphinx-build", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", ".", str(out))


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def tests(session: nox.Session, package: str) -> None:
    """Test one package in an environment that has no other of the four."""
    _install(session, package)
    with session.chdir(_folder(package)):
        session.run(*PYTEST, *session.posargs, env=ONE_THREAD)


@nox.session(venv_backend="uv")
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def lowest(session: nox.Session, package: str) -> None:
    """Test one package with the lowest versions that it allows of what it names itself."""
    _install(session, package, bounds=("--resolution", "lowest-direct"))
    with session.chdir(_folder(package)):
        session.run(*PYTEST, *session.posargs, env=ONE_THREAD)


def _missing_from(wheel: Path, package: str) -> list[str]:
    """Return the files under a package's src/ that its wheel has not."""
    source = _folder(package) / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    files = {file for file in files if not file.endswith(".pyc") and ".egg-info/" not in file}
    with zipfile.ZipFile(wheel) as archive:
        return sorted(files - set(archive.namelist()))


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def build(session: nox.Session, package: str) -> None:
    """Make one package's wheel and sdist into dist/; the wheel must hold every source and run the command line's tests.

    Nothing else tells an installed wheel from what `tests` has passed.
    """
    session.install("build")
    out = ROOT / "dist" / f"nash-{package}"
    shutil.rmtree(out, ignore_errors=True)
    installer = "uv" if session.venv_backend == "uv" else "pip"
    session.run("python", "-m", "build", f"--installer={installer}", "--outdir", str(out), str(_folder(package)))
    wheel = next(out.glob("*.whl"))
    if missing := _missing_from(wheel, package):
        session.error(f"{wheel.name} misses {', '.join(missing)}")
    _install(session, package, wheel=wheel)
    with session.chdir(_folder(package)):
        session.run("pytest", "-q", "tests/test_cli.py", *session.posargs)


@nox.session
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def install(session: nox.Session, package: str) -> None:
    """Make the environment of one command line: .nox/install-PACKAGE/bin/nash-PACKAGE."""
    _install(session, package, test=False)


def _executable(package: str) -> str:
    return str(ROOT / ".nox" / f"install-{package}" / "bin" / f"nash-{package}")


@nox.session(requires=[f"install({package})" for package in PACKAGES])
def integration(session: nox.Session) -> None:
    """Test the contract between the packages and the chain of their command lines."""
    session.install("pytest>=8", "pytest-xdist>=3.6", "jsonschema>=4.21")
    env = {f"NASH_{package.upper()}": _executable(package) for package in PACKAGES} | ONE_THREAD
    session.run(*PYTEST, "tests", *session.posargs, env=env)


@nox.session(requires=[f"install({package})" for package in PACKAGES])
def fuzz(session: nox.Session) -> None:
    """Run every command on broken files: `-- --cases 300` of each kind, by default 20; results in runs/fuzz."""
    for package in PACKAGES:
        os.environ[f"NASH_{package.upper()}"] = _executable(package)
    session.run(sys.executable, "fuzz/seeds.py", "runs/fuzz/seeds", external=True, env=ONE_THREAD)
    asked = session.posargs or ["--cases", "20"]
    for package in PACKAGES:
        python = str(Path(_executable(package)).with_name("python"))
        session.run(python, "fuzz/worker.py", package, "--seeds", "runs/fuzz/seeds",
                    "--out", f"runs/fuzz/{package}.jsonl", *asked, external=True, env=ONE_THREAD)  # fmt: skip


@nox.session(requires=[f"install({package})" for package in PACKAGES])
def faults(session: nox.Session) -> None:
    """Kill commands and fill their disks: a few a command, or as many as `-- kills --num 25` asks for."""
    env = {f"NASH_{package.upper()}": _executable(package) for package in PACKAGES} | ONE_THREAD
    session.run("python", "-m", "faults", *(session.posargs or ("all", "--num", "2")), env=env)


def _run(session: nox.Session, package: str, *arguments: str | Path) -> None:
    session.run(_executable(package), *map(str, arguments), env=ONE_THREAD, external=True)


@nox.session(requires=[f"install({package})" for package in PACKAGES])
def demo(session: nox.Session) -> None:
    """Search on scikit-learn's digits and compare with plain networks: a table, and a page in runs/demo/report."""
    shutil.rmtree(DEMO, ignore_errors=True)
    _run(session, "search", "run", "--backbone", "resnet8", "--variant", "v3", "--width", "4", "--input-size", "16",
         "--dataset", "digits", "--recipe", "quick", "--seed", "0", "--out", DEMO / "nash-width4")  # fmt: skip
    for width in ("4", "6", "8"):  # the same width, about the same multiplications, and twice the width
        _run(session, "search", "zoo", "resnet8", "--width", width, "--input-size", "16",
             "--out", DEMO / f"plain-width{width}" / "genotype.json")  # fmt: skip
    for genotype in sorted(DEMO.glob("*/genotype.json")):
        _build_and_evaluate(session, genotype)
    _run(session, "bench", "report", DEMO, "--out", DEMO / "report")


def _build_and_evaluate(session: nox.Session, genotype: Path) -> None:
    model, hardware = genotype.parent / "model" / "model.json", genotype.parent / "hardware" / "hardware.json"
    _run(session, "qat", "train", genotype, "--dataset", "digits", "--preset", "w2a2", "--recipe", "quick",
         "--seed", "0", "--out", model.parent)  # fmt: skip
    _run(session, "hw", "build", model, "--board", "Pynq-Z1", "--clock-mhz", "100", "--target-fps", "5000",
         "--out", hardware.parent)  # fmt: skip
    _run(session, "bench", "evaluate", model, "--dataset", "digits", "--hardware", hardware,
         "--out", genotype.parent / "benchmark.json")  # fmt: skip
