from __future__ import annotations

import importlib.util

import pytest
import torch

from nash_qat.base.errors import DataError, UsageError
from nash_qat.data import augment as module
from nash_qat.data import datasets as data
from nash_qat.data.augment import augment
from nash_qat.recipe import Augmentation


def _pictures() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_identity_changes_nothing() -> None:
    pictures = _pictures()
    assert torch.equal(augment(pictures, Augmentation(), _generator()), pictures)


def test_flip_mirrors_about_half() -> None:
    pictures = _pictures()
    changed = augment(pictures, Augmentation(flip=True), _generator())
    is_plain = (changed == pictures).flatten(1).all(dim=1)
    is_mirrored = (changed == pictures.flip(3)).flatten(1).all(dim=1)
    assert (is_plain | is_mirrored).all()
    assert 16 < int(is_mirrored.sum()) < 48


def test_shift_moves_by_no_more_than_its_share() -> None:
    pictures = torch.zeros(64, 1, 20, 20, dtype=torch.uint8)
    pictures[:, :, 10, 10] = 255
    changed = augment(pictures, Augmentation(shift=0.1), _generator())
    rows, columns = changed.float().sum(dim=(1, 3)), changed.float().sum(dim=(1, 2))
    assert rows[:, :7].sum() == rows[:, 14:].sum() == columns[:, :7].sum() == columns[:, 14:].sum() == 0
    assert not torch.equal(changed, pictures)


def test_crop_enlarges() -> None:
    ramp = torch.arange(24, dtype=torch.uint8).mul(10).expand(64, 1, 24, 24)
    changed = augment(ramp, Augmentation(min_area=0.25), _generator()).float()
    spread = changed.amax(dim=(1, 2, 3)) - changed.amin(dim=(1, 2, 3))
    assert (spread <= 230).all()
    assert spread.min() < 190


def test_same_generator_state_gives_the_same_pictures() -> None:
    settings = Augmentation(flip=True, shift=0.2, min_area=0.5)
    first, second = (augment(_pictures(), settings, _generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.uint8


def test_rand_augment_changes_each_picture_and_leaves_the_global_generator_alone() -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is an extra")
    settings = Augmentation(rand_ops=2, rand_magnitude=12)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (augment(_pictures(), settings, _generator()) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, second)
    changed = (first != _pictures()).flatten(1).any(dim=1)
    assert changed.sum() > 40
    other = augment(_pictures(), settings, torch.Generator().manual_seed(2))
    assert not torch.equal(first, other)
    same = _pictures()[:1].expand(64, -1, -1, -1)
    assert len(augment(same, settings, _generator()).flatten(1).unique(dim=0)) > 10


def test_rand_augment_without_torchvision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise DataError("torchvision is not installed")

    monkeypatch.setattr(data, "load_torchvision", missing)
    module._transforms.cache_clear()
    module.check(Augmentation(flip=True))
    with pytest.raises(UsageError, match=r"augmentation\.rand_ops: needs torchvision"):
        module.check(Augmentation(rand_ops=1))
