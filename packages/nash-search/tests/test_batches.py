from __future__ import annotations

import numpy as np
import pytest
import torch

from nash_search.base.errors import DataError
from nash_search.data import datasets as data
from nash_search.data import holdout
from nash_search.search import batches
from nash_search.search.recipe import Augmentation

PLAIN = Augmentation(crop_padding=0, flip=False)


def test_halves_share_the_split(digits: data.Split) -> None:
    one, other = batches.halve(digits, PLAIN, seed=0)
    assert sorted([*one.indices, *other.indices]) == list(range(len(digits)))
    assert abs(len(one) - len(other)) <= 1


def test_halves_depend_on_the_seed(digits: data.Split) -> None:
    first, again, other = (batches.halve(digits, PLAIN, seed=seed)[0].indices for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_epoch_shows_each_picture_once_in_a_new_order(digits: data.Split) -> None:
    half, _ = batches.halve(digits, PLAIN, seed=0)
    size = len(half) // 6
    labels = [torch.cat([half.batch(epoch, number, size)[1] for number in range(6)]) for epoch in (0, 1)]
    assert not torch.equal(*labels)
    assert all(len(found) == 6 * size for found in labels)
    assert half.batch(0, 0, size)[0].dtype == torch.float32


def test_batch_depends_on_its_place_alone(digits: data.Split) -> None:
    augmentation = Augmentation(crop_padding=2, flip=True)
    half, _ = batches.halve(digits, augmentation, seed=0)
    x, y = half.batch(3, 2, 16)
    half.batch(7, 1, 16)
    again, _ = batches.halve(digits, augmentation, seed=0)
    assert all(torch.equal(a, b) for a, b in zip((x, y), again.batch(3, 2, 16), strict=True))
    assert all(torch.equal(a, b) for a, b in zip((x, y), half.batch(3, 2, 16), strict=True))


def test_batches_are_channels_last_in_unit_range(digits: data.Split) -> None:
    x, _ = batches.halve(digits, PLAIN, seed=0)[0].batch(0, 0, 32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)


def test_clean_batches_cover_the_half_without_augmentation(digits: data.Split) -> None:
    _, half = batches.halve(digits, Augmentation(crop_padding=4, flip=True), seed=0)
    parts = list(half.clean_batches(64))
    assert min(len(y) for _, y in parts) > 32
    pixels = (torch.cat([x for x, _ in parts]) * 255).round().to(torch.uint8)
    assert np.array_equal(pixels.numpy(), digits.images[half.indices])


def test_augmented_picture_is_a_window_of_the_padded_one() -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (64, 3, 16, 18), dtype=np.uint8)
    padded = np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = batches.augment(pixels, Augmentation(crop_padding=2, flip=True), np.random.default_rng(1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (16, 18), (2, 3)).reshape(64, 3, 25, 16, 18)
    is_window = (windows == found[:, :, None]).all((1, 3, 4)).any(1)
    is_mirrored = (windows == found[:, :, None, :, ::-1]).all((1, 3, 4)).any(1)
    assert (is_window ^ is_mirrored).all()
    assert 16 < is_mirrored.sum() < 48


def test_padding_is_at_most_an_eighth_of_the_side() -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (32, 1, 16, 24), dtype=np.uint8)
    found = batches.augment(pixels, Augmentation(crop_padding=16, flip=False), np.random.default_rng(1))
    black = [[int((picture[0] == 0).all(axis).sum()) for axis in (0, 1)] for picture in found]
    assert np.max(black, 0).tolist() == [2, 2]


def test_cutout_blacks_out_a_square_at_random() -> None:
    pixels = np.full((256, 2, 10, 14), 9, dtype=np.uint8)
    found = batches.augment(pixels, Augmentation(crop_padding=0, flip=False, cutout=4), np.random.default_rng(1))
    assert np.array_equal(found[:, 0], found[:, 1])
    black = found[:, 0] == 0
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    assert np.array_equal(black.sum((1, 2)), heights * widths)  # a rectangle: the square, or what is inside of it
    assert heights.max() == widths.max() == 4
    assert heights.min() == widths.min() == 2  # half of it, about a corner pixel
    assert black.any(0).all()  # it may lie anywhere


def test_clean_batches_mix_the_classes_of_a_sorted_split() -> None:
    labels = np.repeat(np.arange(4), 64)
    images = np.zeros((256, 1, 2, 2), dtype=np.uint8)
    split = data.Split(name="sorted", images=images, labels=labels, class_names=tuple("abcd"))
    _, half = batches.halve(split, PLAIN, seed=0)
    assert all(len(set(y.tolist())) == 4 for _, y in half.clean_batches(32))


def test_no_augmentation_changes_nothing() -> None:
    pixels = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    assert batches.augment(pixels, PLAIN, np.random.default_rng(0)) is pixels


def test_too_few_pictures_are_refused(digits: data.Split) -> None:
    few = data.Split(name="few", images=digits.images[:3], labels=digits.labels[:3], class_names=digits.class_names)
    with pytest.raises(DataError, match="got 3 pictures"):
        batches.halve(few, PLAIN, seed=0)


def test_only_so_many_pictures_are_drawn(digits: data.Split) -> None:
    halves = batches.halve(digits, PLAIN, seed=0, num_images=101)
    drawn = np.concatenate([half.indices for half in halves])
    assert len(drawn) == len(set(drawn.tolist())) == 101
    everything = [len(half) for half in batches.halve(digits, PLAIN, seed=0, num_images=10**6)]
    assert sum(everything) == len(digits)
    assert drawn.max() > 1000  # from everywhere in the split


def test_pictures_held_out_are_in_neither_half(digits: data.Split) -> None:
    held = holdout.held_out(digits, 0.1)
    shares = np.bincount(digits.labels[held]) / np.bincount(digits.labels)
    assert shares == pytest.approx(0.1, abs=0.01)
    halves = batches.halve(digits, PLAIN, seed=0, held=held)
    seen = np.concatenate([half.indices for half in halves])
    assert sorted([*seen, *held]) == list(range(len(digits)))
    assert set(held) < set(holdout.held_out(digits, 0.3))
    few = batches.halve(digits, PLAIN, seed=0, held=held, num_images=100)
    assert sum(map(len, few)) == 100
    assert not set(held) & set(np.concatenate([half.indices for half in few]))


def test_single_pictures_cannot_be_held_out(digits: data.Split) -> None:
    single = data.Split(name="single", images=digits.images[:10], labels=np.arange(10), class_names=digits.class_names)
    with pytest.raises(DataError, match="no class has two pictures"):
        holdout.held_out(single, 0.1)
    assert len(holdout.held_out(single, 0)) == 0
