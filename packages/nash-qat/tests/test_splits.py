from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from conftest import Outcome
from PIL import Image

from nash_qat.base import manifest
from nash_qat.base.errors import DataError, UsageError
from nash_qat.data import datasets as data
from nash_qat.data import pictures, splits
from nash_qat.data.datasets import Preprocessing, Split

SHAPE = (1, 8, 8)


def _split(counts: list[int]) -> Split:
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 4, 4), dtype=np.uint8)
    return Split(
        name="some/train", images=images, labels=labels, class_names=tuple(f"c{k}" for k in range(len(counts)))
    )


def _folder(root: Path, split: str, number: int, classes: int = 10) -> None:
    random = np.random.default_rng(len(split))
    for label in range(classes):
        place = root / split / f"class{label}"
        place.mkdir(parents=True)
        for index in range(number):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{index}.png")


def test_each_class_gives_the_same_share() -> None:
    split = _split([50, 20, 3, 2, 1])
    left, held = splits.hold_out(split, 0.2)
    assert np.bincount(held.labels, minlength=5).tolist() == [10, 4, 1, 1, 0]
    assert len(left) + len(held) == 76
    pixels = [part.images[np.arange(len(part))].reshape(len(part), -1) for part in (left, held)]
    together = np.concatenate(pixels)
    whole = split.images.reshape(76, -1)
    assert np.array_equal(np.unique(together, axis=0), np.unique(whole, axis=0))
    assert held.name == "some/train (held out)"


def test_held_out_pictures_are_the_same_for_every_run_and_grow_with_the_share() -> None:
    split = _split([40, 60])
    found = [set(splits.hold_out(split, share)[1].images.indices.tolist()) for share in (0.1, 0.1, 0.3)]
    assert found[0] == found[1]
    assert found[0] < found[2]
    assert (len(found[0]), len(found[2])) == (10, 30)
    assert found[0] != set(range(4)) | set(range(40, 46))  # not the first of every class


def test_default_is_a_tenth_of_a_small_set_and_a_bounded_part_of_a_large_one() -> None:
    assert len(splits.hold_out(_split([700, 737]), None)[1]) == 144
    large = Split(
        name="large/train",
        images=np.zeros((300_000, 1, 1, 1), dtype=np.uint8),
        labels=np.arange(300_000) % 3,
        class_names=("a", "b", "c"),
    )
    assert len(splits.hold_out(large, None)[1]) == pytest.approx(10_000, abs=3)
    assert len(splits.hold_out(large, 0.1)[1]) == 30_000


def test_nothing_can_be_held_out_of_single_pictures() -> None:
    with pytest.raises(DataError, match=r"no class has two pictures.*--val-fraction 0"):
        splits.hold_out(_split([1, 1, 1]), 0.5)


def test_digest_is_the_documented_one_and_tells_splits_apart() -> None:
    split = _split([2, 3])
    expected = hashlib.sha256(b'["c0", "c1"]' + np.array([0, 0, 1, 1, 1], dtype="<i8").tobytes())
    expected.update(split.images.tobytes())
    assert splits.digest(split) == expected.hexdigest()
    assert splits.digest(pictures.part(split, np.arange(5))) == expected.hexdigest()
    others = [
        pictures.part(split, np.array([1, 0, 2, 3, 4])),
        dataclasses.replace(split, labels=np.array([0, 1, 1, 1, 1])),
        dataclasses.replace(split, class_names=("c0", "other")),
        dataclasses.replace(split, images=split.images ^ 1),
    ]
    assert len({splits.digest(other) for other in others} | {expected.hexdigest()}) == 5


def test_digest_of_files_is_of_names_and_sizes(tmp_path: Path) -> None:
    _folder(tmp_path / "a", "train", 2, classes=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    def digest(folder: str) -> str:
        preprocessing = Preprocessing(channels=1, height=8, width=8)
        return splits.digest(data.load("imagefolder", "train", preprocessing, data_dir=tmp_path / folder))

    expected = hashlib.sha256(b'["class0", "class1"]' + np.array([0, 0, 1, 1], dtype="<i8").tobytes())
    for name in ("class0/0.png", "class0/1.png", "class1/0.png", "class1/1.png"):
        size = (tmp_path / "a" / "train" / name).stat().st_size
        expected.update(f"{name}\0{size}\n".encode())
    first = digest("a")
    assert first == digest("b") == expected.hexdigest()
    (tmp_path / "b" / "train" / "class0" / "0.png").rename(tmp_path / "b" / "train" / "class0" / "00.png")
    assert digest("b") != first
    with (tmp_path / "a" / "train" / "class1" / "1.png").open("ab") as file:
        file.write(b"more")
    assert digest("a") != first
    split = data.load("imagefolder", "train", Preprocessing(channels=1, height=8, width=8), data_dir=tmp_path / "a")
    (tmp_path / "a" / "train" / "class1" / "1.png").unlink()
    with pytest.raises(DataError, match=r"class1/1\.png: cannot be read \(No such file or directory\)"):
        splits.digest(split)


def test_folders_of_an_image_folder(tmp_path: Path) -> None:
    _folder(tmp_path, "train", 4)
    _folder(tmp_path, "val", 2)
    found = splits.load("imagefolder", SHAPE, 10, tmp_path, val_fraction=None)  # val/ is the test split
    assert found.validation is not None
    assert (found.test.name, len(found.test)) == ("imagefolder/val", 20)
    assert (len(found.train), len(found.validation)) == (30, 10)
    _folder(tmp_path, "test", 3)
    own = splits.load("imagefolder", SHAPE, 10, tmp_path, val_fraction=None)
    assert own.validation is not None
    assert [split.name for split in (own.train, own.validation, own.test)] == [
        "imagefolder/train",
        "imagefolder/val",
        "imagefolder/test",
    ]
    assert [len(split) for split in (own.train, own.validation, own.test)] == [40, 20, 30]
    assert own.watched == ("validation", own.validation)
    with pytest.raises(UsageError, match=r"--val-fraction: got 0.1, but .* has a folder val beside test"):
        splits.load("imagefolder", SHAPE, 10, tmp_path, val_fraction=0.1)


def test_nothing_is_held_out_if_so_told() -> None:
    found = splits.load("digits", SHAPE, 10, None, val_fraction=0)
    assert (len(found.train), found.validation, found.watched[0]) == (1437, None, "test")
    assert found.record()["validation"] is None


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    _folder(tmp_path, "train", 2)
    _folder(tmp_path, "test", 1)
    (tmp_path / "test" / "class3").rename(tmp_path / "test" / "horse")
    with pytest.raises(
        DataError, match="imagefolder/test: got the classes horse, expected class3 as imagefolder/train"
    ):
        splits.load("imagefolder", SHAPE, 10, tmp_path, val_fraction=None)


def test_only_image_folders_have_a_validation_split() -> None:
    with pytest.raises(UsageError, match="digits: has no validation split of its own"):
        data.load("digits", "val", Preprocessing(channels=1, height=8, width=8))


def test_command_line_watches_a_part_or_none(
    run: Callable[..., Outcome], nash_path: Path, recipe_path: Path, tmp_path: Path
) -> None:
    common = ("train", nash_path, "--recipe", recipe_path, "--json")
    for fraction, expected in ((None, (1295, 142)), (0.25, (1078, 359)), (0, (1437, None))):
        out = tmp_path / str(fraction)
        option = () if fraction is None else ("--val-fraction", fraction)
        outcome = run(*common, "--out", out, *option)
        assert outcome.code == 0, outcome.err
        split = "test" if fraction == 0 else "validation"
        assert outcome.err.count(f", {split} top1 ") == 2
        record = manifest.load(out / "model.json", "model")["training"]["data"]
        held = record["validation"]
        assert (record["train"]["count"], held and held["count"]) == expected
        assert record["test"] == {"name": "digits/test", "count": 360, "digest": record["test"]["digest"]}
        best = run("export", out, "--best", "--out", out / "best", "--json")
        assert best.json["accuracy"]["split"] == "test"
        assert json.loads((out / "best" / "model.json").read_text())["training"]["selection"]["split"] == split
    refused = run(*common, "--out", tmp_path / "None", "--resume", "--val-fraction", 0.2)
    assert refused.code == 2
    assert "val_fraction: got 0.2, expected None as the run has" in refused.err
    for wrong in (1.5, -0.1, "nan", "half"):
        assert run(*common, "--out", tmp_path / "x", "--val-fraction", wrong).code == 2
    assert not (tmp_path / "x").exists()


def test_few_pictures_of_a_class_still_train(run: Callable[..., Outcome], recipe_path: Path, tmp_path: Path) -> None:
    _folder(tmp_path / "data", "train", 3)
    _folder(tmp_path / "data", "val", 1)
    path = networks.written(networks.NASH, tmp_path)
    outcome = run("train", path, "--dataset", "imagefolder", "--data", tmp_path / "data", "--recipe", recipe_path,
                  "--epochs", 1, "--out", tmp_path / "run", "--json")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.json["accuracy"]["split"] == "val"


def _searched(**held_out: float) -> dict[str, Any]:
    return {"search": {"dataset": "digits", "held_out": held_out}}


def _record(held: str = "digits/train (held out)") -> dict[str, Any]:
    return {"train": {"name": "digits/train", "count": 90}, "validation": {"name": held, "count": 10}}


@pytest.mark.parametrize(
    ("genotype", "dataset", "is_seen"),
    [
        (_searched(fraction=0.1, count=10, num_pictures=100), "digits", False),
        (_searched(fraction=0.3, count=30, num_pictures=100), "digits", False),  # which are ours, too
        (_searched(fraction=0.05, count=5, num_pictures=100), "digits", True),
        (_searched(fraction=0.1, count=10, num_pictures=99), "digits", True),  # a picture was added
        ({"search": {"dataset": "digits"}}, "digits", True),
        (_searched(fraction=0.1, count=10, num_pictures=100), "cifar10", None),
        ({"search": None}, "digits", None),
        ({}, "digits", None),
    ],
)
def test_search_may_have_seen_validation_pictures(genotype: dict[str, Any], dataset: str, is_seen: bool | None) -> None:
    assert splits.seen_by_search(genotype, dataset, _record()) is is_seen


def test_search_has_not_seen_a_folder_of_its_own() -> None:
    assert splits.seen_by_search({"search": {"dataset": "imagefolder"}}, "imagefolder", _record("x/val")) is False
    assert splits.seen_by_search({"search": {"dataset": "digits"}}, "digits", {"validation": None}) is None


def test_share_of_the_search_is_taken_where_none_is_given(
    run: Callable[..., Outcome], recipe_path: Path, tmp_path: Path
) -> None:
    held = {"fraction": 0.4, "count": 575, "num_pictures": 1437}
    tree = networks.BASELINE | {"search": {"dataset": "digits", "held_out": held}}
    path = networks.written(tree, tmp_path)
    for own, count in (((), 575), (("--val-fraction", 0.2), 287)):
        out = tmp_path / str(count)
        outcome = run("train", path, "--recipe", recipe_path, *own, "--out", out)
        assert outcome.code == 0, outcome.err
        training = manifest.load(out / "model.json", "model")["training"]
        assert training["data"]["validation"]["count"] == count
        assert training["validation_seen_by_search"] is False
    for name in ("train", "val", "test"):
        _folder(tmp_path / "data", name, 1, classes=2)
    tree["search"]["dataset"] = "imagefolder"
    assert splits.fraction_of_search(tree, "imagefolder", tmp_path) == 0.4
    assert splits.fraction_of_search(tree, "imagefolder", tmp_path / "data") is None  # val/ is there
