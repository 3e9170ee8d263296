from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image

from nash_qat.base.errors import DataError
from nash_qat.data import pictures
from nash_qat.export import confusion

SHAPE = (1, 8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an image folder of ten classes, 4 and 2 pictures each."""
    random = np.random.default_rng(0)
    for split, number in (("train", 4), ("val", 2)):
        for label in range(10):
            place = tmp_path / "data" / split / f"class{label}"
            place.mkdir(parents=True)
            for index in range(number):
                Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{index}.png")
    return tmp_path / "data"


def _break_three(folder: Path) -> None:
    (folder / "train" / "class3" / "1.png").write_text("no picture")
    whole = (folder / "train" / "class5" / "0.png").read_bytes()
    (folder / "train" / "class5" / "0.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((8, 8), 3000, dtype=np.uint16)).save(folder / "train" / "class7" / "2.png")


def test_broken_pictures_are_named_and_counted(folder: Path) -> None:
    _break_three(folder)
    with pytest.raises(DataError) as caught:
        pictures.load("imagefolder", "train", SHAPE, 10, folder)
    message = str(caught.value)
    assert "3 of 40 pictures cannot be read" in message
    for part in ("class3/1.png: not a readable picture", "class5/0.png", "class7/2.png", "mode I;16", "--skip-broken"):
        assert part in message


def test_broken_pictures_are_skipped_as_told(folder: Path) -> None:
    whole = pictures.load("imagefolder", "train", SHAPE, 10, folder)
    before = whole.images[np.arange(40)]
    _break_three(folder)
    with pytest.warns(UserWarning, match="left out 3 of 40 pictures"):
        left = pictures.load("imagefolder", "train", SHAPE, 10, folder, skip_broken=True)
    kept = [index for index in range(40) if index not in (13, 20, 30)]
    assert len(left) == len(left.images) == 37
    assert left.labels.tolist() == whole.labels[kept].tolist()
    assert np.array_equal(left.images[np.arange(37)], before[kept])


def test_too_few_pictures_are_left(folder: Path) -> None:
    for path in folder.glob("train/class[1-9]/*.png"):
        path.write_text("")
    with pytest.raises(DataError, match=r"36 of 40 pictures cannot be read; 1 classes are left"):
        pictures.load("imagefolder", "train", SHAPE, 10, folder, skip_broken=True)


def test_command_line_stops_or_skips(
    run: Callable[..., Outcome], nash_path: Path, recipe_path: Path, folder: Path, tmp_path: Path
) -> None:
    _break_three(folder)
    common = ("train", nash_path, "--dataset", "imagefolder", "--data", folder, "--recipe", recipe_path)
    stopped = run(*common, "--out", tmp_path / "run")
    assert stopped.code == 5
    assert "3 of 40 pictures cannot be read" in stopped.err
    assert not (tmp_path / "run").exists()
    skipped = run(*common, "--skip-broken", "--out", tmp_path / "run", "--json")
    assert skipped.code == 0, skipped.err
    assert "warning: imagefolder/train: left out 3 of 40 pictures" in skipped.err
    evaluated = run("evaluate", tmp_path / "run" / "model.json", "--dataset", "imagefolder", "--data", folder,
                    "--confusion", tmp_path / "c.png", "--json")  # fmt: skip
    assert evaluated.json["accuracy"] == {**skipped.json["accuracy"], "float_top1": None}
    per_class = evaluated.json["accuracy"]["per_class"]
    assert len(per_class) == 10
    assert sum(per_class) / 10 == pytest.approx(evaluated.json["accuracy"]["top1"])
    assert Image.open(tmp_path / "c.png").size[0] > 400


def test_confusion_shows_counts_as_colours(tmp_path: Path) -> None:
    matrix = np.array([[8, 2], [0, 5]])
    confusion.draw(matrix, ("left", "right"), tmp_path / "c.png")
    picture = np.asarray(Image.open(tmp_path / "c.png"))
    margin = picture.shape[0] - 2 * 40 - 8
    corners = [
        [picture[margin + 40 * row + 2, margin + 40 * column + 2].tolist() for column in (0, 1)] for row in (0, 1)
    ]
    assert corners[1][0] == [255, 255, 255]
    assert corners[1][1] == [8, 48, 107]
    assert corners[0][0] == [57, 89, 137]  # 80 % of the way
    assert (picture[:margin, :margin] == 255).all()
    assert (picture[:margin, margin:] != 255).any()


def test_confusion_of_many_classes_has_no_names(tmp_path: Path) -> None:
    confusion.draw(np.eye(1000, dtype=np.int64), tuple(map(str, range(1000))), tmp_path / "c.png")
    assert Image.open(tmp_path / "c.png").size == (1020, 1020)
