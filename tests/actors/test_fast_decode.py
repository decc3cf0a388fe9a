"""[image] decode = "fast": JPEGs at a part of their size, where crops do not need more, through the real decoder."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from actors.sandbox import Sandbox
from pipeline.anyres import Geometry
from pipeline.config import ImageConfig, VideoConfig
from pipeline.types import Media, Size
from tests.realworld import photograph

GEOMETRY = Geometry.from_checkpoint({"model_type": "llava_onevision"}, {}, None)


@pytest.fixture(scope="module")
def exact() -> Iterator[Sandbox]:
    with Sandbox(ImageConfig(), VideoConfig(), GEOMETRY) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def fast() -> Iterator[Sandbox]:
    with Sandbox(ImageConfig(decode="fast"), VideoConfig(), GEOMETRY) as sandbox:
        yield sandbox


def jpeg(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=90)
    return sink.getvalue()


@pytest.mark.parametrize("name", ["retina.jpg", "hubble_deep_field.jpg"])
def test_crops_are_nearly_the_same_and_facts_are(exact: Sandbox, fast: Sandbox, name: str) -> None:
    """Real photographs of 1411 x 1411 and 1000 x 872 at half their size, for crops of 384 x 384."""
    members = [jpeg(Image.fromarray(photograph(name)))] * 2
    whole, half = exact.view(Media.IMAGES, members), fast.view(Media.IMAGES, members)
    difference = np.abs(whole.crops.astype(int) - half.crops)

    assert (half.facts, half.grid, half.sha256) == (whole.facts, whole.grid, whole.sha256)
    assert half.crops.shape == whole.crops.shape
    assert 0 < difference.mean() < 1  # of 255 levels; 0.61 and 0.82 were seen


def test_crops_are_exact_where_they_need_every_pixel(exact: Sandbox, fast: Sandbox) -> None:
    data = jpeg(Image.fromarray(photograph("retina.jpg")))

    np.testing.assert_array_equal(fast.view(Media.IMAGE, [data]).crops, exact.view(Media.IMAGE, [data]).crops)


def test_other_formats_are_exact(exact: Sandbox, fast: Sandbox) -> None:
    sink = io.BytesIO()
    Image.fromarray(photograph("hubble_deep_field.jpg")).save(sink, "PNG", compress_level=1)
    members = [sink.getvalue()] * 2

    np.testing.assert_array_equal(
        fast.view(Media.IMAGES, members).crops, exact.view(Media.IMAGES, members).crops
    )


def test_a_large_picture_has_the_crops_of_its_own_size(fast: Sandbox) -> None:
    """At half its 6,000 x 1,400 it would have 9 crops."""
    size = Size(6000, 1400)
    seen = fast.view(
        Media.IMAGE, [jpeg(Image.linear_gradient("L").resize((size.width, size.height)).convert("RGB"))]
    )

    assert (seen.facts, seen.grid) == ((size,), GEOMETRY.grid(size))
    assert len(seen.crops) == GEOMETRY.cost(Media.IMAGE, [size], 0).crops
