"""What one package writes is what the next one reads, and the little that stands twice stays the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import PACKAGES, Chain, Nash
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parent.parent
WRITERS = {"genotype": "search", "model": "qat", "hardware": "hw", "benchmark": "bench"}
READERS = [("qat", "genotype"), ("hw", "model"), ("bench", "model"), ("bench", "hardware")]
AROUND = {  # written beside the chain, for a search or bits that see the hardware
    "space": "search",
    "costs": "hw",
    "bitcosts": "hw",
    "sensitivity": "qat",
}
COPIES = {
    "base/atomic.py": PACKAGES,
    "base/errors.py": PACKAGES,
    "base/manifest.py": PACKAGES,
    "base/console.py": PACKAGES,
    "base/json_file.py": PACKAGES,
    "base/lock.py": PACKAGES,
    "base/quoting.py": PACKAGES,
    "base/binary_file.py": PACKAGES,
    "data/datasets.py": ("search", "qat", "bench"),
    "base/several.py": ("qat", "hw"),
}


def _source(package: str) -> Path:
    return ROOT / "packages" / f"nash-{package}" / "src" / f"nash_{package}"


def _schema(package: str, kind: str) -> dict[str, Any]:
    return json.loads((_source(package) / "schemas" / f"{kind}.json").read_text())


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_a_module_are_identical(name: str) -> None:
    texts = {(_source(package) / name).read_text() for package in COPIES[name]}
    assert len(texts) == 1


def test_search_leaves_alone_what_training_holds_out(python: Any) -> None:
    code = """
import numpy as np
from nash_{package}.data import {module}
from nash_{package}.data.datasets import Split
labels = np.random.default_rng(1).integers(0, 5, 400)
split = Split(name="s", images=np.arange(400), labels=labels, class_names=tuple("abcde"))
print({call}.tolist())
"""
    ours = code.format(package="search", module="holdout", call="holdout.held_out(split, 0.13)")
    theirs = code.format(package="qat", module="splits", call="splits.hold_out(split, 0.13)[1].images.indices")
    assert python("search", ours) == python("qat", theirs) != "[]\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_another(package: str) -> None:
    others = "|".join(f"nash_{other}" for other in PACKAGES if other != package)
    pattern = re.compile(rf"^\s*(from|import)\s+({others})\b", re.MULTILINE)
    folder = ROOT / "packages" / f"nash-{package}"
    reaching = [path for path in folder.rglob("*.py") if pattern.search(path.read_text())]
    assert reaching == []


@pytest.mark.parametrize("package", PACKAGES)
def test_environment_holds_one_package_only(package: str, python: Any) -> None:
    code = "from importlib.metadata import distributions as d; print(sorted({x.name for x in d()}))"
    installed = [name for name in eval(python(package, code)) if name.startswith("nash-")]
    assert installed == [f"nash-{package}"]


@pytest.mark.parametrize("package", PACKAGES)
def test_help_imports_nothing_heavy(package: str, python: Any) -> None:
    heavy = ["torch", "numpy", "onnx", "qonnx", "brevitas", "finn", "sklearn", "matplotlib", "jsonschema", "jinja2"]
    code = f"import sys, nash_{package}.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert python(package, code).strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_module_says_its_version_as_the_command_does(package: str, python: Any, nash: Nash) -> None:
    code = f"import runpy, sys; sys.argv[1:] = ['--version']; runpy.run_module('nash_{package}', run_name='__main__')"
    said = python(package, code)
    assert re.fullmatch(rf"nash-{package} \d+\.\d+\.\d+\n", said)
    assert said == nash(package, "--version").stdout


@pytest.mark.parametrize(("package", "begun"), [("search", "zo"), ("qat", "ev"), ("hw", "boa"), ("bench", "rep")])
def test_shell_completes_commands(package: str, begun: str, nash: Nash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"_NASH_{package.upper()}_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"nash-{package} {begun}")
    monkeypatch.setenv("COMP_CWORD", "1")
    (command,) = nash(package).stdout.split()
    assert command.startswith(begun)


def _objects(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in (schema, *schema.get("anyOf", [])) if "properties" in part]


def _unpromised(reads: dict[str, Any], writes: dict[str, Any], path: str = "$") -> list[str]:
    """Return the keys that a reader's schema asks for or describes and the writer's does not."""
    found = []
    for asked in _objects(reads):
        (promised,) = _objects(writes)
        required = set(asked.get("required", [])) - set(promised.get("required", []))
        found += [f"{path}.{key}: may be missing" for key in sorted(required)]
        for key, inner in asked["properties"].items():
            if key in promised["properties"]:
                found += _unpromised(inner, promised["properties"][key], f"{path}.{key}")
            else:
                found.append(f"{path}.{key}: is not described")
    if "items" in reads:
        found += _unpromised(reads["items"], writes["items"], f"{path}[]")
    return found


@pytest.mark.parametrize(("package", "kind"), [*READERS, ("hw", "space"), ("search", "costs"), ("qat", "bitcosts")])
def test_reader_asks_for_no_more_than_the_writer_promises(package: str, kind: str) -> None:
    promised = _schema((WRITERS | AROUND)[kind], kind)
    if kind == "model":  # it holds a whole genotype
        promised["properties"]["genotype"]["properties"]["copy"] = _schema("search", "genotype")
    assert _unpromised(_schema(package, kind), promised) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_schema_command_prints_the_schema_that_is_held(kind: str, nash: Nash) -> None:
    printed = json.loads(nash(WRITERS[kind], "schema").stdout)
    assert printed == _schema(WRITERS[kind], kind)
    Draft202012Validator.check_schema(printed)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", ["nash", "baseline"])
def test_written_manifest_keeps_its_schema(kind: str, name: str, chains: dict[str, Chain]) -> None:
    manifest = json.loads(chains[name].manifests()[kind].read_text())
    Draft202012Validator(_schema(WRITERS[kind], kind)).validate(manifest)
    assert manifest["created_by"]["package"] == f"nash-{WRITERS[kind]}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "manifests").glob("*.json")), ids=lambda path: path.stem)
def test_golden_manifest_is_still_read(path: Path, python: Any) -> None:
    kind = path.stem.partition("-")[0]
    for package in {WRITERS[kind], *(reader for reader, read in READERS if read == kind)}:
        load = f"manifest.load(pathlib.Path({str(path)!r}), {kind!r})"
        code = f"import pathlib, nash_{package}.base.manifest as manifest; print({load}['schema'])"
        assert python(package, code).strip() == json.loads(path.read_text())["schema"]


def _reading(package: str, manifest: Path, out: Path) -> list[str | Path]:
    """Return the arguments of a command of `package` that reads `manifest`."""
    kind = manifest.stem
    return {
        ("qat", "genotype"): ["export", manifest, "--preset", "w4a4", "--seed", "0", "--out", out],
        ("hw", "model"): ["build", manifest, "--board", "U250", "--target-fps", "100", "--out", out],
        ("bench", "model"): ["evaluate", manifest, "--dataset", "digits", "--out", out / "benchmark.json"],
        ("bench", "hardware"): ["evaluate", manifest.parent.parent / "model" / "model.json", "--dataset", "digits",
                                "--hardware", manifest, "--out", out / "benchmark.json"],
    }[package, kind]  # fmt: skip


@pytest.fixture
def rewritten(chains: dict[str, Chain], tmp_path: Path) -> Any:
    """Return a copy of a chain in which one manifest was changed."""

    def rewrite(kind: str, change: Any) -> Path:
        import shutil

        source = chains["nash"]
        shutil.copytree(source.folder, tmp_path / "chain", dirs_exist_ok=True)
        path = tmp_path / "chain" / source.manifests()[kind].relative_to(source.folder)
        path.write_text(change(path.read_text()))
        return path

    return rewrite


def _with_version(version: str) -> Any:
    return lambda text: re.sub(r'("schema": "nash\.\w+/)\d+\.\d+', rf"\g<1>{version}", text, count=1)


@pytest.mark.parametrize(("package", "kind"), READERS)
def test_unknown_major_version_is_refused(package: str, kind: str, rewritten: Any, nash: Nash, tmp_path: Path) -> None:
    path = rewritten(kind, _with_version("7.0"))
    outcome = nash(package, *_reading(package, path, tmp_path / "out"), code=3)
    assert "got version 7.0, expected 1.x" in outcome.stderr


@pytest.mark.parametrize(("package", "kind"), [("qat", "genotype"), ("bench", "hardware")])
def test_newer_minor_version_and_unknown_keys_are_read(
    package: str, kind: str, rewritten: Any, nash: Nash, tmp_path: Path
) -> None:
    def change(text: str) -> str:
        return json.dumps(json.loads(_with_version("1.99")(text)) | {"added_later": [1, 2]})

    outcome = nash(package, *_reading(package, rewritten(kind, change), tmp_path / "out"))
    assert "1.99 is newer" in outcome.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_older_minor_version_is_read_without_a_word(package: str, python: Any, chains: dict[str, Chain]) -> None:
    kind = next(kind for kind, writer in WRITERS.items() if writer == package)
    path = chains["nash"].manifests()[kind]
    code = f"""
import pathlib, warnings
import nash_{package}.base.manifest as manifest
warnings.simplefilter("error")
ours = manifest.schema({kind!r})
ours["properties"]["schema"]["x-version"] = "1.5"
manifest.schema = lambda kind: ours
print(manifest.load(pathlib.Path({str(path)!r}), {kind!r})["schema"])
"""
    version = json.loads(path.read_text())["schema"]
    assert python(package, code).strip() == version < f"nash.{kind}/1.5"
