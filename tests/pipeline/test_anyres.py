"""The geometry of a checkpoint: its grids, its crops, its token arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.anyres import Geometry
from pipeline.errors import ConfigError
from pipeline.types import Cost, Media, Size

CONFIG: dict[str, Any] = {"model_type": "llava_onevision"}
REAL = Geometry.from_checkpoint(CONFIG, {}, None)
NEXT = Geometry.from_checkpoint({"model_type": "llava_next"}, {"size": 336, "crop_size": 336}, None)


def small() -> Geometry:
    pinpoints = [[8 * rows, 8 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    vision = {"image_size": 8, "patch_size": 2}
    processor = {
        "size": {"height": 8, "width": 8},
        "image_grid_pinpoints": pinpoints,
        "image_mean": (0.5, 0.2, 0.1),
    }
    return Geometry.from_checkpoint(
        CONFIG | {"vision_config": vision, "image_grid_pinpoints": pinpoints}, processor, processor
    )


def test_a_geometry_can_be_told_from_another_and_used_as_a_key() -> None:
    assert {REAL: 1}[Geometry.from_checkpoint(CONFIG, {}, {})] == 1


@pytest.mark.parametrize(
    ("width", "height", "crops", "tokens"),
    [  # computed independently, with transformers' functions
        (384, 384, 2, 1485),
        (400, 300, 3, 1728),
        (512, 512, 5, 3699),
        (640, 427, 5, 2709),
        (640, 480, 5, 2929),
        (1024, 768, 7, 4725),
        (1024, 683, 7, 5157),
        (1280, 720, 9, 5967),
        (1024, 1024, 10, 7371),
        (1153, 944, 13, 8748),
        (1920, 1080, 16, 7269),
        (4000, 3000, 31, 7309),
        (2304, 2304, 37, 7371),
    ],
)
def test_an_image_costs_what_the_table_says(width: int, height: int, crops: int, tokens: int) -> None:
    assert REAL.cost(Media.IMAGE, [Size(width, height)], 0) == Cost(tokens, crops, crops * 384 * 384 * 3)


@pytest.mark.parametrize(
    ("width", "height", "crops", "tokens"),
    [  # computed independently, with transformers' processor
        (336, 336, 3, 1176),
        (400, 300, 3, 1368),
        (640, 480, 5, 2340),
        (1000, 300, 4, 2182),
        (300, 1000, 4, 2232),
        (4000, 3000, 5, 2340),
        (6000, 1, 3, 576),
        (1, 4000, 3, 600),
    ],
)
def test_an_image_costs_what_the_table_says_for_next(
    width: int, height: int, crops: int, tokens: int
) -> None:
    assert NEXT.cost(Media.IMAGE, [Size(width, height)], 0) == Cost(tokens, crops, crops * 336 * 336 * 3)


def test_several_images_cost_as_much_as_each_alone_where_each_is_tiled() -> None:
    sizes = [Size(640, 480), Size(1000, 300)]

    assert NEXT.tokens(Media.IMAGES, sizes, 0) == (2340, 2182)
    assert NEXT.n_crops(Media.IMAGES, sizes, 0) == (5, 4)
    assert NEXT.cost(Media.IMAGES, sizes, 0) == Cost(4522, 9, 9 * 336 * 336 * 3)


def test_a_clip_costs_nothing_where_no_videos_are_taken() -> None:
    assert NEXT.cost(Media.VIDEO, [Size(1920, 1080)], 16) == Cost(0, 0, 0)


def test_a_clip_has_one_placeholder_and_a_crop_a_frame() -> None:
    assert REAL.tokens(Media.VIDEO, [Size(1920, 1080)], 16) == (3137,)
    assert REAL.n_crops(Media.VIDEO, [Size(1920, 1080)], 16) == (1,) * 16


def test_each_kind_of_asset_is_cut_as_its_checkpoint_cuts_it() -> None:
    picture = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    cuts = {(g.tile, media): g.cut(picture, media) for g in (REAL, NEXT) for media in Media}

    np.testing.assert_array_equal(cuts[384, Media.IMAGE], REAL.crops(picture))
    np.testing.assert_array_equal(cuts[384, Media.IMAGES], REAL.square(picture))
    np.testing.assert_array_equal(cuts[384, Media.VIDEO], REAL.frame(picture))
    np.testing.assert_array_equal(cuts[336, Media.IMAGE], NEXT.crops(picture))
    np.testing.assert_array_equal(cuts[336, Media.IMAGES], NEXT.crops(picture))


def test_several_images_cost_a_tile_and_a_newline_each() -> None:
    assert REAL.cost(Media.IMAGES, [Size(4000, 3000), Size(1, 1)], 0) == Cost(1460, 2, 2 * 384 * 384 * 3)


def test_a_clip_costs_196_tokens_a_frame_and_one() -> None:
    assert REAL.cost(Media.VIDEO, [Size(1920, 1080)], 16) == Cost(3137, 16, 16 * 384 * 384 * 3)


def test_packed_rows_and_newlines_are_the_image_tokens() -> None:
    for size in (Size(640, 480), Size(3000, 200), Size(2304, 2304), Size(1, 6000)):
        rows, columns = REAL.packed(size)

        assert REAL.image_tokens(size) == 27 * 27 + rows * (columns + 1)


def test_of_a_strip_that_is_all_padding_the_base_crop_is_left() -> None:
    assert small().packed(Size(1000, 1)) == (0, 4)
    assert small().image_tokens(Size(1000, 1)) == 16


def test_unpadding_leaves_even_margins() -> None:
    rows, columns = REAL.unpadded(Size(640, 480))

    assert REAL.grid(Size(640, 480)) == (2, 2)
    assert (rows, columns) == (40, 54)


def test_the_base_comes_first_and_tiles_go_row_by_row() -> None:
    geometry = small()
    pixels = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3) * 20 + 10, 8, 0), 8, 1)
    crops = geometry.crops(Image.fromarray(pixels).convert("RGB"))

    assert crops.shape == (10, 8, 8, 3)
    assert crops.dtype == np.uint8
    assert [int(tile.mean()) for tile in crops[1:]] == [10, 30, 50, 70, 90, 110, 130, 150, 170]
    assert crops[0].std() > 30


def test_anyres_pads_with_black() -> None:
    crops = small().crops(Image.new("RGB", (24, 12), "white"))

    assert small().grid(Size(24, 12)) == (2, 3)
    assert crops[1, 0].max() == 0
    assert crops[1, -1].min() == 255


def test_one_of_several_images_is_padded_with_the_mean_colour() -> None:
    square = small().square(Image.new("RGB", (32, 4), "white"))

    assert square.shape == (1, 8, 8, 3)
    assert square[0, 0, 0].tolist() == [127, 51, 25]
    assert square[0, 4, 4].min() > 127


def test_a_frame_is_squashed() -> None:
    assert (small().frame(Image.new("RGB", (16, 4), "white")) == 255).all()


def test_a_long_strip_does_not_take_a_square_of_memory() -> None:
    """Of 60,000 x 60,000 pixels, 14 GB, strips hold 60 MB at a time."""
    assert REAL.square(Image.new("RGB", (60_000, 2), "white")).shape == (1, 384, 384, 3)


def test_a_square_no_larger_than_a_tile_is_its_base_and_once_more_its_only_tile() -> None:
    for side in (300, 384):
        base, tile = REAL.crops(Image.linear_gradient("L").resize((side, side)).convert("RGB"))

        np.testing.assert_array_equal(base, tile)


def test_a_square_that_fills_no_grid_lies_on_black_beside_its_base() -> None:
    """NeXT has no grid of one tile: the square is as large as the base, and its tiles are not the base."""
    crops = NEXT.crops(Image.new("RGB", (336, 336), "white"))

    assert [int(crop.mean()) for crop in crops] == [255, 127, 127]


def test_capping_leaves_the_grids_with_so_many_crops() -> None:
    assert REAL.capped(10).n_crops(Media.IMAGE, [Size(4000, 3000)], 0) == (10,)
    assert REAL.capped(37) == REAL.capped(0) == REAL
    assert NEXT.capped(4).n_crops(Media.IMAGE, [Size(640, 480)], 0) == (3,)


def test_capping_changes_nothing_about_what_is_one_crop_each() -> None:
    capped, size = REAL.capped(2), Size(4000, 3000)

    assert capped.cost(Media.VIDEO, [size], 16) == REAL.cost(Media.VIDEO, [size], 16)
    assert capped.cost(Media.IMAGES, [size, size], 0) == REAL.cost(Media.IMAGES, [size, size], 0)


@pytest.mark.parametrize(("geometry", "least"), [(REAL, 2), (NEXT, 3)])
def test_a_cap_below_the_smallest_grid_is_refused_with_the_least(geometry: Geometry, least: int) -> None:
    with pytest.raises(ConfigError, match=f"max_crops must be 0 or at least {least} here, not 1"):
        geometry.capped(1)


@pytest.mark.parametrize(
    ("geometry", "media", "size", "least"),
    [
        (REAL, Media.IMAGE, Size(4000, 3000), Size(2304, 1728)),
        (REAL, Media.IMAGE, Size(4000, 400), Size(2304, 384)),  # the base is squashed into a whole tile
        (REAL, Media.IMAGES, Size(4000, 3000), Size(384, 288)),
        (NEXT, Media.IMAGES, Size(4000, 2000), Size(672, 336)),
    ],
)
def test_a_picture_may_be_reduced_to_what_its_crops_need(
    geometry: Geometry, media: Media, size: Size, least: Size
) -> None:
    assert geometry.least(media, size) == least
