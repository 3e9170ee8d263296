"""Files of strangers are refused in a sentence; what every reader refuses is tested in nash-search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nash_qat import recipe
from nash_qat.base.errors import IntegrityError, ManifestError
from nash_qat.quant.presets import QuantizationSpec
from nash_qat.train import checkpoint, runs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"epochs": 1e400}', "does not fit into 64 bits"),
        ('{"epochs": 9223372036854775808}', "does not fit into 64 bits"),
        ('{"epochs": 9223372036854775807}', "epochs: got 9223372036854775807, expected int 1"),
        ('{"epochs": 3.0}', "epochs: got 3.0, expected int"),
        ("7", "expected an object"),
    ],
)
def test_recipes_are_bounded(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=said):
        recipe.load(str(path))


@pytest.mark.parametrize("text", ["a = " + "[" * 5_000, "a = inf", "a = " + "9" * 5_000, "\0"])
def test_recipes_in_toml_are_bounded(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"recipe\.toml: "):
        recipe.load(str(path))


@pytest.mark.parametrize("values", [7, None, [], "w4a4"])
def test_a_quantization_that_is_no_object_is_refused(values: Any) -> None:
    with pytest.raises(ManifestError, match="expected an object of bit widths"):
        QuantizationSpec.from_dict(values)


def test_a_preset_that_is_no_name_is_refused() -> None:
    bits = dict.fromkeys(("weight_bits", "nas_weight_bits", "act_bits", "state_bits"), 4)
    with pytest.raises(ManifestError, match=r"quantization\.preset: got \[\], expected a name or null"):
        QuantizationSpec.from_dict(bits | {"preset": []})
    with pytest.raises(ManifestError, match=r"quantization\.act_bits: got 3\.0, expected 1\.\.8"):
        QuantizationSpec.from_dict(bits | {"act_bits": 3.0})


STATE = {
    "settings": {
        "genotype_sha256": "", "quantization": {}, "dataset": "digits", "recipe_name": "quick", "recipe": {},
        "epochs": 1, "float_epochs": 0, "seed": 0,
    },
    "run": {"epoch": 1, "step": 0, "is_calibrated": True, "history": [], "class_names": ["0"]},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["run"].update(step=-1),
        lambda state: state["run"].update(epoch="1"),
        lambda state: state["run"].update(history=[[]]),
        lambda state: state["run"].update(accuracy=[1]),
        lambda state: state["run"].update(unknown=1),
        lambda state: state["run"].update(class_names=[1]),
        lambda state: state["settings"].pop("quantization"),
        lambda state: state.pop("run"),
    ],
)
def test_a_checkpoint_with_another_state_is_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    state = json.loads(json.dumps(STATE))
    checkpoint.save(tmp_path / runs.CHECKPOINT, parts={}, state=state)
    assert runs.read_checkpoint(tmp_path).state == state
    change(state)
    checkpoint.save(tmp_path / runs.CHECKPOINT, parts={}, state=state)
    with pytest.raises(IntegrityError, match=r"checkpoint\.safetensors: .*; restart without --resume"):
        runs.read_checkpoint(tmp_path)


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    checkpoint.load_into(network, dict(network.state_dict()), tmp_path)
    for tensors, said in (
        ({"weight": torch.ones(3, 2)}, "are not this network's"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, "are not this network's"),
        ({"weight": torch.full((3, 2), torch.nan), "bias": torch.ones(3)}, "weight.*not finite"),
    ):
        with pytest.raises(IntegrityError, match=said):
            checkpoint.load_into(network, tensors, tmp_path / "checkpoint.safetensors")
