"""Bad input is met at the door: one line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import PACKAGES, Chain, Nash, Outcome


def _assert_one_clear_line(outcome: Outcome, out: Path) -> None:
    *before, last = outcome.stderr.splitlines()
    assert last.startswith("error: ")
    assert all(re.match(r"\[\d+/\d+\] ", line) for line in before), outcome.stderr  # steps that were done by then
    assert not out.exists() or not any(out.rglob("*.*")), list(out.rglob("*"))


@pytest.fixture
def folder(chains: dict[str, Chain], tmp_path: Path) -> Path:
    """Return a copy of a finished chain that a test may spoil."""
    return Path(shutil.copytree(chains["nash"].folder, tmp_path / "chain"))


def _commands(folder: Path, out: Path) -> dict[str, list[str | Path]]:
    return {
        "qat": ["export", folder / "genotype.json", "--preset", "w4a4", "--seed", "0", "--out", out],
        "hw": ["build", folder / "model/model.json", "--board", "U250", "--target-fps", "100", "--out", out],
        "bench": ["evaluate", folder / "model/model.json", "--dataset", "digits", "--out", out / "benchmark.json"],
    }


MANIFESTS = {"qat": "genotype.json", "hw": "model/model.json", "bench": "model/model.json"}


@pytest.mark.parametrize("package", MANIFESTS)
@pytest.mark.parametrize("text", ['{"schema": "nash', "[]", "\x00", '{"schema": "nash.model/1.0"}', '{"schema": NaN}'])
def test_malformed_manifest_is_refused(package: str, text: str, folder: Path, nash: Nash, tmp_path: Path) -> None:
    (folder / MANIFESTS[package]).write_text(text)
    outcome = nash(package, *_commands(folder, tmp_path / "out")[package], code=3)
    _assert_one_clear_line(outcome, tmp_path / "out")
    assert MANIFESTS[package] in outcome.stderr


@pytest.mark.parametrize("package", ["hw", "bench"])
@pytest.mark.parametrize("file", ["model.onnx", "golden.npz"])
def test_changed_file_is_refused(package: str, file: str, folder: Path, nash: Nash, tmp_path: Path) -> None:
    path = folder / "model" / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    outcome = nash(package, *_commands(folder, tmp_path / "out")[package], code=4)
    _assert_one_clear_line(outcome, tmp_path / "out")
    assert "sha256: got" in outcome.stderr


def _edit(path: Path, change: Any) -> None:
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("package", ["hw", "bench"])
@pytest.mark.parametrize("elsewhere", ["../genotype.json", "/etc/hostname"])
def test_path_that_leaves_its_folder_is_refused(
    package: str, elsewhere: str, folder: Path, nash: Nash, tmp_path: Path
) -> None:
    _edit(folder / "model/model.json", lambda manifest: manifest["onnx"].update(path=elsewhere))
    outcome = nash(package, *_commands(folder, tmp_path / "out")[package], code=4)
    _assert_one_clear_line(outcome, tmp_path / "out")
    assert "leaves the manifest's folder" in outcome.stderr


@pytest.mark.parametrize("package", ["hw", "bench"])
def test_truncated_onnx_of_the_right_hash_is_refused(package: str, folder: Path, nash: Nash, tmp_path: Path) -> None:
    import hashlib

    path = folder / "model/model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    _edit(folder / "model/model.json", lambda manifest: manifest["onnx"].update(sha256=sha256))
    outcome = nash(package, *_commands(folder, tmp_path / "out")[package], code=4)
    _assert_one_clear_line(outcome, tmp_path / "out")
    assert "model.onnx" in outcome.stderr


def test_unknown_board_is_refused_with_a_hint(folder: Path, nash: Nash, tmp_path: Path) -> None:
    command = ["build", folder / "model/model.json", "--board", "U25O", "--target-fps", "1", "--out", tmp_path / "out"]
    outcome = nash("hw", *command, code=2)
    assert "got 'U25O'" in outcome.stderr
    assert "did you mean U250?" in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("until", "left", "told"), [("hdl", "hdl/SHA256SUMS", "Vitis"), ("bitfile", "finn/build.yaml", "finn build")]
)
@pytest.mark.skipif(shutil.which("vivado") is not None, reason="Vivado is installed here: nothing is left to do")
def test_without_vivado_the_rest_is_done_and_told(
    until: str, left: str, told: str, folder: Path, nash: Nash, tmp_path: Path
) -> None:
    outcome = nash("hw", *_commands(folder, tmp_path / "out")["hw"], "--until", until)
    assert (tmp_path / "out" / left).stat().st_size
    assert told in outcome.stdout
    hardware = json.loads((tmp_path / "out" / "hardware.json").read_text())
    assert hardware["measured"] is None


@pytest.mark.parametrize("package", PACKAGES)
def test_wrong_option_is_a_usage_error(package: str, nash: Nash) -> None:
    outcome = nash(package, "schema", "--no-such-option", code=2)
    assert "--no-such-option" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("package", MANIFESTS)
def test_json_reports_an_error_on_stdout_too(package: str, folder: Path, nash: Nash, tmp_path: Path) -> None:
    (folder / MANIFESTS[package]).write_text("{")
    outcome = nash(package, *_commands(folder, tmp_path / "out")[package], "--json", code=3)
    assert outcome.result["error"]["exit_code"] == 3
    assert outcome.result["error"]["kind"] == "manifest"
