"""Pictures are resized as Pillow resizes them, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline import resample
from pipeline.types import Pixels, Size

SIZES = 250  # of each kind


def noise(dice: np.random.Generator, width: int, height: int) -> Pixels:
    """Of all values, or of the two whose sums go beyond 8 bits."""
    values = dice.integers(0, 256, (height, width, 3), np.uint8)
    return values if dice.integers(2) else (values > 127).astype(np.uint8) * np.uint8(255)


@pytest.mark.parametrize(
    ("most", "most_into"),
    [(20, 400), (900, 500), (900, 40)],
    ids=["of few pixels", "of many", "to few"],
)
def test_pictures_of_all_sizes_are_resized_as_pillow_does(most: int, most_into: int) -> None:
    dice = np.random.default_rng(most_into)
    for _ in range(SIZES):
        (width, height), into = dice.integers(1, most, 2), dice.integers(1, most_into, 2)
        pixels = noise(dice, width, height)
        wanted = Image.fromarray(pixels).resize((int(into[0]), int(into[1])), Image.Resampling.BICUBIC)

        assert np.array_equal(resample.resize(pixels, Size(*map(int, into))), np.asarray(wanted))


@pytest.mark.parametrize("shape", [(100, 3_000), (30, 20_000), (1, 4_000), (4_000, 1)], ids=str)
def test_strips_are_resized_as_pillow_does(shape: tuple[int, int]) -> None:
    picture = Image.fromarray(noise(np.random.default_rng(0), *shape))
    wanted = picture.resize((384, 384), Image.Resampling.BICUBIC)

    assert np.array_equal(resample.resize(np.asarray(picture), Size(384, 384)), np.asarray(wanted))


def test_a_picture_of_that_size_is_the_answer() -> None:
    pixels = noise(np.random.default_rng(0), 5, 7)

    assert resample.resize(pixels, Size(5, 7)) is pixels
