from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from conftest import TINY_RECIPE
from PIL import Image
from test_train import Setup, _assert_same_run

from nash_qat.base.errors import DataError, Interrupted
from nash_qat.data import augment, originals, splits
from nash_qat.data import datasets as data
from nash_qat.data.datasets import Preprocessing, Split
from nash_qat.data.originals import Cut, Originals
from nash_qat.recipe import Augmentation
from nash_qat.train import checkpoint, runs
from nash_qat.train import trainer as train

SHAPE = (3, 16, 16)
WINDOWS = Augmentation(flip=True, min_area=0.08)


def _load(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Split:
    channels, height, width = shape
    preprocessing = Preprocessing(channels=channels, height=height, width=width)
    return data.load("imagefolder", "train", preprocessing, data_dir=folder)


def _write(folder: Path, sizes: list[tuple[int, int]], suffix: str = "png") -> Path:
    """Write pictures (width, height) whose red is the place in x and whose green is the place in y, of two classes."""
    for index, (width, height) in enumerate(sizes):
        place = folder / "train" / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[:, :, 0] = np.linspace(0, 255, width)[None]
        pixels[:, :, 1] = np.linspace(0, 255, height)[:, None]
        pixels[:, :, 2] = 100
        Image.fromarray(pixels).save(place / f"{index:03d}.{suffix}", quality=95)
    return folder


def _changed(split: Split, settings: Augmentation, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return Originals(split, shape).changed(np.arange(len(split)), settings, generator)


def test_windows_show_more_than_the_centre(tmp_path: Path) -> None:
    """The left and the right of a wide picture, which the centre crop does not have, are seen, and in full detail."""
    pixels = np.zeros((64, 192, 3), dtype=np.uint8)
    pixels[:, :64, 0] = 255
    pixels[:, 128:, 1] = 255
    pixels[:, np.arange(192) % 4 < 2, 2] = 255  # fine lines, which a picture of the network's size no longer has
    for index in range(40):
        place = tmp_path / "train" / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")
    split = _load(tmp_path)
    setup = Setup(tmp_path, augmentation={"default": {"min_area": 0.02}})
    setup.genotype = networks.parsed({**networks.NASH, "input": {"channels": 3, "height": 16, "width": 16}})
    setup.inputs = train.Inputs(train=split, test=split)
    trainer = setup.trainer(tmp_path / "run")
    batch = trainer._batch(np.arange(40), 0, 0)
    red, green = (batch.x[:, channel].mean(dim=(1, 2)) > 0.9 for channel in (0, 1))
    assert red.any()
    assert green.any()
    contrast = batch.x[:, 2].std(dim=2).amax()
    assert contrast > 0.3
    assert split.images[np.arange(40)][:, 2].std(axis=-1).max() / 255 < 0.1


def test_pictures_of_the_networks_size_are_changed_as_before(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(16, 16)] * 12))
    prepared = torch.from_numpy(split.images[np.arange(12)])
    for settings in (WINDOWS, Augmentation(flip=True, shift=0.2), Augmentation()):
        expected = augment.augment(prepared, settings, torch.Generator().manual_seed(3))
        assert torch.equal(_changed(split, settings, 3), expected)
        in_memory = dataclasses.replace(split, images=prepared.numpy())
        assert torch.equal(_changed(in_memory, settings, 3), expected)


def test_pictures_of_the_networks_size_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = _load(_write(tmp_path, [(16, 16), (12, 16), (16, 16), (16, 9)]))
    loader = Originals(split, SHAPE)
    first = loader.changed(np.arange(4), WINDOWS, torch.Generator().manual_seed(0))

    def refuse(*_: object) -> None:
        raise AssertionError("opened again")

    monkeypatch.setattr(Image, "open", refuse)
    assert torch.equal(loader.changed(np.arange(4), WINDOWS, torch.Generator().manual_seed(0)), first)


def test_large_pictures_do_not_stay_in_memory(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(40, 30)] * 6))
    _changed(split, WINDOWS)
    assert split.images._pixels is None


@pytest.mark.parametrize("settings", [WINDOWS, Augmentation(flip=True), Augmentation(flip=True, shift=0.25)])
def test_cut_is_the_window_of_the_original(tmp_path: Path, settings: Augmentation) -> None:
    sizes = [(97, 61), (60, 120), (400, 50), (33, 33), (17, 16), (12, 60)] * 4
    split = _load(_write(tmp_path, sizes))
    found = _changed(split, settings).float()
    paths = split.images.paths
    cuts = originals._cuts(len(paths), settings, torch.Generator().manual_seed(0))
    for index, (path, cut) in enumerate(zip(paths, cuts, strict=True)):
        picture = Image.open(path).convert("RGB")
        box = cut.box(picture.size, settings, Preprocessing(channels=3, height=16, width=16))
        expected = _sampled(np.asarray(picture, dtype=np.float64), box)
        if cut.is_mirrored:
            expected = expected[:, ::-1]
        inside = slice(2, -2) if settings.shift == 0 else expected[..., 2] == 100
        difference = np.abs(found[index].permute(1, 2, 0).numpy() - expected)
        if settings.shift == 0:
            assert difference[inside, inside].max() < 6, path
        else:
            assert np.median(difference[inside]) < 4, path


def _sampled(pixels: np.ndarray, box: list[float]) -> np.ndarray:
    """Return a box of ramps (H, W, 3) as 16 by 16 values at the centres of its parts, black outside."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    x, y = (low + (high - low) * (np.arange(16) + 0.5) / 16 - 0.5 for low, high in ((left, right), (top, bottom)))
    result = np.zeros((16, 16, 3))
    result[:, :, 0] = np.interp(x, np.arange(width), np.linspace(0, 255, width))[None]
    result[:, :, 1] = np.interp(y, np.arange(height), np.linspace(0, 255, height))[:, None]
    result[:, :, 2] = 100
    is_out = ((y < -0.5) | (y > height - 0.5))[:, None] | ((x < -0.5) | (x > width - 0.5))[None]
    result[is_out] = 0
    return result


def test_windows_keep_their_aspect_and_their_least_area() -> None:
    preprocessing = Preprocessing(channels=3, height=224, width=224)
    for size in ((500, 375), (375, 500), (1500, 300), (224, 225)):
        cuts = originals._cuts(2000, WINDOWS, torch.Generator().manual_seed(1))
        boxes = np.array([cut.box(size, WINDOWS, preprocessing) for cut in cuts])
        across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        ratio = across / down
        assert 0.7499 < ratio.min() < 0.77
        assert 1.30 < ratio.max() < 1.3334
        share = across * down / (size[0] * size[1])
        assert 0.0799 < share.min() < 0.1
        assert boxes[:, :2].min() >= -1e-9
        assert boxes[:, 2].max() <= size[0] + 1e-9
        assert boxes[:, 3].max() <= size[1] + 1e-9
        assert boxes[:, 0].min() < 0.02 * size[0]
        assert boxes[:, 2].max() > 0.98 * size[0]


def test_shift_without_windows_moves_the_view_of_evaluation_and_shows_what_lies_beside_it() -> None:
    preprocessing = Preprocessing(channels=3, height=224, width=224)
    settings = Augmentation(shift=0.125)
    still = {"area": 1.0, "aspect": 1.0, "x": 0.9, "y": 0.1, "is_mirrored": False}
    box = Cut(**still, shift_x=0.0, shift_y=0.0).box((512, 256), settings, preprocessing)
    assert box == [144, 16, 368, 240]
    box = Cut(**still, shift_x=1.0, shift_y=-0.5).box((512, 256), settings, preprocessing)
    assert box == [172, 2, 396, 226]


def test_flip_alone_sees_what_evaluation_sees(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(50, 40), (40, 70), (30, 30), (200, 300)] * 4))
    seen = split.images[np.arange(16)].astype(np.float64)
    found = _changed(split, Augmentation(flip=True)).numpy().astype(np.float64)
    is_plain = [np.abs(a - b).mean() < 2 for a, b in zip(seen, found, strict=True)]
    is_mirrored = [np.abs(a[..., ::-1] - b).mean() < 2 for a, b in zip(seen, found, strict=True)]
    assert all(plain != mirrored for plain, mirrored in zip(is_plain, is_mirrored, strict=True))
    assert 2 < sum(is_mirrored) < 14


def test_jpeg_is_decoded_no_larger_than_it_need_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(640, 480), (800, 1000)] * 6
    split = _load(_write(tmp_path, sizes, suffix="jpg"))
    decoded: list[tuple[int, int]] = []
    resized = originals._resized

    def watched(picture: Image.Image, box: list[float], size: tuple[int, int]) -> Image.Image:
        decoded.append((*picture.size, min(box[2] - box[0], box[3] - box[1])))
        return resized(picture, box, size)

    monkeypatch.setattr(originals, "_resized", watched)
    drafted = _changed(split, WINDOWS).float()
    assert min(width for width, _, _ in decoded) < 200
    assert all(side >= 15.99 for _, _, side in decoded)  # never enlarged
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *_: None)
    whole = _changed(split, WINDOWS).float()
    assert (drafted - whole).abs().max() < 12
    assert (drafted - whole).abs().mean() < 1.5


def test_mixed_sizes_in_one_batch(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(16, 16), (90, 40), (16, 16), (8, 8), (30, 300), (17, 16)]))
    settings = Augmentation(flip=True, min_area=0.3, rand_ops=0)
    first, second, other = (_changed(split, settings, seed) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    files = [path.name for path in split.images.paths]
    small = sorted(files.index(f"{index:03d}.png") for index in (0, 2, 3))
    prepared = torch.from_numpy(split.images[np.array(small)])
    assert torch.equal(first[small], augment.augment(prepared, settings, torch.Generator().manual_seed(5)))
    assert (first[:, 2].float() - 100).abs().max() < 30


def test_grey_networks_and_palettes(tmp_path: Path) -> None:
    _write(tmp_path, [(60, 40)] * 3)
    Image.open(tmp_path / "train" / "class0" / "000.png").convert("P").save(tmp_path / "train" / "class0" / "000.png")
    found = _changed(_load(tmp_path, (1, 8, 10)), WINDOWS, shape=(1, 8, 10))
    assert found.shape == (3, 1, 8, 10)
    assert found.float().std() > 5


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is an extra")
def test_rand_augment_changes_what_was_cut(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(60, 40)] * 8))
    plain = _changed(split, dataclasses.replace(WINDOWS, flip=False))
    changed = _changed(split, dataclasses.replace(WINDOWS, flip=False, rand_ops=2))
    again = _changed(split, dataclasses.replace(WINDOWS, flip=False, rand_ops=2))
    assert torch.equal(changed, again)
    assert (changed != plain).flatten(1).any(dim=1).sum() > 4


def test_broken_original_is_named(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(300, 200)] * 4))
    path = split.images.paths[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path.name}: not a readable picture"):
        _changed(split, WINDOWS)


def test_skipped_pictures_do_not_shift_the_others(tmp_path: Path) -> None:
    split = _load(_write(tmp_path, [(40, 30), (50, 30), (60, 30), (70, 30), (80, 30), (90, 30)]))
    left, held = splits.hold_out(split, 0.4)
    alone = [
        Originals(part, SHAPE).changed(np.array([1]), WINDOWS, torch.Generator().manual_seed(0))
        for part in (left, held)
    ]
    for part, found in zip((left, held), alone, strict=True):
        index = int(part.images.indices[1])
        whole = Originals(split, SHAPE)
        assert torch.equal(found, whole.changed(np.array([index]), WINDOWS, torch.Generator().manual_seed(0)))


def test_run_on_large_pictures_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(40 + 3 * index, 30 + 2 * (index % 7)) for index in range(24)]
    split = _load(_write(tmp_path, sizes, suffix="jpg"), (1, 8, 8))
    plan: dict[str, Any] = {"batch_size": 8, "augmentation": {"default": {"flip": True, "min_area": 0.2}}}

    def trainer(name: str) -> train.Trainer:
        setup = Setup(tmp_path, **{**TINY_RECIPE, **plan})
        setup.genotype = networks.parsed({**networks.NASH, "num_classes": 2})
        setup.inputs = train.Inputs(train=split, validation=split, test=split)
        made = train.Trainer(setup.genotype, setup.settings, setup.inputs, tmp_path / name)
        made._path = setup.path
        return made

    whole = trainer("whole")
    whole.start(whole._path)
    whole.train()
    stopped = trainer("stopped")
    stopped.start(stopped._path)
    take_step, num_steps = stopped._train_step, 0

    def counted(batch: Any) -> float:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 5:
            stopped._save()
            raise Interrupted("here")
        return take_step(batch)

    monkeypatch.setattr(stopped, "_train_step", counted)
    with pytest.raises(Interrupted):
        stopped.train()
    assert checkpoint.load(tmp_path / "stopped" / runs.CHECKPOINT).state["run"]["step"] == 1
    resumed = trainer("stopped")
    resumed.resume()
    resumed.train()
    _assert_same_run(tmp_path / "whole", tmp_path / "stopped")
