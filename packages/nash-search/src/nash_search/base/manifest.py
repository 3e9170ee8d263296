"""Read and write the JSON manifests that link the packages.

A manifest names its kind and version in ``schema`` ("nash.genotype/1.0"), where it came from in
``inputs`` and the files beside it in ``artifacts``. Paths are relative to the manifest and stay in its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata, resources
from itertools import islice
from pathlib import Path
from typing import Any

from . import json_file
from .atomic import atomic_path as atomic_path
from .errors import IntegrityError, ManifestError
from .quoting import brief

ROOT = __name__.partition(".")[0]
PACKAGE = ROOT.replace("_", "-")
_SCHEMA_NAME = re.compile(r"nash\.([a-z]{1,40})/(\d{1,6})\.(\d{1,6})", re.ASCII)
_MAX_PROBLEMS = 8
_MAX_LOOKED_AT = 100


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) this package holds manifests of `kind` to."""
    text = resources.files(ROOT).joinpath(f"schemas/{kind}.json").read_text("utf-8")
    return json.loads(text)


def load(path: Path, kind: str) -> dict[str, Any]:
    """Read the manifest `path` and check it against this package's schema of `kind`.

    Unknown fields are kept; a newer minor version only warns.

    Raises:
        ManifestError: unreadable, not JSON, another kind, an unknown major version, or breaking the schema.
    """
    manifest = read_object(path)
    _check_version(path, manifest, kind)
    found = problems(manifest, kind)
    if found:
        raise ManifestError(joined(path, found, f"compare with the {kind} schema ('nash-x schema' of its writer)"))
    return manifest


def problems(value: Any, kind: str) -> list[str]:
    """Return what breaks the schema of `kind`, each as "where: got, expected"; at most 100."""
    return [_problem(error) for error in islice(validator(kind).iter_errors(value), _MAX_LOOKED_AT)]


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ManifestError: it cannot be read, or holds something else.
    """
    try:
        manifest = json_file.read(path)
    except json_file.Unreadable as error:
        raise ManifestError(f"{path}: {error}; check the path, or write it anew") from error
    if not isinstance(manifest, dict):
        raise ManifestError(f"{path}: got a JSON {type(manifest).__name__}, expected an object; is it a manifest?")
    return manifest


def _check_version(path: Path, manifest: dict[str, Any], kind: str) -> None:
    expected = schema(kind)["properties"]["schema"]["x-version"]
    match = _SCHEMA_NAME.fullmatch(str(manifest.get("schema")))
    if match is None:
        got = manifest.get("schema")
        raise ManifestError(f"{path}: schema: got {brief(got)}, expected 'nash.{kind}/{expected}'; is it a manifest?")
    found, major, minor = match[1], int(match[2]), int(match[3])
    if found != kind:
        raise ManifestError(f"{path}: schema: got a {found} manifest, expected a {kind} manifest; pass the {kind} file")
    known_major, known_minor = (int(part) for part in expected.split("."))
    if major != known_major:
        raise ManifestError(
            f"{path}: schema: got version {major}.{minor}, expected {known_major}.x; "
            f"install the {PACKAGE} release that reads it"
        )
    if minor > known_minor:
        warnings.warn(
            f"{path}: version {major}.{minor} is newer than {expected}; unknown fields are kept", stacklevel=3
        )


@cache
def validator(kind: str) -> Any:
    """Return the validator of a schema; unlike JSON Schema's own, it takes no 3.0 for an integer."""
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    strict = validators.extend(Draft202012Validator, {"enum": _enum}, type_checker=types)
    return strict(schema(kind))


def _is_integer(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _enum(validator: Any, values: list[Any], value: Any, schema: dict[str, Any]) -> Iterator[Any]:
    from jsonschema import ValidationError

    if not any(type(each) is type(value) and each == value for each in values):
        yield ValidationError(f"{value!r} is not one of {values!r}")


def _problem(error: Any) -> str:
    path = error.json_path.removeprefix("$").removeprefix(".") or "(top)"
    if error.validator == "required":
        missing = error.message.split("'")[1]  # there is one error a key, which only its message names
        return f"{path}: misses the key '{missing}'".removeprefix("(top): ")
    if error.validator in ("anyOf", "oneOf") and error.context:
        expected = " or ".join(dict.fromkeys(_expected(inner) for inner in error.context))
    else:
        expected = _expected(error)
    return f"{path}: got {brief(error.instance)}, expected {expected}"


def _expected(error: Any) -> str:
    match error.validator:
        case "enum":
            return "one of " + ", ".join(map(str, error.validator_value))
        case "type":
            kinds = error.validator_value
            return kinds if isinstance(kinds, str) else " or ".join(kinds)
        case "minimum":
            return f"at least {error.validator_value}"
        case "maximum":
            return f"at most {error.validator_value}"
        case _:
            return f"{error.validator} {error.validator_value}"


def joined(path: Path, found: list[str], next_step: str) -> str:
    """Return the message that names the first problems of a file and what to do next."""
    shown = found[:_MAX_PROBLEMS]
    more = f" | and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    return f"{path}: {' | '.join(shown)}{more}; {next_step}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        IntegrityError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}); restore it or write it anew") from error


def resolve(manifest_path: Path, relative: str, sha256: str) -> Path:
    """Return the file that a manifest names, after checking that it stays in the manifest's folder and is unchanged.

    Raises:
        IntegrityError: the path leaves the folder, the file is missing, or its hash differs.
    """
    folder = manifest_path.resolve().parent
    if "\0" in relative:
        raise IntegrityError(f"{manifest_path}: path {brief(relative)} has a NUL byte; correct it, or write it anew")
    path = (folder / relative).resolve()
    if Path(relative).is_absolute() or not path.is_relative_to(folder):
        raise IntegrityError(
            f"{manifest_path}: path {brief(relative)} leaves the manifest's folder; keep its files beside it"
        )
    got = file_sha256(path)
    if got != sha256:
        raise IntegrityError(
            f"{path}: sha256: got {got[:12]}..., expected {sha256[:12]}... as {manifest_path.name} says; "
            "it has changed since: write both anew"
        )
    return path


def header(
    kind: str, *, inputs: Iterable[dict[str, Any]] = (), artifacts: Iterable[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return the keys every manifest starts with."""
    version = schema(kind)["properties"]["schema"]["x-version"]
    return {
        "schema": f"nash.{kind}/{version}",
        "created_by": {"package": PACKAGE, "version": metadata.version(PACKAGE)},
        "inputs": list(inputs),
        "artifacts": list(artifacts),
    }


def input_record(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance entry of a manifest that was read: its name, hash and schema."""
    return {"path": path.name, "sha256": file_sha256(path), "schema": manifest["schema"]}


def artifact_record(path: Path, folder: Path, role: str) -> dict[str, Any]:
    """Return the entry of a file that lies in the manifest's `folder`."""
    relative = path.resolve().relative_to(folder.resolve()).as_posix()
    return {"path": relative, "sha256": file_sha256(path), "bytes": path.stat().st_size, "role": role}


def save(path: Path, manifest: dict[str, Any], kind: str) -> None:
    """Validate and write a manifest atomically; a NaN or infinity in it is a bug.

    Raises:
        OutputError: the file cannot be written.
    """
    found = problems(manifest, kind)
    assert not found, f"{PACKAGE} made a {kind} manifest that breaks its own schema: {found}"
    text = json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
