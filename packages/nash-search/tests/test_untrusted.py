"""What a file of a stranger may do: nothing but be read or be refused in a sentence (base/json_file.py, base/lock.py).

The modules are the same in all four packages (tests/test_contract.py of the repository), so they are tested here alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import run_command

from nash_search.base import json_file, lock, manifest, quoting
from nash_search.base.errors import IntegrityError, ManifestError, OutputError, UsageError
from nash_search.genotype import genotype, zoo
from nash_search.search import checkpoint, recipe

OWNED = "\u001b]0;owned\u0007"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested more than 64 deep"),
        (b"9" * 5_000, "does not fit into 64 bits"),
        (b"9223372036854775808", "does not fit into 64 bits"),
        (b"[1e400]", "does not fit into 64 bits"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": 2, "a": 1}', 'the key "a" stands twice'),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": 1', "line 1, column 8"),
        (b"", "line 1, column 1"),
        (b" " * (json_file.MAX_BYTES + 1), "more than 16 MiB"),
        (b"[" + b"0," * json_file.MAX_VALUES + b"0]", "more than 2,000,000 values"),
    ],
)
def test_what_json_leaves_open_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(json_file.Unreadable) as caught:
        json_file.read(path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


def test_plain_json_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, -(2**63) + 1, "ä", None, True], "b": {}}
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(value).encode())
    assert json_file.read(path) == value


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("a\0b"), Path("/"), Path("absent")])
def test_what_is_no_file_ends(path: Path) -> None:
    with pytest.raises(json_file.Unreadable):
        json_file.read(path)


def test_values_of_other_notations_are_bounded() -> None:
    bomb: list[object] = [0]
    for _ in range(40):
        bomb = [bomb] * 10  # what aliases of YAML make
    with pytest.raises(json_file.Unreadable, match="more than 2,000,000 values"):
        json_file.check(bomb)
    with pytest.raises(json_file.Unreadable, match="expected at most 64"):
        json_file.check({"epochs": 1 << 80})
    with pytest.raises(json_file.Unreadable, match="inf"):
        json_file.check([float("inf")])


def test_a_version_of_5000_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"schema": f"nash.genotype/{'1' * 5000}.0"}))
    with pytest.raises(ManifestError) as caught:
        manifest.load(path, "genotype")
    assert len(str(caught.value)) < 400
    assert "5,018 characters" in str(caught.value)


def test_a_whole_number_with_a_point_is_no_integer() -> None:
    problems = manifest.problems({"name": "x", "epochs": 3.0}, "recipe")
    assert "epochs: got 3.0, expected integer" in problems


def test_an_object_of_a_million_wrong_keys_ends_soon() -> None:
    assert len(manifest.problems([0] * 1_000_000, "recipe")) <= 100


def test_a_path_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="NUL"):
        manifest.resolve(tmp_path / "genotype.json", "a\0b", "0" * 64)


def test_messages_are_short_and_cannot_steer_a_terminal() -> None:
    line = quoting.one_line(f"a.json: name: got {OWNED}\u202e{'x' * 10_000_000}; write it anew")
    assert len(line) <= quoting.MAX_LINE
    assert line.startswith("a.json: name: got \\u001b]0;owned\\u0007\\u202e")
    assert line.endswith("; write it anew")
    assert "10,000,0" in line
    assert quoting.laid_out(f"two\nlines\t{OWNED}") == "two\nlines\t\\u001b]0;owned\\u0007"
    assert quoting.brief("x" * 10_000_000, 200).endswith("x... 10,000,002 characters")


def test_one_command_at_a_time_in_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    code = f"""
import sys
from pathlib import Path
from nash_search.base import lock
with lock.held(Path({str(out)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(OutputError) as caught, lock.held(out):
        pytest.fail("the folder was entered twice")
    named = f"process {other.pid} (" if Path("/proc/locks").exists() else "works in this folder"
    assert named in str(caught.value) or "another process" in str(caught.value)
    other.kill()
    other.wait()
    with lock.held(out):  # nothing of the killed one stands in the way
        (out / "result").write_text("")
    assert sorted(os.listdir(out)) == ["result"]


def test_a_folder_made_for_nothing_vanishes(tmp_path: Path) -> None:
    with pytest.raises(ManifestError), lock.held(tmp_path / "a" / "b"):
        raise ManifestError("broken")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "a\0b"):
        with pytest.raises(OutputError, match="choose another --out"), lock.held(path):
            pytest.fail("it was entered")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"epochs": 1e400}', '{"epochs": 9223372036854775807}', '{"epochs": 3.0}', "7", "", "\0"]
)
def test_recipes_are_bounded(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"recipe\.json: ") as caught:
        recipe.load(str(path))
    assert len(str(caught.value)) < 500


CHECKPOINT = {
    "format": "nash-search checkpoint 1",
    "settings": {},
    "state": {"step": 1, "history": [{"epoch": 1, "step": 1, "accuracy": 10.0}], "sums": {}},
    "tensors": {"path": "t.safetensors", "sha256": "0"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"settings": []},
        {"state": {"step": -1, "history": [], "sums": {}}},
        {"state": {"step": 1, "history": {"0": []}, "sums": {}}},
        {"state": {"step": 1, "history": [[]], "sums": {}}},
        {"state": {"step": 1, "history": [{"epoch": 1, "step": 1, "accuracy": []}], "sums": {}}},
        {"state": {"step": 1, "history": [], "sums": {"weight_loss": "1"}}},
        {"tensors": {"path": 1, "sha256": "0"}},
    ],
)
def test_a_checkpoint_with_another_state_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / checkpoint.STATE_FILE).write_text(json.dumps(CHECKPOINT | change))
    with pytest.raises(IntegrityError, match=r"checkpoint\.json: .*start anew"):
        checkpoint.read(tmp_path)


@pytest.mark.usefixtures("handlers_as_before")
def test_a_name_cannot_steer_a_terminal_or_break_a_drawing(tmp_path: Path) -> None:
    found = replace(zoo.build("resnet18-v3", width=4), name=f"{OWNED}<b>")
    genotype.save(found, tmp_path / "g.json")
    outcome = run_command("show", tmp_path / "g.json", "--svg", tmp_path / "g.svg")
    assert outcome.code == 0
    assert "\u001b" not in outcome.text
    assert "\\u001b]0;owned" in outcome.stdout
    ElementTree.parse(tmp_path / "g.svg")
