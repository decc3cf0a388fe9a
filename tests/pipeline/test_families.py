"""What is read from the files of both architectures, what their left-out keys mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaOnevisionConfig, SiglipVisionConfig
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from pipeline.anyres import Geometry
from pipeline.errors import ConfigError
from pipeline.families import CLIP_MEAN, CLIP_STD, FAMILIES, TOWERS
from pipeline.types import Media

ONEVISION: dict[str, Any] = {"model_type": "llava_onevision"}
NEXT: dict[str, Any] = {"model_type": "llava_next"}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
# As llava-hf/llava-v1.6-mistral-7b-hf ships them.
CONFIG: dict[str, Any] = {
    "architectures": ["LlavaNextForConditionalGeneration"],
    "ignore_index": -100,
    "image_grid_pinpoints": PINPOINTS,
    "image_token_index": 32000,
    "model_type": "llava_next",
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
        "architectures": ["MistralForCausalLM"],
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    },
    "torch_dtype": "float16",
    "use_image_newline_parameter": True,
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
        "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
PREPROCESSOR: dict[str, Any] = {
    "aspect_ratio_setting": "anyres",
    "crop_size": {"height": 336, "width": 336},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "image_grid_pinpoints": PINPOINTS,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "LlavaNextImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "LlavaNextProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 336},
}
SIZED = {
    "size": 336,
    "crop_size": 336,
}  # the least that a NeXT processor must say: its class's default is 224


def test_a_next_checkpoint_is_read_as_the_hub_has_it() -> None:
    geometry = Geometry.from_checkpoint(CONFIG, PREPROCESSOR, None)

    assert geometry == Geometry(
        tile=336,
        pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)),
        patches=24,
        max_tiles=0,
        tiles_each=True,
        videos=False,
        image_filter=3,
        video_filter=3,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )


def test_what_a_next_checkpoint_leaves_out_is_as_the_hub_has_it() -> None:
    whole = Geometry.from_checkpoint(CONFIG, PREPROCESSOR, None)

    assert Geometry.from_checkpoint(NEXT, SIZED, None) == whole


def test_what_a_onevision_checkpoint_leaves_out_is_as_the_hub_has_it() -> None:
    geometry = Geometry.from_checkpoint(ONEVISION, {}, None)

    assert (geometry.tile, geometry.patches, geometry.max_tiles, geometry.image_filter) == (384, 27, 9, 3)
    assert len(geometry.pinpoints) == 36
    assert geometry.mean == CLIP_MEAN
    assert (geometry.tiles_each, geometry.videos) == (False, True)


def test_the_features_cap_is_the_checkpoints() -> None:
    config = ONEVISION | {"vision_aspect_ratio": "anyres_max_4"}

    assert Geometry.from_checkpoint(config, {}, None).max_tiles == 4


def test_a_next_with_a_tower_without_class_token_keeps_all_features() -> None:
    """As IBM's Granite Vision has it: SigLIP, several layers, all of each."""
    pinpoints = [[384, 768], [768, 384], [384, 3840]]
    tower = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
    config = NEXT | {
        "image_grid_pinpoints": pinpoints,
        "vision_config": tower,
        "vision_feature_layer": [-24, -20, -12, -1],
        "vision_feature_select_strategy": "full",
    }
    square = {"height": 384, "width": 384}
    processor = {"size": square, "crop_size": square, "image_grid_pinpoints": pinpoints}
    geometry = Geometry.from_checkpoint(config, processor, None)

    assert (geometry.tile, geometry.patches, geometry.tiled(Media.IMAGES)) == (384, 27, True)


@pytest.mark.parametrize("config_class", [LlavaNextConfig, LlavaOnevisionConfig])
def test_the_defaults_of_config_json_are_transformers(config_class: Any) -> None:
    default, family = config_class().to_dict(), FAMILIES[config_class.model_type]
    vision = default["vision_config"]

    assert default["vision_feature_select_strategy"] == family.strategy
    assert tuple(map(tuple, default["image_grid_pinpoints"])) == family.pinpoints
    assert default.get("vision_aspect_ratio") == family.ratio
    assert vision["model_type"] == family.tower_type
    assert (vision["image_size"], vision["patch_size"]) == (family.tower.image_size, family.tower.patch_size)
    assert family.tower.class_token == TOWERS[family.tower_type].class_token


@pytest.mark.parametrize("config_class", [CLIPVisionConfig, SiglipVisionConfig])
def test_the_defaults_of_a_vision_tower_are_transformers(config_class: Any) -> None:
    default, tower = config_class(), TOWERS[config_class.model_type]

    assert (default.image_size, default.patch_size) == (tower.image_size, tower.patch_size)


@pytest.mark.parametrize(
    ("model_type", "processor"),
    [("llava_next", LlavaNextImageProcessorPil), ("llava_onevision", LlavaOnevisionImageProcessorPil)],
)
def test_the_defaults_of_the_image_processor_are_transformers(model_type: str, processor: Any) -> None:
    family = FAMILIES[model_type]

    assert (processor.size, processor.crop_size) == (family.size, family.crop_size)
    assert tuple(map(tuple, processor.image_grid_pinpoints)) == family.pinpoints
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == (CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize(
    ("config", "preprocessor", "video", "word"),
    [
        (
            {"model_type": "llava_next_video"},
            {},
            None,
            "llava_onevision or llava_next, not 'llava_next_video'",
        ),
        ({}, {}, None, "llava_onevision or llava_next, not None"),
        (ONEVISION | {"vision_config": {"model_type": "vit"}}, {}, None, "siglip_vision_model or clip"),
        (ONEVISION, {"image_grid_pinpoints": [[384, 384]]}, None, "disagree"),
        (
            ONEVISION | {"image_grid_pinpoints": [[400, 384]]},
            {"image_grid_pinpoints": [[400, 384]]},
            None,
            "multiples",
        ),
        (ONEVISION, {"size": {"height": 336, "width": 336}}, None, "size must be 384 x 384"),
        (ONEVISION, {"size": {"shortest_edge": 384}}, None, "size must be 384 x 384"),
        (ONEVISION, {"size": 384}, None, "size must be 384 x 384"),
        (ONEVISION, {"do_rescale": False}, None, "do_rescale"),
        (ONEVISION, {"rescale_factor": 1.0}, None, "rescale_factor"),
        (ONEVISION, {"do_center_crop": True}, None, "do_center_crop"),
        (ONEVISION, {"crop_size": {"height": 336, "width": 336}}, None, "crop_size must be 384 x 384"),
        (ONEVISION, {}, {"image_mean": (0.5, 0.5, 0.5)}, "image_mean"),
        (ONEVISION, {}, {"size": {"height": 336, "width": 336}}, "size"),
        (ONEVISION, {}, {"do_center_crop": True}, "video_preprocessor_config.json: do_center_crop"),
        (ONEVISION | {"vision_aspect_ratio": "pad"}, {}, None, "vision_aspect_ratio"),
        (ONEVISION | {"vision_aspect_ratio": "anyres_max_0"}, {}, None, "vision_aspect_ratio"),
        (
            ONEVISION | {"vision_feature_select_strategy": "default"},
            {},
            None,
            "must be full: .* no class token",
        ),
        (NEXT | {"vision_feature_select_strategy": "full"}, SIZED, None, "must be default: .* a class token"),
        (NEXT, {}, None, "size must be 336 x 336"),
        (NEXT, {"size": 336}, None, "crop_size must be 336 x 336"),
        (NEXT, SIZED | {"crop_size": None, "do_center_crop": True}, None, "where there is no crop_size"),
        (NEXT, SIZED | {"image_grid_pinpoints": [[336, 336]]}, None, "disagree"),
        (NEXT | {"vision_config": {"image_size": 448}}, SIZED, None, "image_size 448"),
    ],
)
def test_what_cannot_be_done_right_is_refused(
    config: dict[str, Any], preprocessor: dict[str, Any], video: dict[str, Any] | None, word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        Geometry.from_checkpoint(config, preprocessor, video)


def test_every_reason_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Geometry.from_checkpoint(NEXT, {"do_resize": False, "image_grid_pinpoints": [[336, 336]]}, None)

    assert len(caught.value.problems) == 4
