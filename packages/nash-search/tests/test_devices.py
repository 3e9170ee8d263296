"""The code of a device, forced onto the CPU: what it computes is what the CPU's own does, bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nash_search.base import parallel
from nash_search.base.errors import CapacityError, UsageError
from nash_search.base.interrupt import Stop
from nash_search.base.progress import Reporter
from nash_search.data import datasets as data
from nash_search.genotype import genotype
from nash_search.layers import devices
from nash_search.layers.devices import Placement
from nash_search.search import batches, checkpoint, search
from nash_search.search.recipe import Augmentation
from nash_search.search.search import Search
from nash_search.search.settings import Settings

FORCED = Placement(device=torch.device("cpu"), holds_pictures=True)


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search that asks for a GPU take its way on the CPU."""
    monkeypatch.setattr(devices, "placement", lambda name: FORCED if name == "cuda" else batches.ON_CPU)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(crop_padding=0, flip=False),
        Augmentation(crop_padding=4, flip=False),
        Augmentation(crop_padding=0, flip=True),
        Augmentation(crop_padding=2, flip=True, cutout=5),
    ],
)
def test_pictures_are_changed_on_a_device_as_on_the_cpu(augmentation: Augmentation) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 3, 16, 18), dtype=np.uint8)
    for joined in (None, (99, np.arange(33) * 3)):
        expected = batches.augment(pixels, augmentation, np.random.default_rng(1), joined=joined)
        found = batches.augmented(torch.from_numpy(pixels), augmentation, np.random.default_rng(1), joined=joined)
        assert found.dtype == torch.uint8
        assert np.array_equal(found.numpy(), expected)


def test_batches_from_a_device_are_those_from_the_cpu(digits: data.Split) -> None:
    augmentation = Augmentation(crop_padding=2, flip=True)
    ours, theirs = (
        batches.halve(digits, augmentation, seed=0, placed=placed)[0] for placed in (FORCED, batches.ON_CPU)
    )
    for one, other in zip(ours.batch(1, 2, 16), theirs.batch(1, 2, 16), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(ours.clean_batches(200), theirs.clean_batches(200), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.usefixtures("_forced")
@pytest.mark.parametrize(("relaxation", "gradient"), [("layer", "swap"), ("edge", "two-path"), ("layer", "full")])
def test_search_on_a_device_finds_what_one_on_the_cpu_does(
    relaxation: str, gradient: str, settings: Settings, tmp_path: Path
) -> None:
    asked = replace(settings, relaxation=relaxation, gradient=gradient, num_images=512)
    found = [search.run(replace(asked, device=name), tmp_path / name) for name in ("cpu", "cuda")]
    cpu, device = (genotype.load(path) for path in found)
    assert (cpu.search["device"], device.search["device"]) == ("cpu", "cuda")
    assert cpu.cells == device.cells
    one, other = (checkpoint.read(path.parent) for path in found)
    assert one.state == other.state
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.usefixtures("_forced")
def test_search_goes_on_on_another_device_with_a_warning(settings: Settings, tmp_path: Path) -> None:
    search.run(settings, tmp_path / "run")
    with pytest.warns(UserWarning, match="--resume: device: got 'cuda', expected 'cpu' for bit-identical results"):
        search.run(replace(settings, device="cuda"), tmp_path / "run", resume=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.run(settings, tmp_path / "run", resume=True)


def test_alphas_stay_where_they_are(begin: Callable[..., Search]) -> None:
    supernet = begin().supernet
    supernet.place(torch.device("meta"))
    places = {name: tensor.device.type for name, tensor in supernet.state_dict().items()}
    assert {name for name, place in places.items() if place == "cpu"} == {"alpha", "admissible"}
    assert {weight.device.type for weight in supernet.weights()} == {"meta"}


def test_gates_that_are_open_are_known_without_the_device(begin: Callable[..., Search], digits: data.Split) -> None:
    running = begin(gradient="full", relaxation="edge")
    path = running.architect.sample(torch.Generator().manual_seed(0))
    x, y = running.alpha_half.batch(0, 0, 16)
    running.architect.accumulate(x, y, path)
    assert path.is_open == ()  # set on the way, in a path of its own
    assert torch.isfinite(running.supernet.alpha.grad).all()


def test_device_is_one_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (devices.resolve("cpu"), devices.resolve("auto")) == ("cpu", "cpu")
    with pytest.raises(UsageError, match="--device: got cuda, but torch sees no CUDA device; pass cpu or auto"):
        devices.resolve("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (devices.resolve("cpu"), devices.resolve("auto"), devices.resolve("cuda")) == ("cpu", "cuda", "cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert devices.placement("cuda").device == torch.device("cuda", 3)


def test_too_little_memory_names_what_to_lower(begin: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    running = begin()
    running.save()

    def fails(*_: object) -> float:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(running, "weight_step", fails)
    with pytest.raises(
        CapacityError, match=r"step 1: .* 128 pictures; .* kept; lower the recipe's batch_size, --width"
    ):
        running.train(Stop(), Reporter(running.num_steps, 0))


def test_pictures_of_an_image_folder_stay_files(tmp_path: Path, digits: data.Split) -> None:
    class Lazy:
        def __len__(self) -> int:
            return len(digits)

        def __getitem__(self, indices: np.ndarray) -> np.ndarray:
            return digits.images[indices]

    lazy = replace(digits, images=Lazy())
    augmentation = Augmentation(crop_padding=2, flip=True)
    ours, theirs = (batches.halve(split, augmentation, seed=0, placed=FORCED)[1] for split in (lazy, digits))
    assert torch.equal(ours.batch(0, 0, 8)[0], theirs.batch(0, 0, 8)[0])
    assert parallel.size() == 1
