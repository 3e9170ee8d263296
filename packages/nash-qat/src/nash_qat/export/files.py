"""Write a network as model.json, model.onnx (QONNX) and golden.npz, and prove that they agree.

Shapes: pictures (N, C, H, W) uint8, logits (N, K). The golden outputs are those of the network run picture by picture
in float64 with exactly the scales and weights of the file.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base import manifest as manifests
from ..base.errors import OutputError, VerificationError
from ..data.datasets import Preprocessing, Split
from ..network import calibrate, complexity, frozen
from ..network.genotype import Genotype
from ..network.network import Network
from ..quant import quantizers
from ..quant.presets import RESOLVED
from . import exact, execute

OPSET = 13
NUM_GOLDEN = 8
_NUM_CANDIDATES = 32
_EXACT_TOLERANCE = 1e-9  # of the largest logit, in float64
_INPUT_ROLES = {
    "Quant": ("weight", "scale", "zero_point", "bit_width"),
    "BipolarQuant": ("weight", "scale"),
    "Mul": ("input", "factor"),
    "BatchNormalization": ("input", "gamma", "beta", "mean", "variance"),
}
_TOLERANCE = 1e-5  # of the largest logit, in float32


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How executions of the file compare with the float64 reference, errors relative to the largest logit.

    In float64 they agree to the last digits. In float32 a sample differs where a value lies so near a rounding
    threshold that noise carries it over: a flip.
    """

    num_samples: int
    exact_error: float
    num_flips: int
    max_flip_error: float


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a model manifest says about where the network came from."""

    genotype_path: Path
    class_names: tuple[str, ...] | None = None
    training: dict[str, Any] | None = None


def untrained(genotype: Genotype, spec: Any, *, seed: int) -> Network:
    """Return a network with seeded weights, calibrated on seeded noise so that every layer is alive."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(genotype, spec)
    calibrate.randomize_batch_norm(network, seed=seed)
    pictures = calibrate.noise_pictures(64, genotype.input_shape, seed=seed)
    calibrate.calibrate(network, pictures)
    calibrate.estimate_statistics(network, [pictures])
    return network.eval()


def golden_candidates(split: Split, *, seed: int) -> Tensor:
    """Return pictures spread over a split, filled up with seeded noise where it is small."""
    spread = np.linspace(0, len(split) - 1, num=min(_NUM_CANDIDATES, len(split)), dtype=np.int64)
    pictures = torch.from_numpy(split.images[spread])
    _, channels, height, width = pictures.shape
    noise = calibrate.noise_pictures(_NUM_CANDIDATES, (channels, height, width), seed=seed)
    return torch.cat([pictures, noise])[:_NUM_CANDIDATES]


def export(network: Network, pictures: Tensor, out: Path, provenance: Provenance) -> dict[str, Any]:
    """Write model.onnx and golden.npz into the folder `out` and return the manifest that describes them.

    The golden samples are the first of `pictures` in which no value lies on a rounding threshold.

    Raises:
        VerificationError: the executed file differs from the network.
        OutputError: the folder cannot be written.
    """
    out = make_folder(out)
    was_training = network.training
    network.eval()
    try:
        with manifests.atomic_path(out / "model.onnx") as onnx_path:
            _write_onnx(network, onnx_path)
            golden, agreement = _verify(network, onnx_path, pictures[:_NUM_CANDIDATES])
        with manifests.atomic_path(out / "golden.npz") as golden_path, golden_path.open("wb") as file:
            np.savez(file, input=golden[0], output=golden[1])
        return _manifest(network, out, provenance, agreement)
    finally:
        network.train(was_training)


def make_folder(folder: Path) -> Path:
    """Create an output folder.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    return folder


def _write_onnx(network: Network, path: Path) -> None:
    x = torch.zeros(1, *network.genotype.input_shape)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = Path(folder) / "raw.onnx"
        quantizers.export_qonnx(network, x, str(raw), opset=OPSET)
        _clean_up(raw, path)


def _clean_up(raw: Path, path: Path) -> None:
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation import general
    from qonnx.transformation.fold_constants import FoldConstants
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.quant_constant_folding import FoldTransposeIntoQuantInit

    model = ModelWrapper(str(raw))
    for transformation in (
        InferShapes(),
        general.GiveUniqueParameterTensors(),
        FoldConstants(exclude_op_types=["Quant", "BipolarQuant"]),
        FoldTransposeIntoQuantInit(),
        general.RemoveUnusedTensors(),
        general.RemoveStaticGraphInputs(),
        general.GiveUniqueNodeNames(),
    ):  # qonnx's renaming of tensors would break a node that reads the same tensor twice
        model = model.transform(transformation)
    execute.snap_weights(model.model)
    _name_parameters(model.graph)
    model.save(str(path))


def _name_parameters(graph: Any) -> None:
    """Name every constant after the node that reads it; qonnx draws names at random, which makes files differ."""
    names = {tensor.name for tensor in graph.initializer}
    new_names: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names and "." not in name:  # with a dot: a parameter that torch has named
                new_names[name] = node.input[index] = f"{node.name}/{_INPUT_ROLES[node.op_type][index]}"
    for value in (*graph.initializer, *graph.value_info):
        value.name = new_names.get(value.name, value.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = new_names.get(annotation.tensor_name, annotation.tensor_name)


@torch.no_grad()
def reference_logits(network: Network, pictures: Tensor) -> NDArray[np.float64]:
    """Return the logits of the float64 reference, run picture by picture."""
    reference = frozen.freeze(network, torch.float64)
    inputs = calibrate.to_input(pictures).double()
    return torch.cat([reference(inputs[index : index + 1]) for index in range(len(inputs))]).numpy()


def _verify(
    network: Network, onnx_path: Path, pictures: Tensor
) -> tuple[tuple[NDArray[np.uint8], NDArray[np.float32]], Agreement]:
    expected = reference_logits(network, pictures)
    largest = float(np.abs(expected).max())
    if not np.isfinite(largest) or largest == 0:
        raise VerificationError("model.onnx: the network's outputs are all zero or not finite; train it anew")
    exact_error = float(np.abs(exact.execute(onnx_path, pictures.numpy()) - expected).max()) / largest
    if exact_error > _EXACT_TOLERANCE:
        raise VerificationError(
            f"model.onnx: got logits {exact_error:.2g} of the largest from the network's, expected at most "
            f"{_EXACT_TOLERANCE:g}; the export is wrong: report it with the genotype"
        )
    errors = np.abs(execute.Runner(onnx_path)(pictures.numpy()) - expected).max(axis=1) / largest
    is_flipped = errors > _TOLERANCE
    chosen = np.argsort(is_flipped, kind="stable")[:NUM_GOLDEN]
    agreement = Agreement(
        num_samples=len(errors),
        exact_error=exact_error,
        num_flips=int(is_flipped.sum()),
        max_flip_error=float(errors[is_flipped].max(initial=0.0)),
    )
    return (pictures.numpy()[chosen], expected[chosen].astype(np.float32)), agreement


def _manifest(network: Network, out: Path, provenance: Provenance, agreement: Agreement) -> dict[str, Any]:
    genotype = network.genotype
    onnx_path, golden_path, genotype_path = out / "model.onnx", out / "golden.npz", provenance.genotype_path
    channels, height, width = genotype.input_shape
    preprocessing = Preprocessing(channels=channels, height=height, width=width)
    onnx_record = manifests.artifact_record(onnx_path, out, "model")
    golden_record = manifests.artifact_record(golden_path, out, "golden")
    header = manifests.header(
        "model",
        inputs=[manifests.input_record(genotype_path, genotype.manifest)],
        artifacts=[onnx_record, golden_record],
    )
    return {
        **header,
        "name": f"{genotype.name}-{network.spec.preset or 'custom'}",
        "genotype": {"sha256": manifests.file_sha256(genotype_path), "copy": genotype.manifest},
        "onnx": {
            "path": onnx_record["path"],
            "sha256": onnx_record["sha256"],
            "format": "qonnx",
            "opset": OPSET,
            "agreement": asdict(agreement),
        },
        "golden": {"path": golden_record["path"], "sha256": golden_record["sha256"], "num_samples": NUM_GOLDEN},
        "input": {
            "shape": [1, channels, height, width],
            "layout": "NCHW",
            "dtype": "uint8",
            "scale": quantizers.INPUT_SCALE,
            "resize": preprocessing.resize,
            "crop": [height, width],
        },
        "class_names": None if provenance.class_names is None else list(provenance.class_names),
        "quantization": {**network.spec.to_dict(), RESOLVED: network.bits},
        "accuracy": None,
        "complexity": complexity.measure(network).to_dict(),
        "training": provenance.training,
    }
