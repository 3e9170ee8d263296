from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from conftest import Outcome
from networks import parsed, written
from onnx import numpy_helper

from nash_qat.base import manifest
from nash_qat.base.errors import OutputError, VerificationError
from nash_qat.export import exact, execute
from nash_qat.export import files as export
from nash_qat.network import calibrate
from nash_qat.network.network import Network
from nash_qat.quant import quantizers
from nash_qat.quant.presets import preset

CASES = [(name, bits) for name in networks.ALL for bits in ("w4a4", "w1a2", "w8a8")]
CASES += [("nash", bits) for bits in ("v1", "v3", "v4", "resnet34-v3", "w1a1", "w2a3")]


CASES += [
    (name, f"{bits} learned") for name in ("nash", "strided") for bits in ("w1a1", "w2a2", "w3a3", "w4a4", "w8a8")
]


def _exported(tree: dict, bits: str, folder: Path) -> tuple[Network, dict]:
    bits, _, weight_scale = bits.partition(" ")
    spec = dataclasses.replace(preset(bits), weight_scale=weight_scale or "statistics")
    network = export.untrained(parsed(tree), spec, seed=0)
    pictures = calibrate.noise_pictures(12, network.genotype.input_shape, seed=1)
    provenance = export.Provenance(genotype_path=written(tree, folder))
    return network, export.export(network, pictures, folder / "out", provenance)


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_executed_file_is_the_network(tmp_path: Path, name: str, bits: str) -> None:
    network, model = _exported(networks.ALL[name], bits, tmp_path)
    golden = np.load(tmp_path / "out" / "golden.npz")
    pictures, expected = golden["input"], golden["output"]
    assert pictures.dtype == np.uint8
    assert expected.dtype == np.float32
    assert expected.shape == (8, 10)
    path = tmp_path / "out" / "model.onnx"
    np.testing.assert_allclose(exact.execute(path, pictures), expected, rtol=1e-6, atol=1e-6)
    logits = execute.Runner(path)(pictures)
    x = calibrate.to_input(torch.from_numpy(pictures))
    largest = np.abs(expected).max()
    clean = np.abs(logits - expected).max(axis=1) <= 1e-5 * largest
    assert clean.sum() >= min(8, 12 - model["onnx"]["agreement"]["num_flips"])
    torch_logits = torch.cat([network(x[i : i + 1]) for i in range(len(x))]).detach().numpy()
    assert (np.abs(torch_logits - expected).max(axis=1) <= 1e-5 * largest).sum() >= 6  # float32 may flip one


def test_qonnx_itself_computes_the_same(tmp_path: Path) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    _exported(networks.NASH, "w1a1", tmp_path)
    golden = np.load(tmp_path / "out" / "golden.npz")
    model = ModelWrapper(str(tmp_path / "out" / "model.onnx"))
    x = golden["input"][:1] * np.float32(1 / 255)
    (logits,) = execute_onnx(model, {model.graph.input[0].name: x}).values()
    np.testing.assert_allclose(logits, golden["output"][:1], rtol=1e-4, atol=1e-5)


def test_file_has_the_form_that_readers_rely_on(tmp_path: Path) -> None:
    _exported(networks.STRIDED_SIDE_OPS, "w1a1", tmp_path)
    model = onnx.load(str(tmp_path / "out" / "model.onnx"), load_external_data=False)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == export.OPSET
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 9, 9]
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [1, 10]
    first = graph.node[0]
    assert first.op_type == "Quant"
    assert first.input[0] == graph.input[0].name
    np.testing.assert_allclose(constants[first.input[1]], 1 / 255, rtol=1e-6)
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("Flatten") == 1
    assert kinds.count("GlobalAveragePool") == 1
    assert not {"Reshape", "Slice", "Pad", "Cast"} & set(kinds)
    for node in graph.node:
        if node.op_type == "BipolarQuant":
            assert node.input[0] in constants, "only weights are bipolar"
        if node.op_type == "Conv":
            assert len(node.input) == 2, "no bias"


def test_both_sides_of_a_quantized_addition_have_one_scale(tmp_path: Path) -> None:
    _exported(networks.NASH, "v3", tmp_path)
    graph = onnx.load(str(tmp_path / "out" / "model.onnx")).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}

    def scale(name: str) -> float:
        node = producers[name]
        return scale(node.input[0]) if node.op_type == "Add" else float(constants[node.input[1]])

    joins = [node for node in graph.node if node.op_type == "Add"]
    assert joins
    for node in joins:
        assert scale(node.input[0]) == scale(node.input[1])


def test_weights_in_the_file_are_multiples_of_their_scale(tmp_path: Path) -> None:
    _exported(networks.NASH, "w8a8", tmp_path)
    graph = onnx.load(str(tmp_path / "out" / "model.onnx")).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [node for node in graph.node if node.op_type == "Quant" and node.input[0] in constants]
    assert weights
    for node in weights:
        steps = constants[node.input[0]] / constants[node.input[1]]
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)


def test_manifest_describes_the_files(tmp_path: Path) -> None:
    network, model = _exported(networks.NASH, "v3", tmp_path)
    path = tmp_path / "out" / "model.json"
    manifest.save(path, model, "model")
    loaded = manifest.load(path, "model")
    assert manifest.resolve(path, loaded["onnx"]["path"], loaded["onnx"]["sha256"]).name == "model.onnx"
    assert {record["role"] for record in loaded["artifacts"]} == {"model", "golden"}
    assert loaded["genotype"]["copy"] == json.loads((tmp_path / "genotype.json").read_text())
    assert loaded["genotype"]["sha256"] == loaded["inputs"][0]["sha256"]
    assert loaded["input"]["shape"] == [1, 1, 8, 8]
    assert loaded["quantization"] == preset("v3").to_dict() | {"resolved": network.bits}
    assert loaded["accuracy"] is None
    assert loaded["training"] is None
    assert loaded["onnx"]["agreement"]["exact_error"] < 1e-9
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["golden.npz", "model.json", "model.onnx"]


def test_export_is_reproducible(tmp_path: Path) -> None:
    hashes = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        _, model = _exported(networks.NASH, "w4a4", folder)
        hashes.append((model["onnx"]["sha256"], np.load(folder / "out" / "golden.npz")["output"].tobytes()))
    assert hashes[0] == hashes[1]


def test_wrong_file_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snap = execute.snap_weights

    def damage(model: onnx.ModelProto) -> None:
        snap(model)
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
        values = numpy_helper.to_array(tensor).copy()
        values[0] = -values[0]
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    monkeypatch.setattr(execute, "snap_weights", damage)
    with pytest.raises(VerificationError, match=r"model\.onnx: got logits .* expected at most 1e-09"):
        _exported(networks.NASH, "w4a4", tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_dead_network_is_refused(tmp_path: Path) -> None:
    network = export.untrained(parsed(networks.BASELINE), preset("w4a4"), seed=0)
    with torch.no_grad():
        network.classifier.weight.zero_()
    provenance = export.Provenance(genotype_path=written(networks.BASELINE, tmp_path))
    with pytest.raises(VerificationError, match="all zero"):
        export.export(network, calibrate.noise_pictures(8, (1, 8, 8), seed=0), tmp_path / "out", provenance)


def test_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        export.make_folder(tmp_path / "file" / "out")


def test_noise_does_not_touch_golden_samples(tmp_path: Path) -> None:
    network, _ = _exported(networks.NASH, "w4a4", tmp_path)
    golden = np.load(tmp_path / "out" / "golden.npz")
    again = export.reference_logits(network, torch.from_numpy(golden["input"]))
    assert np.array_equal(again.astype(np.float32), golden["output"])
    assert quantizers.INPUT_SCALE == 1 / 255


@pytest.mark.parametrize("name", ["w1a2", "w2a2", "w4a4", "w8a8", "v4"])
def test_qcdq_runs_in_onnxruntime_as_it_is(run: Callable[..., Outcome], tmp_path: Path, name: str) -> None:
    path = networks.written(networks.STRIDED_SIDE_OPS, tmp_path)
    assert run("export", path, "--preset", name, "--qcdq", "--out", tmp_path / "m").code == 0
    model = manifest.load(tmp_path / "m" / "model.json", "model")
    (record,) = [entry for entry in model["artifacts"] if entry["role"] == "qcdq"]
    qcdq = tmp_path / "m" / record["path"]
    assert manifest.file_sha256(qcdq) == record["sha256"]
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with np.load(tmp_path / "m" / "golden.npz") as golden:
        inputs, expected = golden["input"].astype(np.float32) * np.float32(1 / 255), golden["output"]
    errors = {}
    for way, chosen in (("exact", options), ("own 8-bit kernels", None)):
        session = ort.InferenceSession(str(qcdq), chosen, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"input": inputs})  # a batch of eight
        errors[way] = np.abs(logits - expected).max(axis=1) / np.abs(expected).max()
    assert (errors["exact"] < 1e-5).sum() >= 7  # float32 may flip one
    assert errors["own 8-bit kernels"].max() < 0.1
    graph = onnx.load(str(qcdq)).graph
    assert {opset.domain for opset in onnx.load(str(qcdq)).opset_import} <= {"", "ai.onnx"}
    integers = [tensor for tensor in graph.initializer if tensor.name.endswith("/integers")]
    assert len(integers) == sum(node.op_type in ("Conv", "MatMul", "Gemm") for node in graph.node)
    assert {tensor.data_type for tensor in integers} == {onnx.TensorProto.INT8}
