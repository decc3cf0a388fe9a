"""Crops and token counts against transformers' own LLaVA-OneVision and LLaVA-NeXT processors (PIL), for all aspects."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from pipeline.anyres import Geometry
from pipeline.types import Media, Pixels, Size


class Oracle:
    """transformers' processor beside our geometry, made from the same configuration.

    With `max_crops`, transformers' has only the pinpoints with at most so many crops, and our geometry is capped.
    """

    def __init__(
        self, config: dict[str, Any], processor: dict[str, Any], images: Any, words: Any, max_crops: int = 0
    ) -> None:
        self.tile: int = config["vision_config"]["image_size"]
        self.mean, self.std = processor["image_mean"], processor["image_std"]
        self.geometry = Geometry.from_checkpoint(config, processor, None).capped(max_crops)
        pinpoints = [
            [height, width]
            for height, width in processor["image_grid_pinpoints"]
            if not max_crops or (height // self.tile) * (width // self.tile) + 1 <= max_crops
        ]
        self.images = images(**processor | {"image_grid_pinpoints": pinpoints})
        # Its __init__ wants a tokenizer; counting tokens needs none of what that would set up.
        self.words = words.__new__(words)
        self.words.image_processor = self.images
        self.words.image_token, self.words.video_token = "i", "v"

    def process(self, pictures: Any) -> Any:
        """Crops by picture, without the padding of a batch."""
        return self.images.preprocess(pictures, do_pad=False)

    def difference(self, crops: Pixels, expected: Any) -> float:
        """The largest difference after normalisation; infinite for another number of crops."""
        ours = (crops.astype(np.float64) / 255 - self.mean) / self.std
        theirs = np.asarray(expected, np.float64).transpose(0, 2, 3, 1)
        return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")

    def tokens(self, size: Size) -> int:
        """The placeholders that transformers' processor writes for one image of `size`."""
        crops = np.empty((1, 3, self.tile, self.tile), np.uint8)
        image = {"image_sizes": [(size.height, size.width)], "pixel_values": [crops], "batch_num_images": [1]}
        return len(self.words.replace_image_token(image, 0))


def onevision(tile: int, side: int, mean: tuple[float, float, float], max_crops: int = 0) -> Oracle:
    """LLaVA-OneVision with all pinpoints up to `side` by `side` tiles."""
    pinpoints = [[tile * r, tile * c] for r in range(1, side + 1) for c in range(1, side + 1)]
    processor: dict[str, Any] = {
        "size": {"height": tile, "width": tile},
        "image_grid_pinpoints": pinpoints,
        "image_mean": list(mean),
        "image_std": [0.5, 0.4, 0.3],
    }
    config = {
        "model_type": "llava_onevision",
        "image_grid_pinpoints": pinpoints,
        "vision_config": {"image_size": tile, "patch_size": 14},
    }
    oracle = Oracle(config, processor, LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor, max_crops)
    oracle.words.num_image_tokens = (tile // 14) ** 2
    oracle.words.vision_aspect_ratio = "anyres_max_9"
    oracle.words.vision_feature_select_strategy = "full"
    return oracle


def next_(tile: int, max_crops: int = 0) -> Oracle:
    """LLaVA-NeXT with its five pinpoints."""
    pinpoints = [[tile * r, tile * c] for r, c in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    processor: dict[str, Any] = {
        "size": {"shortest_edge": tile},
        "crop_size": {"height": tile, "width": tile},
        "image_grid_pinpoints": pinpoints,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    config = {
        "model_type": "llava_next",
        "image_grid_pinpoints": pinpoints,
        "vision_config": {"image_size": tile, "patch_size": 14},
    }
    oracle = Oracle(config, processor, LlavaNextImageProcessorPil, LlavaNextProcessor, max_crops)
    oracle.words.patch_size, oracle.words.num_additional_image_tokens = 14, 1
    oracle.words.vision_feature_select_strategy = "default"
    return oracle


REAL = onevision(384, 6, (0.5, 0.5, 0.5))  # as llava-hf ships it: 36 pinpoints, 27 x 27 patches
DEMO = onevision(72, 4, (0.48145466, 0.4578275, 0.40821073))  # the demo: 16 pinpoints, 5 x 5 patches
NEXT = next_(336)  # as llava-hf ships it: 24 x 24 patches
TINY = next_(70)  # an odd number of patches, 5 x 5
ALL = [
    pytest.param(REAL, id="onevision-384px"),
    pytest.param(DEMO, id="onevision-72px"),
    pytest.param(NEXT, id="next-336px"),
    pytest.param(TINY, id="next-70px"),
]
CAPPED = [
    pytest.param(onevision(384, 6, (0.5, 0.5, 0.5), 10), id="onevision-384px-10-crops"),
    pytest.param(onevision(384, 6, (0.5, 0.5, 0.5), 2), id="onevision-384px-2-crops"),
    pytest.param(onevision(72, 4, (0.5, 0.4, 0.3), 4), id="onevision-72px-4-crops"),
    pytest.param(next_(336, 4), id="next-336px-4-crops"),
    pytest.param(next_(70, 3), id="next-70px-3-crops"),
]


def sizes(n: int, most: int, seed: int) -> list[Size]:
    """`n` sizes up to 6000 x 4000 pixels: a list of edges, then log-uniform areas up to `most` and aspects."""
    dice = random.Random(seed)
    found = [Size(1, 1), Size(1, 4000), Size(6000, 1), Size(384, 384), Size(1153, 944), Size(6000, 40)]
    while len(found) < n:
        area = np.exp(dice.uniform(0, np.log(most)))
        aspect = np.exp(dice.choice((0.0, dice.gauss(0, 0.4), dice.uniform(-5, 5))))
        width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 1 <= width <= 6000 and 1 <= height <= 4000:
            found.append(Size(width, height))
    return found[:n]


def picture(size: Size, seed: int) -> Image.Image:
    """Noise over a gradient: neither resampling nor padding can hide in it."""
    noise = np.random.default_rng(seed).integers(0, 256, (size.height, size.width, 3), np.uint8)
    ramp = np.linspace(0, 255, size.width).astype(np.uint8)[None, :, None]
    return Image.fromarray(np.maximum(noise, ramp))


def assert_images_equal(oracle: Oracle, chosen: Iterable[Size]) -> None:
    """Crops and tokens of single images; prints the score."""
    n, equal, worst = 0, 0, 0.0
    for i, size in enumerate(chosen):
        image = picture(size, i)
        theirs = oracle.process(image)
        difference = oracle.difference(oracle.geometry.cut(image, Media.IMAGE), theirs["pixel_values"][0])
        tokens = len(oracle.words.replace_image_token(theirs, 0))
        cost = oracle.geometry.cost(Media.IMAGE, [size], 0)
        crops = len(theirs["pixel_values"][0])
        n, worst = n + 1, max(worst, difference)
        equal += difference <= 1e-6 and (cost.visual_tokens, cost.crops) == (tokens, crops)
    print(f"\n{oracle.tile} px: {n} images, {equal} equal in crops and tokens, max difference {worst:.2e}")
    assert equal == n


def assert_groups_equal(oracle: Oracle, groups: Iterable[list[Size]]) -> None:
    """The same for several images under one prompt: nested lists, so that OneVision's `batch_num_images` counts
    them."""
    n, equal, worst = 0, 0, 0.0
    for group in groups:
        images = [picture(size, i) for i, size in enumerate(group)]
        theirs = oracle.process([images])
        pairs = zip(images, theirs["pixel_values"], strict=True)
        difference = max(oracle.difference(oracle.geometry.cut(i, Media.IMAGES), p) for i, p in pairs)
        tokens = tuple(len(oracle.words.replace_image_token(theirs, i)) for i in range(len(group)))
        crops = tuple(map(len, theirs["pixel_values"]))
        same = oracle.geometry.tokens(Media.IMAGES, group, 0) == tokens
        same &= oracle.geometry.n_crops(Media.IMAGES, group, 0) == crops
        n, worst = n + len(group), max(worst, difference)
        equal += len(group) * (difference <= 1e-6 and same)
    print(f"\n{oracle.tile} px: {n} of several images compared, {equal} equal, max difference {worst:.2e}")
    assert equal == n


@pytest.mark.parametrize("oracle", ALL)
def test_single_images_equal_transformers(oracle: Oracle) -> None:
    assert_images_equal(oracle, sizes(20, 500_000, seed=1))


@pytest.mark.parametrize("oracle", ALL)
def test_several_images_equal_transformers(oracle: Oracle) -> None:
    found = sizes(20, 300_000, seed=2)[3:]
    assert_groups_equal(oracle, [found[i : i + 2 + i % 3] for i in range(0, len(found) - 3, 4)])


@pytest.mark.parametrize("oracle", CAPPED)
def test_capped_images_equal_transformers_with_the_small_pinpoints_alone(oracle: Oracle) -> None:
    assert_images_equal(oracle, [*sizes(15, 500_000, seed=8), Size(1600, 1200)])


@pytest.mark.parametrize("oracle", CAPPED)
def test_capped_groups_equal_transformers_with_the_small_pinpoints_alone(oracle: Oracle) -> None:
    assert_groups_equal(oracle, [[Size(640, 480), Size(300, 900)], [Size(1200, 1000), Size(20, 20)]])


@pytest.mark.slow
def test_many_sizes_equal_transformers() -> None:
    """As llava-hf ships them, 1,000 of OneVision and 300 of NeXT; 300 of the demo.

    Areas are log-uniform: 24 million pixels take 1 s.
    """
    large = [Size(6000, 4000), Size(4000, 3000), Size(2304, 2304)]
    assert_images_equal(REAL, [*sizes(997, 6_000_000, seed=3), *large])
    assert_images_equal(NEXT, [*sizes(297, 12_000_000, seed=7), *large])
    assert_images_equal(DEMO, [*sizes(299, 12_000_000, seed=4), Size(6000, 4000)])


@pytest.mark.slow
def test_many_groups_equal_transformers() -> None:
    for oracle in (REAL, NEXT, DEMO):
        found = [size for size in sizes(200, 3_000_000, seed=5) if max(size.width, size.height) <= 3000]
        assert_groups_equal(oracle, [found[i : i + 2 + i % 3] for i in range(0, len(found) - 3, 4)])


@pytest.mark.parametrize("oracle", [*ALL, *CAPPED])
def test_tokens_of_twenty_thousand_sizes_equal_transformers(oracle: Oracle) -> None:
    chosen = [Size(w, h) for w in range(1, 6001, 27) for h in range(1, 4001, 17)]
    equal = sum(
        oracle.tokens(size) == oracle.geometry.image_tokens(size)
        for size in random.Random(6).sample(chosen, 20_000)
    )
    print(f"\n{oracle.tile} px: {equal} of 20000 token counts equal")
    assert equal == 20_000


@pytest.mark.parametrize("oracle", [REAL, DEMO], ids=["384px", "72px"])
def test_clips_have_as_many_tokens_as_in_transformers(oracle: Oracle) -> None:
    for frames in (1, 2, 16, 64):
        clip = {"pixel_values_videos": [np.empty((frames, 3, oracle.tile, oracle.tile), np.uint8)]}
        expected = (len(oracle.words.replace_video_token(clip, 0)),)

        assert oracle.geometry.tokens(Media.VIDEO, [Size(1, 1)], frames) == expected
