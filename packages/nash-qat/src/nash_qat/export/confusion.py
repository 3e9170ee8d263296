"""A confusion matrix as a picture: rows are the true classes, columns what they were taken for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..base import manifest as manifests

_MAX_SIDE, _MAX_LABELLED = 900, 60
_WHITE, _BLUE = np.array([255.0, 255.0, 255.0]), np.array([8.0, 48.0, 107.0])


def draw(matrix: NDArray[np.int64], class_names: tuple[str, ...], path: Path) -> None:
    """Write a confusion matrix (K, K) as PNG; a cell's colour is its share of the row, white for none.

    Up to 60 classes have their names and, where they fit, the counts.

    Raises:
        OutputError: the file cannot be written.
    """
    num_classes = len(matrix)
    cell = max(1, min(40, _MAX_SIDE // num_classes))
    font = ImageFont.load_default(max(8, min(14, cell - 2)))
    names = class_names if num_classes <= _MAX_LABELLED else ()
    margin = max((round(font.getlength(name)) for name in names), default=0) + 12
    picture = Image.new("RGB", (margin + cell * num_classes + 8, margin + cell * num_classes + 8), "white")
    picture.paste(_cells(matrix, cell), (margin, margin))
    pen = ImageDraw.Draw(picture)
    for index, name in enumerate(names):
        middle = margin + cell * index + cell // 2
        pen.text((margin - 6, middle), name, fill="black", font=font, anchor="rm")
        _upwards(picture, name, font, middle, margin - 6)
    if names and cell >= 30:
        _counts(pen, matrix, cell, margin)
    with manifests.atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def _shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _cells(matrix: NDArray[np.int64], cell: int) -> Image.Image:
    shades = _shares(matrix)[:, :, None]
    colours = (_WHITE + (_BLUE - _WHITE) * shades).round().astype(np.uint8)
    return Image.fromarray(colours.repeat(cell, axis=0).repeat(cell, axis=1))


def _upwards(picture: Image.Image, text: str, font: ImageFont.FreeTypeFont, middle: int, bottom: int) -> None:
    """Write text that runs upwards from (middle, bottom)."""
    strip = Image.new("L", (bottom, font.getbbox("Ag")[3] + 2), 0)
    ImageDraw.Draw(strip).text((0, strip.height // 2), text, fill=255, font=font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    picture.paste("black", (middle - turned.width // 2, bottom - turned.height), turned)


def _counts(pen: ImageDraw.ImageDraw, matrix: NDArray[np.int64], cell: int, margin: int) -> None:
    font = ImageFont.load_default(10)
    shares = _shares(matrix)
    for row, column in np.argwhere(matrix).tolist():
        centre = (margin + cell * column + cell // 2, margin + cell * row + cell // 2)
        colour = "white" if shares[row, column] > 0.5 else "black"
        pen.text(centre, str(matrix[row, column]), fill=colour, font=font, anchor="mm")
