"""Whole searches on digits of 8 x 8 pixels."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nash_search.base import manifest
from nash_search.base.errors import DataError, DivergedError, IntegrityError, Interrupted, OutputError, UsageError
from nash_search.base.interrupt import Stop
from nash_search.base.progress import Reporter
from nash_search.cost import costs as cost
from nash_search.cost.penalty import Price
from nash_search.data import datasets as data
from nash_search.genotype import genotype, zoo
from nash_search.layers import operations
from nash_search.search import checkpoint, engine, recipe, search
from nash_search.search.search import Search
from nash_search.search.settings import Settings

Begin = Callable[..., Search]


class StopAfter(Stop):
    """A request to stop that comes after so many looks."""

    def __init__(self, looks: int | None = None) -> None:
        self.left = math.inf if looks is None else looks
        super().__init__()

    @property
    def requested(self) -> str | None:  # type: ignore[override]
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None

    @requested.setter
    def requested(self, value: str | None) -> None:
        pass


def _train(running: Search, stop: Stop | None = None) -> Search:
    with Reporter(running.num_steps, running.step) as reporter:
        running.train(stop or Stop(), reporter)
    return running


def _resumed(begin: Begin, **ways: str) -> Search:
    running = begin(**ways)
    saved = checkpoint.read(running.out)
    assert saved is not None
    running.restore(saved)
    return running


def _assert_same(one: Search, other: Search) -> None:
    assert one.step == other.step
    assert one.history == other.history
    for (name, tensor), (_, expected) in zip(one._tensors(), other._tensors(), strict=True):
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize(
    ("looks", "relaxation", "gradient"),
    [
        *((1, "layer", "two-path"), (4, "layer", "swap"), (6, "edge", "two-path"), (8, "layer", "full")),
        *((14, "edge", "swap"), (14, "layer", "two-path")),
    ],
)
def test_interrupted_search_ends_like_one_in_one_go(
    looks: int, relaxation: str, gradient: str, begin: Begin, tmp_path: Path
) -> None:
    ways = {"relaxation": relaxation, "gradient": gradient}
    whole = _train(begin(tmp_path / "whole", **ways))
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step \d+ of 10; .*--resume"):
        _train(begin(**ways), StopAfter(looks))
    _assert_same(_train(_resumed(begin, **ways)), whole)


@pytest.mark.parametrize(
    ("preset", "ways"),
    [
        ("w4a4", {"relaxation": "layer", "gradient": "swap"}),
        ("v3", {"relaxation": "edge", "gradient": "two-path", "precision": "float64"}),
        ("w1a2", {"relaxation": "layer", "gradient": "full", "discard_below": 0.1, "precision": "float32"}),
    ],
)
def test_interrupted_quantized_search_ends_like_one_in_one_go(
    preset: str, ways: dict[str, object], begin: Begin, tmp_path: Path
) -> None:
    ways = {"preset": preset, **ways}
    whole = _train(begin(tmp_path / "whole", **ways))
    with pytest.raises(Interrupted):
        _train(begin(**ways), StopAfter(6))
    _assert_same(_train(_resumed(begin, **ways)), whole)
    assert all(record["alpha_gradient_norm_min"] > 0 for record in whole.history)
    assert whole.history[-1]["weight_loss"] < whole.history[0]["weight_loss"]


def test_search_goes_on_from_a_checkpoint_within_an_epoch(begin: Begin, settings: Settings, tmp_path: Path) -> None:
    often = replace(settings.recipe, checkpoint_steps=3)
    whole = _train(begin(tmp_path / "whole", recipe=often))
    running = begin(recipe=often)
    for _ in range(4):
        running._train_step()
        if running.step == 3:
            running.save()
    again = begin(recipe=often)  # step 4 is lost, as after a power cut
    again.restore(checkpoint.read(again.out))
    assert again.step == 3
    _assert_same(_train(again), whole)


def test_alphas_move_and_get_a_gradient_at_every_step(begin: Begin) -> None:
    running = begin(recipe=recipe.load("quick", epochs=4))
    before = running.supernet.alpha.detach().clone()
    _train(running)
    assert (running.supernet.alpha - before).abs().max() > 0.05
    assert all(record["alpha_gradient_norm_min"] > 0 for record in running.history)
    entropies = [record["alpha_entropy"] for record in running.history]
    assert entropies == sorted(entropies, reverse=True)
    assert running.history[-1]["weight_loss"] < running.history[0]["weight_loss"]


def test_alphas_stay_while_the_weights_warm_up(begin: Begin, settings: Settings, tmp_path: Path) -> None:
    warm = replace(settings.recipe, epochs=3, warmup_epochs=2)
    whole, running = begin(tmp_path / "whole", recipe=warm), begin(recipe=warm)
    before = running.supernet.alpha.detach().clone()
    with pytest.raises(Interrupted):
        _train(running, StopAfter(8))
    assert running.step < 2 * running.steps_per_epoch
    assert torch.equal(running.supernet.alpha, before)
    again = begin(recipe=warm)
    again.restore(checkpoint.read(again.out))
    _assert_same(_train(again), _train(whole))
    assert [("alpha_loss" in record, "weight_loss" in record) for record in whole.history] == [
        (False, True),
        (False, True),
        (True, True),
    ]
    assert not torch.equal(whole.supernet.alpha, before)


@pytest.mark.parametrize("gradient", ["two-path", "full", "swap"])
def test_history_has_a_finite_record_an_epoch(gradient: str, begin: Begin) -> None:
    running = _train(begin(gradient=gradient))
    records = [json.loads(line) for line in (running.out / engine.HISTORY_FILE).read_text().splitlines()]
    assert records == running.history
    assert [record["epoch"] for record in records] == [1, 2]
    keys = {"epoch", "step", "weight_loss", "alpha_loss", "alpha_gradient_norm", "alpha_gradient_norm_min"}
    assert records[0].keys() == keys | {"loss", "accuracy", "alpha_entropy"}
    assert all(math.isfinite(value) for record in records for value in record.values())


def test_learning_rate_falls_along_a_cosine(begin: Begin) -> None:
    running = begin()
    rates = []
    for _ in range(running.num_steps):
        running._train_step()
        rates.append(running.optimizer.param_groups[0]["lr"])
    lr = running.settings.recipe.weights.lr
    assert rates[0] == lr
    assert rates[5] == pytest.approx(lr / 2)
    assert rates == sorted(rates, reverse=True)


def test_validation_changes_nothing_and_repeats(begin: Begin) -> None:
    running = begin()
    before = {name: tensor.clone() for name, tensor in running._tensors()}
    first = running.validate(Stop())
    assert first == running.validate(Stop())
    assert all(torch.equal(tensor, before[name]) for name, tensor in running._tensors())


@pytest.mark.parametrize(("relaxation", "num_options", "below"), [("edge", 9 * 6, 0.16), ("layer", 43, 0.12)])
def test_hopeless_operations_are_discarded_after_their_epoch(
    relaxation: str, num_options: int, below: float, begin: Begin
) -> None:
    options = {"discard_below": below, "discard_after": 2, "recipe": recipe.load("quick", epochs=3)}
    running = _train(begin(relaxation=relaxation, **options))
    counts = [record["num_operations"] for record in running.history]
    assert counts[0] == num_options
    assert counts[0] > counts[1] >= counts[2]
    again = begin(relaxation=relaxation, **options)
    again.restore(checkpoint.read(again.out))
    assert torch.equal(again.supernet.probs(), running.supernet.probs())
    assert (again.supernet.probs() > 0).sum() == counts[2]


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
@pytest.mark.parametrize("seed", [0, 3])
def test_accuracy_is_that_of_the_genotype(relaxation: str, seed: int, begin: Begin) -> None:
    running = _train(begin(relaxation=relaxation, seed=seed))
    found, supernet, num_correct = running.genotype(), running.supernet, 0
    kept = [layer.nas_op for cell in found.cells for layer in cell.layers]
    ran: list[list[torch.nn.Module]] = []
    for layer in supernet.layers:
        ran.append([])
        for op in (op for mixed in layer.mixed for op in mixed.ops):
            if not isinstance(op, operations.Nothing):
                op.register_forward_hook(lambda op, *_, seen=ran[-1]: seen.append(op))
    with supernet.frozen(), torch.no_grad():
        for x, y in running.alpha_half.clean_batches(running.batch_size):
            num_correct += int((supernet(x, supernet.path_of(found)).argmax(1) == y).sum())
    assert running.history[-1]["accuracy"] == 100 * num_correct / len(running.alpha_half)
    for layer, nas_op, seen in zip(
        supernet.layers, kept, ran, strict=True
    ):  # one operation a layer, that of the genotype
        wanted = [] if nas_op is None else [layer.mixed[nas_op.input].ops[supernet.variant.primitives.index(nas_op.op)]]
        assert list(dict.fromkeys(seen)) == wanted


def test_genotype_is_the_most_probable_option_of_each_layer(begin: Begin) -> None:
    supernet = _train(begin()).supernet
    winners = supernet.probs().argmax(1).tolist()
    assert supernet.path_of(supernet.genotype()).active_index == winners
    kept = [layer.nas_op for cell in supernet.genotype().cells for layer in cell.layers]
    for row, (nas_op, winner) in enumerate(zip(kept, winners, strict=True)):
        assert (nas_op is None) == (winner == 0)
        assert nas_op is None or nas_op.probability == supernet.probs()[row, winner].item()


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_large_cost_weight_leaves_the_plain_backbone(
    relaxation: str, settings: Settings, priced: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"costs_file": priced(settings.backbone), "price": Price(weight=100.0, metric="lut")}
    fast = replace(settings.recipe, epochs=20, alphas=replace(settings.recipe.alphas, lr=0.2))
    path = search.run(replace(settings, relaxation=relaxation, recipe=fast, **changes), tmp_path / "run")
    found = genotype.load(path)
    assert found.cells == settings.backbone.cells
    assert found.search["costs"]["genotype"] == dict.fromkeys(cost.METRICS, 0)
    records = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert records[-1]["expected_cost"] < 0.2 * records[0]["expected_cost"]


def test_search_begins_with_the_weights_of_another(begin: Begin, tmp_path: Path) -> None:
    first = begin(tmp_path / "first")
    for _ in range(3):
        first._train_step()
    first.save()
    (path,) = first.out.glob("*.safetensors")
    second = begin(tmp_path / "second", init_weights=path, seed=9)
    assert torch.equal(second.supernet.stem.weight, first.supernet.stem.weight)
    assert not torch.equal(second.supernet.alpha, first.supernet.alpha)
    assert second._flat["init_weights"] == manifest.file_sha256(path)[:12]


def test_seed_decides_everything(begin: Begin, tmp_path: Path) -> None:
    alphas = [
        _train(begin(tmp_path / name, seed=seed)).supernet.alpha.tolist()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert alphas[0] == alphas[1]
    assert alphas[0] != alphas[2]


def test_running_search_leaves_the_global_generator_alone(begin: Begin) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    begin()._train_step()
    assert torch.equal(torch.get_rng_state(), before)


def test_run_writes_what_its_genotype_names(settings: Settings, tmp_path: Path) -> None:
    path = search.run(settings, tmp_path / "run")
    found = genotype.load(path)
    assert (found.name, found.backbone, found.variant) == ("resnet8-v3", "resnet8", "v3")
    record = json.loads((tmp_path / "run/history.jsonl").read_text().splitlines()[-1])
    assert found.search == {
        "dataset": "digits",
        "recipe": "quick",
        "epochs": 2,
        "num_images": 1437,
        "held_out": None,
        "seed": 3,
        "relaxation": "layer",
        "gradient": "two-path",
        "precision": "mixed",
        "preset": None,
        "device": "cpu",
        "processes": 1,
        "accuracy": record["accuracy"],
        "accuracy_split": "alphas",
        "alphas": "alphas.json",
        "init_weights": None,
        "discard_below": None,
        "discard_after": 1,
        "primitives": ["none", "max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3", "conv_5x5"],
    }
    alphas = json.loads((tmp_path / "run/alphas.json").read_text())
    assert len(alphas["edges"]) == 9
    assert alphas["relaxation"] == "layer"
    for cell, plan in enumerate(found.cells):
        for number, layer in enumerate(plan.layers, 1):
            rows = [edge for edge in alphas["edges"] if (edge["cell"], edge["layer"]) == (cell, number)]
            listed = [row["probabilities"] for row in rows]
            nothing = {row[0] for row in listed}
            assert len(nothing) == 1  # one `none` a layer
            assert sum(sum(row[1:]) for row in listed) + nothing.pop() == pytest.approx(1)
            assert [[alpha is None for alpha in row["alphas"]] for row in rows] == [
                [p == 0 for p in row] for row in listed
            ]
            kept = max(max(row) for row in listed)
            assert layer.nas_op is None or layer.nas_op.probability == kept
            assert layer.nas_op is not None or kept == listed[0][0]
    written = json.loads(path.read_text())
    assert [artifact["role"] for artifact in written["artifacts"]] == ["alphas"]


def test_search_leaves_pictures_alone_and_says_so(settings: Settings, begin: Begin, tmp_path: Path) -> None:
    asked = replace(settings, val_fraction=0.2, recipe=replace(settings.recipe, epochs=1))
    found = genotype.load(search.run(asked, tmp_path / "run")).search
    assert found["held_out"] == {"fraction": 0.2, "count": 287, "num_pictures": 1437}
    assert found["num_images"] == 1437 - 287
    with pytest.raises(UsageError, match=r"val_fraction: got .*, expected 0\.2"):
        search.run(replace(asked, val_fraction=0.3), tmp_path / "run", resume=True)


def test_finished_search_resumes_to_the_same_files(settings: Settings, tmp_path: Path) -> None:
    path = search.run(settings, tmp_path / "run")
    files = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    search.run(settings, tmp_path / "run", resume=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == files
    assert len(list(path.parent.glob("*.safetensors"))) == 1


def test_resume_without_a_checkpoint_begins_anew(settings: Settings, tmp_path: Path) -> None:
    assert search.run(settings, tmp_path / "run", resume=True).exists()


def test_second_search_in_one_folder_is_refused(settings: Settings, begin: Begin, tmp_path: Path) -> None:
    begin().save()
    with pytest.raises(OutputError, match=r"checkpoint\.json: a search lies here already; go on with --resume"):
        search.run(settings, tmp_path / "run")
    other = tmp_path / "zoo"
    genotype.save(zoo.build("resnet8"), other / "genotype.json")
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"genotype\.json: a search lies here already"):
            search.run(settings, other, resume=resume)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"seed: got 4, expected 3"),
        ({"variant": "v1"}, r"variant: got 'v1', expected 'v3'"),
        ({"gradient": "full"}, r"gradient: got 'full', expected 'two-path'"),
        ({"preset": "w4a4"}, r"preset: got 'w4a4', expected None"),
        ({"relaxation": "edge"}, r"relaxation: got 'edge', expected 'layer'"),
        ({"recipe": recipe.load("quick", epochs=3)}, r"recipe\.epochs: got 3, expected 2 .*batch_size: got 64"),
        ({"backbone": zoo.build("resnet8", width=4, input_size=8)}, r"width: got 4, expected 2"),
    ],
)
def test_resume_with_other_settings_is_refused(
    change: dict, message: str, begin: Begin, settings: Settings, tmp_path: Path
) -> None:
    begin().save()
    with pytest.raises(UsageError, match=message):
        search.run(replace(settings, **change), tmp_path / "run", resume=True)


def test_resume_with_other_threads_goes_on_with_a_warning(begin: Begin, settings: Settings) -> None:
    begin().save()
    with pytest.warns(UserWarning, match=r"threads: got 2, expected 1 for bit-identical results"):
        path = search.run(replace(settings, threads=2), begin().out, resume=True)
    torch.set_num_threads(1)
    assert checkpoint.read(path.parent).settings["threads"] == 2


def test_checkpoint_without_a_relaxation_is_of_edges(begin: Begin) -> None:
    running = begin(relaxation="edge")
    running.save()
    state = running.out / checkpoint.STATE_FILE
    content = json.loads(state.read_text())
    del content["settings"]["relaxation"]
    state.write_text(json.dumps(content))
    saved = checkpoint.read(running.out)
    running.restore(saved)
    with pytest.raises(UsageError, match=r"relaxation: got 'layer', expected 'edge'"):
        begin().restore(saved)


def test_resume_with_other_pictures_is_refused(begin: Begin, settings: Settings, digits: data.Split) -> None:
    begin().save()
    fewer = replace(digits, images=digits.images[:-1], labels=digits.labels[:-1])
    other = Search(settings, fewer, begin().out)
    with pytest.raises(UsageError, match="num_images: got 1436, expected 1437"):
        other.restore(checkpoint.read(other.out))


@pytest.mark.parametrize("damage", ["tensors", "state", "format", "missing"])
def test_damaged_checkpoint_is_refused(damage: str, begin: Begin, settings: Settings, tmp_path: Path) -> None:
    running = begin()
    running.save()
    state, tensors = running.out / checkpoint.STATE_FILE, next(running.out.glob("*.safetensors"))
    match damage:
        case "tensors":
            content = tensors.read_bytes()
            tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 0xFF]))
        case "state":
            state.write_text(state.read_text()[:-20])
        case "format":
            state.write_text(state.read_text().replace("checkpoint 1", "checkpoint 2"))
        case "missing":
            tensors.unlink()
    with pytest.raises(IntegrityError):
        search.run(settings, tmp_path / "run", resume=True)


def test_diverging_search_keeps_its_last_good_checkpoint(begin: Begin, settings: Settings) -> None:
    weights = replace(settings.recipe.weights, lr=1e30)
    running = begin(recipe=replace(settings.recipe, weights=weights))
    running.save()
    with pytest.raises(
        DivergedError, match=r"step \d+: .* is (nan|inf|not finite); the checkpoint of step 0 in .* is kept"
    ):
        _train(running)
    saved = checkpoint.read(running.out)
    assert saved.state["step"] == 0
    assert all(tensor.isfinite().all() for tensor in saved.tensors.values())


def test_nan_in_the_architecture_step_stops_before_the_update(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    running = begin()
    before = running.supernet.alpha.detach().clone()
    x, y = running.alpha_half.batch(0, 0, 16)
    monkeypatch.setattr(running.alpha_half, "batch", lambda *_: (x * math.nan, y))
    with pytest.raises(DivergedError, match=r"step 1: (a state is not finite|the alpha loss is nan)"):
        _train(running)
    assert torch.equal(running.supernet.alpha, before)


@pytest.mark.parametrize("relaxation", ["layer", "edge"])
def test_state_without_a_number_stops_the_search(relaxation: str, begin: Begin) -> None:
    running = begin(variant="v2", relaxation=relaxation)  # v2's layers read signs alone: a NaN would be one of -1
    for _ in range(running.steps_per_epoch):
        running._train_step()
    running.save()
    with torch.no_grad():
        running.supernet.stem.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"step 6: a state is not finite; the checkpoint of step 5 in .* is kept"):
        _train(running)
    assert checkpoint.read(running.out).tensors["supernet.stem.weight"].isfinite().all()


def test_small_half_is_one_batch(settings: Settings, digits: data.Split, tmp_path: Path) -> None:
    few = replace(digits, images=digits.images[:30], labels=digits.labels[:30])
    running = Search(settings, few, tmp_path / "run")
    assert (running.batch_size, running.steps_per_epoch) == (15, 1)
    _train(running)


def test_user_backbone_is_searched_without_its_nas_ops(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    genotype.save(replace(zoo.build("resnet8", width=2, input_size=8), name="mine", backbone=None), path)
    backbone = genotype.load(path)
    found = json.loads(
        search.run(replace(settings, backbone=backbone), tmp_path / "run", backbone_file=path).read_text()
    )
    assert found["name"] == "mine-v3"
    assert [record["path"] for record in found["inputs"]] == ["mine.json"]


def test_user_backbone_of_other_classes_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    genotype.save(zoo.build("resnet8", width=2, input_size=8, num_classes=7), path)
    with pytest.raises(DataError, match="num_classes: got 7, expected 10"):
        search.run(replace(settings, backbone=genotype.load(path)), tmp_path / "run", backbone_file=path)


def test_dataset_decides_the_classes_of_a_named_backbone(settings: Settings, tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "data/train" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"data/train/{name}/{number}.png")
    path = search.run(replace(settings, dataset="imagefolder"), tmp_path / "run", data_dir=tmp_path / "data")
    assert genotype.load(path).num_classes == 3


COMMAND = [
    *(sys.executable, "-c", "from nash_search.cli import main; main()"),
    *("run", "--backbone", "resnet8", "--variant", "v3", "--width", "2", "--input-size", "8"),
    *("--seed", "3", "--threads", "1", "--out"),
]


def _recipe(folder: Path, epochs: int) -> str:
    from importlib import resources

    content = json.loads(resources.files("nash_search").joinpath("recipes/quick.json").read_text())
    (folder / "often.json").write_text(json.dumps(content | {"epochs": epochs, "checkpoint_steps": 3}))
    return str(folder / "often.json")


def _stop_in_mid_epoch(command: list[str], out: Path, number: signal.Signals) -> tuple[int, str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    guard = threading.Timer(120, process.kill)
    guard.start()
    while process.poll() is None and not _step_is_in_mid_epoch(out):
        time.sleep(0.002)
    os.kill(process.pid, number)
    _, stderr = process.communicate()
    guard.cancel()
    return process.returncode, stderr


def _step_is_in_mid_epoch(out: Path) -> bool:
    try:
        return json.loads((out / checkpoint.STATE_FILE).read_text())["state"]["step"] in range(12, 40)
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search in one go."""
    folder = tmp_path_factory.mktemp("whole")
    command = [*COMMAND, str(folder / "run"), "--recipe", _recipe(folder, epochs=4)]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_signalled_process_resumes_to_identical_alphas(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    command = [*COMMAND, str(out), "--recipe", _recipe(tmp_path, epochs=4)]
    code, stderr = _stop_in_mid_epoch(command, out, number)
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 130
        assert f"stopped by {number.name} after step" in stderr
        assert "Traceback" not in stderr
    assert not (out / "genotype.json").exists()
    (out / ".history.jsonl.writing-killed.jsonl").touch()  # what a kill in the middle of a write leaves behind
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    for name in ("alphas.json", "history.jsonl", "genotype.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not list(out.glob(".*"))


def test_first_signal_asks_and_the_second_insists() -> None:
    with Stop() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == "SIGTERM"
        with pytest.raises(Interrupted, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)
