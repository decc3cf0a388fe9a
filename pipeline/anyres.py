"""How a OneVision checkpoint cuts pictures into crops, and how many visual tokens they become: from W x H
alone.

The rules are those of transformers' LLaVA-OneVision processor and model (`select_best_resolution`,
`LlavaOnevisionImageProcessorPil`, `LlavaOnevisionProcessor._get_number_of_features`,
`pack_image_features`), equal to the bit and the token; `tests/pipeline/test_anyres_oracle.py` compares.
Knows nothing of files, batches or models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.types import Cost, Media, Pixels, Size

BICUBIC = 3  # PIL's number, and the processor's default filter
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the processor's defaults where a checkpoint names none
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DEFAULT_TILE = 384
DEFAULT_PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
STEPS = ("do_resize", "do_rescale", "do_normalize")  # what the device does after us, so they must be on
STRIP_ROWS = 256  # rows of a tall image that are padded to its square at once


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a checkpoint's configuration says of pixels and visual tokens. Sizes in pixels, pinpoints
    (height, width).

    `patches` is the side of a tile's feature map (27 for 384 px by 14), `max_tiles` the 9 of anyres_max_9.
    `mean` and `std` normalise pixels / 255; `image_filter` and `video_filter` are PIL resampling numbers.
    """

    tile: int
    pinpoints: tuple[tuple[int, int], ...]
    patches: int
    max_tiles: int
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

        Raises ConfigError, naming every reason, for a checkpoint that is not a OneVision one, or whose files
        disagree or ask for something that is not done here.
        """
        if config.get("model_type") != "llava_onevision":
            raise ConfigError([f"the model is of type {config.get('model_type')!r}, not llava_onevision"])
        video = preprocessor if video_preprocessor is None else video_preprocessor
        problems = [*_files_problems(config, preprocessor), *_video_problems(preprocessor, video)]
        if problems:
            raise ConfigError(problems)
        tile, patch = _vision(config)
        ratio = re.fullmatch(r"anyres_max_(\d+)", config.get("vision_aspect_ratio", "anyres_max_9"))
        return cls(
            tile, _pinpoints(config), tile // patch, int(ratio[1]) if ratio else 0,
            preprocessor.get("resample", BICUBIC), video.get("resample", BICUBIC),
            _three(preprocessor.get("image_mean", CLIP_MEAN)), _three(preprocessor.get("image_std",
            CLIP_STD)), )  # fmt: skip

    def grid(self, size: Size) -> tuple[int, int]:
        """(rows, columns) of tiles for a picture of `size`."""
        height, width = _best(self.pinpoints, size)
        return height // self.tile, width // self.tile

    def unpadded(self, size: Size) -> tuple[int, int]:
        """(rows, columns) of the joined tiles' feature map without padding.

        The map has grid x patches rows and columns; padding is cut off evenly, (whole - unpadded) / 2 on
        each side (`unpad_image`; its rounding to 7 digits is part of the rule).
        """
        rows, columns = (n * self.patches for n in self.grid(size))
        if size.width / size.height > columns / rows:
            padding = (rows - int(round(size.height * (columns / size.width), 7))) // 2
            return rows - 2 * padding, columns
        padding = (columns - int(round(size.width * (rows / size.height), 7))) // 2
        return rows, columns - 2 * padding

    def packed(self, size: Size) -> tuple[int, int]:
        """(rows, columns) of the feature map that the language model sees, before one newline is put after
        each row.

        It is the unpadded map, scaled down (bilinear) if it holds more than 1.1^2 times `max_tiles` tiles'
        features.
        """
        rows, columns = self.unpadded(size)
        ratio = math.sqrt(rows * columns / (self.max_tiles * self.patches**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)

    def image_tokens(self, size: Size) -> int:
        """Visual tokens of one image: the base crop's, the packed map's, and a newline per row."""
        rows, columns = self.packed(size)
        return self.patches**2 + rows * columns + rows

    def images_tokens(self, n: int) -> int:
        """Visual tokens of `n` > 1 images: a tile's and one newline each."""
        return n * (self.patches**2 + 1)

    def video_tokens(self, n_frames: int) -> int:
        """Visual tokens of a clip: each frame's map pooled by 2, and one newline at the end."""
        return n_frames * math.ceil(self.patches / 2) ** 2 + 1

    def cost(self, media: Media, sizes: Sequence[Size], n_frames: int) -> Cost:
        """What an asset asks for: `sizes` of its pictures (one for a video), `n_frames` sampled (0 for
        images)."""
        if media is Media.IMAGE:
            tokens, crops = _image_cost(self, sizes[0])
        elif media is Media.IMAGES:
            tokens, crops = self.images_tokens(len(sizes)), len(sizes)
        else:
            tokens, crops = self.video_tokens(n_frames), n_frames
        return Cost(tokens, crops, crops * self.tile**2 * 3)

    def crops(self, picture: Image.Image) -> Pixels:
        """One RGB image as uint8 (1 + rows x columns, tile, tile, 3): the squashed base, then tiles row by
        row.

        The tiles cut a canvas on which the image, its aspect kept, lies centred on black.
        """
        size = Size(*picture.size)
        rows, columns = self.grid(size)
        fitted = picture.resize(_fitted(size, rows * self.tile, columns * self.tile), self.image_filter)
        canvas = np.zeros((rows * self.tile, columns * self.tile, 3), np.uint8)
        top, left = (canvas.shape[0] - fitted.height) // 2, (canvas.shape[1] - fitted.width) // 2
        canvas[top : top + fitted.height, left : left + fitted.width] = np.asarray(fitted)
        tiles = canvas.reshape(rows, self.tile, columns, self.tile, 3).swapaxes(1, 2)
        base = np.asarray(picture.resize((self.tile, self.tile), self.image_filter))
        return np.concatenate([base[None], tiles.reshape(-1, self.tile, self.tile, 3)])

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
        return np.asarray(picture.resize((self.tile, self.tile), self.video_filter))[None]


@lru_cache(maxsize=1 << 16)
def _best(pinpoints: tuple[tuple[int, int], ...], size: Size) -> tuple[int, int]:
    """The (height, width) that keeps most of the picture's pixels and, among equals, wastes fewest; the
    first of ties."""

    def rank(pinpoint: tuple[int, int]) -> tuple[int, int]:
        height, width = pinpoint
        scale = min(width / size.width, height / size.height)
        kept = min(int(size.width * scale) * int(size.height * scale), size.width * size.height)
        return -kept, width * height - kept

    return min(pinpoints, key=rank)


@lru_cache(maxsize=1 << 16)
def _image_cost(geometry: Geometry, size: Size) -> tuple[int, int]:
    rows, columns = geometry.grid(size)
    return geometry.image_tokens(size), 1 + rows * columns


def _fitted(size: Size, height: int, width: int) -> tuple[int, int]:
    """(width, height) of a picture of `size` scaled into a canvas, its aspect kept
    (`get_patch_output_size`)."""
    across, down = width / size.width, height / size.height
    if across < down:
        return width, min(math.ceil(size.height * across), height)
    return min(math.ceil(size.width * down), width), height


def _vision(config: Mapping[str, Any]) -> tuple[int, int]:
    """(image size, patch size) of the vision tower."""
    vision = config.get("vision_config") or {"image_size": DEFAULT_TILE, "patch_size": 14}
    return vision.get("image_size", 224), vision.get("patch_size", 16)  # transformers' SigLIP defaults


def _pinpoints(table: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    return tuple((height, width) for height, width in table.get("image_grid_pinpoints") or DEFAULT_PINPOINTS)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _files_problems(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> list[str]:
    tile, _ = _vision(config)
    problems = _processor_problems("preprocessor_config.json", preprocessor)
    if _pinpoints(config) != _pinpoints(preprocessor):
        problems.append("config.json and preprocessor_config.json disagree about image_grid_pinpoints")
    if any(n % tile for pinpoint in _pinpoints(config) for n in pinpoint):
        problems.append(f"image_grid_pinpoints must be multiples of the vision tower's image_size {tile}")
    if _side(preprocessor) != tile:
        problems.append(f"preprocessor_config.json: size must be {tile} x {tile}, as the vision tower's")
    if config.get("vision_feature_select_strategy", "full") != "full":
        problems.append("config.json: vision_feature_select_strategy must be full")
    if not re.fullmatch(r"anyres_max_[1-9]\d*", config.get("vision_aspect_ratio", "anyres_max_9")):
        problems.append("config.json: vision_aspect_ratio must be anyres_max_ and a number")
    return problems


def _video_problems(preprocessor: Mapping[str, Any], video: Mapping[str, Any]) -> list[str]:
    if video is preprocessor:
        return []
    problems = _processor_problems("video_preprocessor_config.json", video)
    for name, default in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD)):
        if _three(video.get(name, default)) != _three(preprocessor.get(name, default)):
            problems.append(f"images and videos have different {name}")
    if _side(video) != _side(preprocessor):
        problems.append("images and videos have different size")
    return problems


def _processor_problems(name: str, table: Mapping[str, Any]) -> list[str]:
    problems = [f"{name}: {step} must be true" for step in STEPS if not table.get(step, True)]
    if table.get("do_center_crop"):
        problems.append(f"{name}: do_center_crop must be false")
    if not math.isclose(table.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        problems.append(f"{name}: rescale_factor must be 1/255")
    return problems


def _side(table: Mapping[str, Any]) -> int | None:
    """The processor's square size; None if it is none."""
    size = table.get("size", {"height": DEFAULT_TILE, "width": DEFAULT_TILE})
    if isinstance(size, int):
        return size
    height, width = size.get("height"), size.get("width")
    return height if height == width and isinstance(height, int) else None
