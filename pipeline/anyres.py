"""How a checkpoint cuts pictures into crops, and how many visual tokens they become: from W x H alone.

The rules are those of transformers' LLaVA-OneVision and LLaVA-NeXT processors and models
(`select_best_resolution`, `LlavaOnevisionImageProcessorPil`, `LlavaNextImageProcessorPil`,
`_get_number_of_features`, `pack_image_features`), equal to the bit and the token;
`tests/pipeline/test_anyres_oracle.py` compares. Knows nothing of files, batches or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline import families
from pipeline.errors import ConfigError
from pipeline.types import Cost, Media, Pixels, Size

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BICUBIC = 3  # PIL's number, and the processors' default filter
STRIP_ROWS = 256  # rows of a tall image that are padded to its square at once


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a checkpoint's configuration says of pixels and visual tokens. Sizes in pixels, pinpoints
    (height, width).

    `patches` is the side of a tile's feature map (27 for 384 px by 14), `max_tiles` the 9 of anyres_max_9 (0: no
    cap). `tiles_each`: several images are each cut into tiles (LLaVA-NeXT), else each is one square. `videos`: the
    checkpoint takes videos. `mean` and `std` normalise pixels / 255; `image_filter` and `video_filter` are PIL
    resampling numbers.
    """

    tile: int
    pinpoints: tuple[tuple[int, int], ...]
    patches: int
    max_tiles: int
    tiles_each: bool
    videos: bool
    image_filter: int
    video_filter: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_checkpoint(
        cls,
        config: Mapping[str, Any],
        preprocessor: Mapping[str, Any],
        video_preprocessor: Mapping[str, Any] | None,
    ) -> Geometry:
        """From the contents of config.json, preprocessor_config.json and video_preprocessor_config.json (if
        any).

        Raises ConfigError, naming every reason, for a checkpoint that is neither a LLaVA-OneVision nor a
        LLaVA-NeXT, or whose files disagree or ask for something that is not done here.
        """
        family, tower = families.family(config), families.tower(config)
        if problems := families.problems(config, preprocessor, video_preprocessor):
            raise ConfigError(problems)
        video = preprocessor if video_preprocessor is None else video_preprocessor
        return cls(
            tile=tower.image_size,
            pinpoints=families.pinpoints(config, config),
            patches=tower.image_size // tower.patch_size,
            max_tiles=families.max_tiles(config),
            tiles_each=family.tiles_each,
            videos=family.videos,
            image_filter=preprocessor.get("resample", BICUBIC),
            video_filter=video.get("resample", BICUBIC),
            mean=families.colours(preprocessor, "image_mean"),
            std=families.colours(preprocessor, "image_std"),
        )

    def capped(self, max_crops: int) -> Geometry:
        """With only those `image_grid_pinpoints` that have at most `max_crops` crops, the base included; 0: all.

        Grid, crops and tokens are then what transformers' processor and model make of these pinpoints alone: a large
        picture shows less detail, a small one may get another grid. Pictures that are one crop each stay as they are:
        frames, and several images under one key unless `tiles_each`. ConfigError, with the least that is possible,
        where no pinpoint is left.
        """
        if not max_crops:
            return self
        small = tuple((h, w) for h, w in self.pinpoints if 1 + h * w // self.tile**2 <= max_crops)
        if not small:
            least = min(1 + h * w // self.tile**2 for h, w in self.pinpoints)
            raise ConfigError([f"[image] max_crops must be 0 or at least {least} here, not {max_crops}"])
        return replace(self, pinpoints=small)

    def tiled(self, media: Media) -> bool:
        """Whether a picture of such an asset is a base crop and tiles; else it is one crop."""
        return media is Media.IMAGE or (media is Media.IMAGES and self.tiles_each)

    def grid(self, size: Size) -> tuple[int, int]:
        """(rows, columns) of tiles for a picture of `size`."""
        return _layout(self, size)[0]

    def unpadded(self, size: Size) -> tuple[int, int]:
        """(rows, columns) of the joined tiles' feature map without padding.

        The map has grid x patches rows and columns; padding is cut off evenly, (whole - unpadded) / 2 on
        each side.
        """
        return _layout(self, size)[1]

    def packed(self, size: Size) -> tuple[int, int]:
        """(rows, columns) of the feature map that the language model sees, before one newline is put after
        each row.

        It is the unpadded map, scaled down (bilinear) if it holds more than 1.1^2 times `max_tiles` tiles'
        features.
        """
        return _layout(self, size)[2]

    def image_tokens(self, size: Size) -> int:
        """Visual tokens of one image: the base crop's, the packed map's, and a newline per row."""
        (tokens,) = self._image_tokens(np.array([self.packed(size)]))
        return int(tokens)

    def image_costs(self, sizes: Ints) -> Ints:
        """`cost` of assets of one tiled image each: (n, 2) widths and heights → (n, 3) tokens, crops, bytes.

        It takes n x 36 int64 a few times over: 4,096 sizes at once stay in a cache of 8 MB.
        """
        grids = self._grids(sizes)
        tokens = self._image_tokens(self._packed(self._unpadded(sizes, grids)))
        crops = 1 + grids.prod(axis=1)
        return np.stack([tokens, crops, crops * self._crop_bytes], axis=1)

    def _image_tokens(self, packed: Ints) -> Ints:
        rows, columns = packed.T
        tokens: Ints = self.patches**2 + rows * (columns + 1)
        return tokens

    @property
    def _crop_bytes(self) -> int:
        return self.tile**2 * 3

    def _grids(self, sizes: Ints) -> Ints:
        """(n, 2) rows and columns of tiles: of the pinpoint that keeps most of the picture's pixels and, among
        equals, wastes fewest; the first of ties."""
        pinpoints = np.array(self.pinpoints)
        height, width = pinpoints.T
        across, down = sizes[:, :1], sizes[:, 1:]
        scale = np.minimum(width / across, height / down)
        kept = np.minimum((across * scale).astype(np.int64) * (down * scale).astype(np.int64), across * down)
        best = kept == kept.max(axis=1, keepdims=True)
        chosen = np.where(best, width * height - kept, np.iinfo(np.int64).max).argmin(axis=1)
        grids: Ints = pinpoints[chosen] // self.tile
        return grids

    def _unpadded(self, sizes: Ints, grids: Ints) -> Ints:
        """`unpad_image`; its rounding to 7 digits is part of the rule."""
        width, height = sizes.T
        rows, columns = (grids * self.patches).T
        wide = width / height > columns / rows
        across = rows - 2 * ((rows - _rounded(height * (columns / width))) // 2)
        down = columns - 2 * ((columns - _rounded(width * (rows / height))) // 2)
        return np.stack([np.where(wide, across, rows), np.where(wide, columns, down)], axis=1)

    def _packed(self, maps: Ints) -> Ints:
        if not self.max_tiles:
            return maps
        ratio = np.sqrt(maps.prod(axis=1, keepdims=True) / (self.max_tiles * self.patches**2))
        smaller = maps // np.maximum(ratio, 1)  # of a strip nothing but padding may be left: 0 / 0
        return np.where(ratio > 1.1, smaller, maps).astype(np.int64)

    def tokens(self, media: Media, sizes: Sequence[Size], n_frames: int) -> tuple[int, ...]:
        """Visual tokens of each placeholder that the chat template writes: one per image, one for a whole clip.

        A square has a tile's and one newline; a clip has each frame's map pooled by 2, and one newline at its
        end. None for a clip where the checkpoint takes no videos.
        """
        if media is Media.VIDEO:
            return (n_frames * math.ceil(self.patches / 2) ** 2 + 1,) if self.videos else ()
        if self.tiled(media):
            return tuple(self.image_tokens(size) for size in sizes)
        return (self.patches**2 + 1,) * len(sizes)

    def n_crops(self, media: Media, sizes: Sequence[Size], n_frames: int) -> tuple[int, ...]:
        """Crops of each picture: image or frame. None for a clip where the checkpoint takes no videos."""
        if media is Media.VIDEO:
            return (1,) * n_frames if self.videos else ()
        return tuple(1 + math.prod(self.grid(size)) if self.tiled(media) else 1 for size in sizes)

    def cost(self, media: Media, sizes: Sequence[Size], n_frames: int) -> Cost:
        """What an asset asks for: `sizes` of its pictures (one for a video), `n_frames` sampled (0 for
        images). Nothing for a video where the checkpoint takes none: it is not looked at."""
        crops = sum(self.n_crops(media, sizes, n_frames))
        return Cost(sum(self.tokens(media, sizes, n_frames)), crops, crops * self._crop_bytes)

    def least(self, media: Media, size: Size) -> Size:
        """To what a picture of `size` may be reduced before it is cut: no crop is then made by enlarging it."""
        if not self.tiled(media):
            return Size(*_fitted(size, self.tile, self.tile))
        rows, columns = self.grid(size)
        width, height = _fitted(size, rows * self.tile, columns * self.tile)
        return Size(max(width, self.tile), max(height, self.tile))

    def cut(self, picture: Image.Image, media: Media, size: Size | None = None) -> Pixels:
        """The crops of one RGB picture of such an asset: uint8 (its `n_crops`, tile, tile, 3).

        `size` is the picture's own where `picture` is a draft of it.
        """
        if media is Media.VIDEO:
            return self.frame(picture)
        return self.crops(picture, size) if self.tiled(media) else self.square(picture)

    def crops(self, picture: Image.Image, size: Size | None = None) -> Pixels:
        """One RGB image as uint8 (1 + rows x columns, tile, tile, 3): the squashed base, then tiles row by
        row.

        The tiles cut a canvas on which the image, its aspect kept, lies centred on black. `size` as in `cut`.
        """
        size, tile = size or Size(*picture.size), self.tile
        rows, columns = self.grid(size)
        crops = np.empty((1 + rows * columns, tile, tile, 3), np.uint8)
        pixels = np.asarray(picture)
        base = _resized(pixels, Size(tile, tile), self.image_filter)
        crops[0] = base
        inside = Size(*_fitted(size, rows * tile, columns * tile))
        fitted = base if inside == Size(tile, tile) else _resized(pixels, inside, self.image_filter)
        if fitted is base and rows == columns == 1:  # a square no larger than a tile
            crops[1] = crops[0]
            return crops
        top, left = (rows * tile - inside.height) // 2, (columns * tile - inside.width) // 2
        corners = product(range(-top, rows * tile - top, tile), range(-left, columns * tile - left, tile))
        for crop, (y, x) in zip(crops[1:], corners, strict=True):
            _copy(fitted, y, x, crop)
        return crops

    def square(self, picture: Image.Image) -> Pixels:
        """One of several RGB images as uint8 (1, tile, tile, 3): padded to a square with the mean colour,
        resized.

        The square itself is never built whole (of a 20,000 x 1 strip it would take 1.6 GB): PIL resizes
        columns first and rows second, each padded row on its own, so strips give the same bits.
        """
        side, tile = max(picture.size), self.tile
        colour = (int(self.mean[0] * 255), int(self.mean[1] * 255), int(self.mean[2] * 255))
        narrow = Image.new("RGB", (tile, side), colour)  # the square after its columns were resized
        left, above = (side - picture.width) // 2, (side - picture.height) // 2
        for top in range(0, picture.height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, picture.height)
            strip = Image.new("RGB", (side, bottom - top), colour)
            strip.paste(picture.crop((0, top, picture.width, bottom)), (left, 0))
            narrow.paste(strip.resize((tile, bottom - top), self.image_filter), (0, above + top))
        return np.asarray(narrow.resize((tile, tile), self.image_filter))[None]

    def frame(self, picture: Image.Image) -> Pixels:
        """One RGB video frame, squashed: uint8 (1, tile, tile, 3)."""
        return _resized(np.asarray(picture), Size(self.tile, self.tile), self.video_filter)[None]


def _resized(pixels: Pixels, size: Size, method: int) -> Pixels:
    """By PIL's resampling of this number."""
    if method == BICUBIC:
        from pipeline import resample  # who only counts crops does without its imports

        return resample.resize(pixels, size)
    return np.asarray(Image.fromarray(pixels).resize((size.width, size.height), method))


def _copy(canvas: Pixels, y: int, x: int, crop: Pixels) -> None:
    """What lies at (y, x) of a canvas; black where that is beyond it."""
    part = canvas[max(y, 0) : max(y + len(crop), 0), max(x, 0) : max(x + len(crop), 0)]
    if part.shape != crop.shape:
        crop[:] = 0
    top, left = max(-y, 0), max(-x, 0)
    crop[top : top + part.shape[0], left : left + part.shape[1]] = part


@lru_cache(maxsize=1 << 16)
def _layout(geometry: Geometry, size: Size) -> tuple[tuple[int, int], ...]:
    """`grid`, `unpadded` and `packed` of one picture."""
    sizes = np.array([[size.width, size.height]])
    grids = geometry._grids(sizes)
    unpadded = geometry._unpadded(sizes, grids)
    return tuple((int(a), int(b)) for ((a, b),) in (grids, unpadded, geometry._packed(unpadded)))


def _rounded(x: Floats) -> Ints:
    """`int(round(x, 7))` of Python for x >= 0: the whole part, or one more where that is within half a 7th digit."""
    whole = np.floor(x)
    return (whole + (whole + 1 - x <= 5e-8)).astype(np.int64)


def _fitted(size: Size, height: int, width: int) -> tuple[int, int]:
    """(width, height) of a picture of `size` scaled into a canvas, its aspect kept
    (`get_patch_output_size`)."""
    across, down = width / size.width, height / size.height
    if across < down:
        return width, min(math.ceil(size.height * across), height)
    return min(math.ceil(size.width * down), width), height
