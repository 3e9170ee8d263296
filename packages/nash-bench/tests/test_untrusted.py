"""Files of strangers are refused in a sentence, or read; what every reader refuses is tested in nash-search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nash_bench.base import binary_file, json_file
from nash_bench.base.errors import ManifestError
from nash_bench.sweep.plan import read_plan

ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALIASES, "more than 2,000,000 values"),
        ("backbone: " + "[" * 5_000, "not valid YAML"),
        ("backbone: [resnet8]\nsearch_epochs: " + "9" * 5_000, "(not valid YAML|expected at most 64)"),
        ("backbone: [resnet8]\nsearch_epochs: .inf", "inf is not a number"),
        ("backbone: [resnet8]\nsearch_epochs: 3.0", "search_epochs: 3.0 is not of type 'integer'"),
        ('backbone: [resnet8]\n"\\e]0;owned\\a": 1', "unknown key"),
    ],
)
def test_grids_are_bounded(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=said) as caught:
        read_plan(path)
    assert len(str(caught.value)) < 1_000


def _model(tmp_path: Path, change: Callable[[Any], None]) -> Path:
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "weight")
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 2), ("y", 3))]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight]))
    change(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_elsewhere, "lies in another file"),
        (lambda model: model.graph.initializer[0].dims.append(2**40), "is not what its shape"),
        (lambda model: model.graph.initializer[0].dims.__setitem__(0, -2), "has the shape"),
        (lambda model: setattr(model.graph.initializer[0], "data_type", 99), "is not what its shape"),
        (lambda model: setattr(model.graph.initializer[0], "raw_data", b"\xff" * 24), "holds NaN or infinity"),
        (lambda model: setattr(model.graph.node[0], "op_type", ""), "has no operator"),
        (lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40), "the shape"),
    ],
)
def test_a_graph_that_lies_is_refused(change: Callable[[Any], None], said: str, tmp_path: Path) -> None:
    assert binary_file.onnx_model(_model(tmp_path, lambda model: None)).graph.node
    with pytest.raises(json_file.Unreadable, match=said):
        binary_file.onnx_model(_model(tmp_path, change))


def test_weights_beside_a_model_stay_in_its_folder(tmp_path: Path) -> None:
    path = _model(tmp_path, lambda model: None)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert binary_file.onnx_model(path, is_alone=False).graph.initializer[0].raw_data
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(json_file.Unreadable, match="has no 24 bytes"):
        binary_file.onnx_model(path, is_alone=False)
    for location in ("../other", "/etc/passwd", "a\0b", ""):
        broken = onnx.load(path, load_external_data=False)
        broken.graph.initializer[0].external_data[0].value = location
        path.write_bytes(broken.SerializeToString())
        with pytest.raises(json_file.Unreadable, match="is no file beside the model"):
            binary_file.onnx_model(path, is_alone=False)


def test_arrays_that_lie_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, input=np.ones((2, 3), np.uint8), output=np.ones((2, 10), np.float32))
    assert set(binary_file.arrays(path, "input", optional=("output", "more"))) == {"input", "output"}
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(2, 10)", b"(2**99)"))
    with pytest.raises(json_file.Unreadable):
        binary_file.arrays(path, "input", "output")
    np.savez(path, input=np.array([{}], dtype=object))
    with pytest.raises(json_file.Unreadable, match=r"input (holds object|cannot|Cannot)|not a whole npz"):
        binary_file.arrays(path, "input")
    np.savez(path, other=np.ones(1))
    with pytest.raises(json_file.Unreadable, match="misses the array input"):
        binary_file.arrays(path, "input")
    path.write_bytes(whole[:100])
    with pytest.raises(json_file.Unreadable, match="not a whole npz"):
        binary_file.arrays(path, "input")
