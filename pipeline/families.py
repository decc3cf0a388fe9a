"""What a checkpoint's files say of its pictures: the two architectures, their keys' defaults, and what we refuse.

`model_type` of config.json, the checkpoint's own word for its architecture, chooses the row of `FAMILIES`. Defaults
are those of transformers' configuration and image processor classes (PIL); `tests/pipeline/test_families.py` compares.
Knows nothing of names, files or pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the processors' defaults where a checkpoint names none
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STEPS = ("do_resize", "do_rescale", "do_normalize")  # what the device does after us, so they must be on

Pinpoints = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision tower: its picture's and its patches' side in pixels, and whether a class token leads its features."""

    image_size: int
    patch_size: int
    class_token: bool


TOWERS = {  # by vision_config.model_type, with the sizes that a vision_config without them stands for
    "siglip_vision_model": Tower(224, 16, class_token=False),
    "clip_vision_model": Tower(224, 32, class_token=True),
}


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture: values of keys that a checkpoint leaves out, and how it differs from the other.

    config.json: `tower_type` is of a vision_config without model_type, `tower` of no vision_config, `strategy` is
    vision_feature_select_strategy, `pinpoints` are (height, width), `ratio` is vision_aspect_ratio, whose number caps
    the tiles' features (None: this architecture has no such key and no cap). preprocessor_config.json: `size` and
    `crop_size`. `tiles_each`: several images are each cut into tiles. `videos`: it takes videos.
    """

    tower_type: str
    tower: Tower
    strategy: str
    pinpoints: Pinpoints
    ratio: str | None
    size: Mapping[str, int]
    crop_size: Mapping[str, int] | None
    tiles_each: bool
    videos: bool


FAMILIES = {
    "llava_onevision": Family(
        tower_type="siglip_vision_model",
        tower=Tower(384, 14, class_token=False),
        strategy="full",
        pinpoints=tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7)),
        ratio="anyres_max_9",
        size={"height": 384, "width": 384},
        crop_size=None,
        tiles_each=False,
        videos=True,
    ),
    "llava_next": Family(
        tower_type="clip_vision_model",
        tower=Tower(336, 14, class_token=True),
        strategy="default",
        pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)),
        ratio=None,
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        tiles_each=True,
        videos=False,
    ),
}


def family(config: Mapping[str, Any]) -> Family:
    """The architecture of config.json. ConfigError for another than those of `FAMILIES`."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ConfigError([f"config.json: model_type must be {' or '.join(FAMILIES)}, not {kind!r}"])
    return FAMILIES[kind]


def tower(config: Mapping[str, Any]) -> Tower:
    """The vision tower of config.json. ConfigError for another kind than those of `TOWERS`."""
    own, vision = family(config), config.get("vision_config")
    if vision is None:
        return own.tower
    kind, sizes = vision.get("model_type", own.tower_type), ("image_size", "patch_size")
    if kind not in TOWERS:
        known = " or ".join(TOWERS)
        raise ConfigError([f"config.json: vision_config.model_type must be {known}, not {kind!r}"])
    return replace(TOWERS[kind], **{key: vision[key] for key in sizes if key in vision})


def pinpoints(config: Mapping[str, Any], table: Mapping[str, Any]) -> Pinpoints:
    """The (height, width) of canvases that `table`, config.json or preprocessor_config.json, allows."""
    given = table.get("image_grid_pinpoints")
    return tuple((height, width) for height, width in given) if given else family(config).pinpoints


def max_tiles(config: Mapping[str, Any]) -> int:
    """How many tiles' features the language model sees at most: the 9 of anyres_max_9; 0 where there is no cap."""
    own = family(config)
    capped = own.ratio and re.fullmatch(r"anyres_max_(\d+)", config.get("vision_aspect_ratio", own.ratio))
    return int(capped[1]) if capped else 0


def colours(table: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    """image_mean or image_std (`key`) of red, green and blue."""
    red, green, blue = table.get(key, CLIP_MEAN if key == "image_mean" else CLIP_STD)
    return red, green, blue


def problems(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], video: Mapping[str, Any] | None
) -> list[str]:
    """Why pictures cannot be cut as config.json, preprocessor_config.json and video_preprocessor_config.json (if
    any) ask."""
    found = [*_config_problems(config), *_processor_problems("preprocessor_config.json", preprocessor)]
    if pinpoints(config, config) != pinpoints(config, preprocessor):
        found.append("config.json and preprocessor_config.json disagree about image_grid_pinpoints")
    found += _size_problems(config, preprocessor)
    return found if video is None else [*found, *_video_problems(config, preprocessor, video)]


def _config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    own, eye = family(config), tower(config)
    if any(n % eye.image_size for pinpoint in pinpoints(config, config) for n in pinpoint):
        yield f"image_grid_pinpoints must be multiples of the vision tower's image_size {eye.image_size}"
    # What leaves one feature for each patch: "default" drops the first, "full" none.
    needed, has = ("default", "a") if eye.class_token else ("full", "no")
    if config.get("vision_feature_select_strategy", own.strategy) != needed:
        strategy = f"vision_feature_select_strategy must be {needed}"
        yield f"config.json: {strategy}: its vision tower has {has} class token"
    if own.ratio and not max_tiles(config):
        yield "config.json: vision_aspect_ratio must be anyres_max_ and a number"


def _processor_problems(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{name}: {step} must be true" for step in STEPS if not table.get(step, True))
    if not math.isclose(table.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        yield f"{name}: rescale_factor must be 1/255"


def _size_problems(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Iterator[str]:
    tile, name = tower(config).image_size, "preprocessor_config.json"
    if _side(config, preprocessor) != tile:
        yield f"{name}: size must be {tile} x {tile}, as the vision tower's"
    # Tiles are cut and crops are trimmed to crop_size: a tile of it is neither.
    crop_size = preprocessor.get("crop_size", family(config).crop_size)
    if crop_size is not None and _square(crop_size) != tile:
        yield f"{name}: crop_size must be {tile} x {tile}, as the vision tower's"
    if crop_size is None and preprocessor.get("do_center_crop"):
        yield f"{name}: do_center_crop must be false where there is no crop_size"


def _video_problems(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], video: Mapping[str, Any]
) -> Iterator[str]:
    name = "video_preprocessor_config.json"
    yield from _processor_problems(name, video)
    if video.get("do_center_crop"):
        yield f"{name}: do_center_crop must be false"
    for key in ("image_mean", "image_std"):
        if colours(video, key) != colours(preprocessor, key):
            yield f"images and videos have different {key}"
    if _side(config, video) != _side(config, preprocessor):
        yield "images and videos have different size"


def _side(config: Mapping[str, Any], table: Mapping[str, Any]) -> int | None:
    """Of the square that a processor makes of crops; None if it makes none.

    A shortest edge (a plain number is one) makes a square of crops, which are square; not of a video's frames.
    """
    own = family(config)
    size = table.get("size", own.size)
    edge = size if isinstance(size, int) else size.get("shortest_edge")
    if edge is None:
        return _square(size)
    return None if own.videos else int(edge)


def _square(size: Any) -> int | None:
    """The side of {"height": …, "width": …} or of a plain number; None if that is not square."""
    height, width = (size, size) if isinstance(size, int) else (size.get("height"), size.get("width"))
    return height if height == width and isinstance(height, int) else None
