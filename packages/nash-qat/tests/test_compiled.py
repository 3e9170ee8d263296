"""Training steps through torch.compile. Tracing needs no C++ compiler; the tests that need one say so."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
from conftest import TINY_RECIPE, Outcome
from test_train import Setup, _assert_same_run
from torch import Tensor, nn

from nash_qat.base.errors import Interrupted, UsageError
from nash_qat.export import files as export
from nash_qat.network import calibrate
from nash_qat.network.network import Network
from nash_qat.quant import quantizers
from nash_qat.quant.presets import preset
from nash_qat.train import checkpoint, compiled, runs
from nash_qat.train import trainer as train

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")


def _network(name: str, bits: str) -> Network:
    network = export.untrained(networks.parsed(networks.ALL[name]), preset(bits), seed=0)
    return network.to(memory_format=torch.channels_last).train()


def _pictures(network: Network) -> Tensor:
    return calibrate.to_input(calibrate.noise_pictures(8, network.genotype.input_shape, seed=3))


@pytest.mark.parametrize("mode", ["float", "fused"])
@pytest.mark.parametrize(("name", "bits"), [("nash", "v3"), ("strided", "w1a2"), ("bottleneck", "w2a2")])
def test_network_is_one_graph(name: str, bits: str, mode: Any) -> None:
    network = _network(name, bits)
    quantizers.set_mode(network, mode)
    torch.compiler.reset()
    found = torch._dynamo.explain(network)(_pictures(network))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def _step(module: nn.Module, network: Network) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return logits, gradients and the state after a step's two passes."""
    network.zero_grad()
    logits = module(_pictures(network))
    nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return logits.detach(), gradients, {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(("name", "bits"), [("nash", "v3"), ("strided", "w1a2")])
def test_traced_step_has_the_bits_of_the_plain_one(name: str, bits: str) -> None:
    torch.compiler.reset()
    traced, plain = _network(name, bits), _network(name, bits)
    got = _step(torch.compile(traced, fullgraph=True, dynamic=False, backend="aot_eager"), traced)
    expected = _step(plain, plain)
    assert torch.equal(got[0], expected[0])
    scales = [name for name in expected[1] if name.endswith("scaling_impl.value")]  # a sum in another order
    largest = max(float(expected[1][name].abs().max()) for name in scales)
    for name in scales:
        torch.testing.assert_close(got[1].pop(name), expected[1].pop(name), rtol=1e-3, atol=1e-4 * largest, msg=name)
    for ours, theirs in zip(got[1:], expected[1:], strict=True):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@needs_compiler
def test_compiled_quantizers_have_the_gradients_of_the_plain_ones() -> None:
    def sums(x: Tensor, other: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        joined = quantizers.fused.joined((x, other), scale, 32.0, -8, 7, is_short=True)
        weights = [quantizers.fused.quantized_weight(weight, bits, per_channel=True) for bits in (1, 2, 4)]
        return quantizers.fused.activation(joined, scale, 15.0, 0, 15).sum(dim=(2, 3)) @ torch.cat(weights, 1).T

    results = []
    for function in (sums, torch.compile(sums, fullgraph=True, dynamic=False)):
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 9, 6, 6), (4, 9, 6, 6), (5, 3), ()]
        leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        output = function(*leaves)
        output.square().sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


SMALL = networks.manifest(networks.cell(4, networks.layer(4, residual_from=0)), name="small")
PHASES = {"ema_decay": 0.9}
PARTS = {"epochs": 1, "float_fraction": 0.0, "accumulation": 2, "precision": "bfloat16", "ema_decay": 0.9}


def _trainer(folder: Path, out: Path, **changes: Any) -> tuple[Setup, train.Trainer]:
    setup = Setup(folder, SMALL, **changes)
    setup.settings = dataclasses.replace(setup.settings, is_compiled=True)
    return setup, setup.trainer(out)


@needs_compiler
@pytest.mark.parametrize("changes", [PHASES, PARTS], ids=["phases", "parts"])
def test_compiled_run_learns_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    setup, whole = _trainer(tmp_path, tmp_path / "whole", **changes)
    whole.start(setup.path)
    whole.train()
    plain = Setup(tmp_path, SMALL, **changes).run(tmp_path / "plain")
    losses, expected = ([entry["loss"] for entry in trainer.state.history] for trainer in (whole, plain))
    assert losses == pytest.approx(expected, rel=0.1)

    setup, stopped = _trainer(tmp_path, tmp_path / "run", **changes)
    stopped.start(setup.path)
    stop_at = setup.settings.epochs * len(stopped._starts) - 4  # in the quantized epoch

    def stop_if(_request: object) -> None:
        if stopped.state.epoch * len(stopped._starts) + stopped.state.step == stop_at:
            stopped._save()
            raise Interrupted("stopped")

    monkeypatch.setattr(stopped, "_stop_if", stop_if)
    with pytest.raises(Interrupted):
        stopped.train()
    _, resumed = _trainer(tmp_path, tmp_path / "run", **changes)
    resumed.resume()
    resumed.train()
    _assert_same_run(tmp_path / "whole", tmp_path / "run")
    with pytest.raises(UsageError, match="is_compiled: got False, expected True as the run has"):
        Setup(tmp_path, SMALL, **changes).trainer(tmp_path / "run").resume()


def test_smaller_last_batch_runs_without_kernels_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(network: nn.Module) -> nn.Module:
        torch.compiler.reset()
        return torch.compile(network, fullgraph=True, dynamic=False, backend=count)

    sizes: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        sizes.extend(value.shape[0] for value in inputs if value.ndim == 4 and not value.requires_grad)
        return graph.forward

    monkeypatch.setattr(compiled, "network", traced)
    setup, trainer = _trainer(tmp_path, tmp_path / "run", epochs=2)
    trainer.start(setup.path)
    trainer.train()
    assert len(setup.inputs.train) % 64  # a smaller batch there is
    assert sizes == [64, 64]  # one compilation a phase
    plain = Setup(tmp_path, SMALL).run(tmp_path / "plain")
    losses, expected = ([entry["loss"] for entry in each.state.history] for each in (trainer, plain))
    assert losses == pytest.approx(expected, rel=0.02)


def test_run_of_an_older_release_goes_on(tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.trainer(tmp_path / "run").start(setup.path)
    saved = checkpoint.load(tmp_path / "run" / runs.CHECKPOINT)
    asked = setup.settings.to_dict()
    del saved.state["settings"]["is_compiled"]
    before = runs.Settings.completed(saved.state["settings"])
    runs.refuse_other_settings(before, asked, tmp_path)
    with pytest.raises(UsageError, match="is_compiled: got True, expected False as the run has"):
        runs.refuse_other_settings(before, {**asked, "is_compiled": True}, tmp_path)


def test_missing_compiler_is_met_before_the_run(
    run: Callable[..., Outcome], nash_path: Path, tmp_path: Path, recipe_path: Path
) -> None:
    from torch._inductor import config

    torch.compiler.reset()
    with config.patch({"cpp.cxx": ("/nowhere/g++",)}):
        outcome = run("train", nash_path, "--recipe", recipe_path, "--compile", "--out", tmp_path / "run", "--json")
    assert outcome.code == 8
    assert outcome.json["error"]["kind"] == "toolchain"
    assert len(outcome.err.splitlines()) == 1
    assert "--compile: got '" in outcome.err
    assert "C++ compiler" in outcome.err
    assert not (tmp_path / "run").exists()


@needs_compiler
def test_compiled_run_through_the_command_line(run: Callable[..., Outcome], tmp_path: Path) -> None:
    path = networks.written(SMALL, tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({**TINY_RECIPE, "epochs": 1, "float_fraction": 0.0}))
    common = ("train", path, "--recipe", tmp_path / "plan.json", "--out", tmp_path / "run")
    trained = run(*common, "--compile", "--json")
    assert trained.code == 0, trained.err
    assert json.loads((tmp_path / "run" / "model.json").read_text())["training"]["is_compiled"] is True
    assert "is_compiled: got False" in run(*common, "--resume").err
