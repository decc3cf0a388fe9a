"""pipeline.footprint: counted from config.json alone, equal to the model that transformers builds of it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BitsAndBytesConfig,
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from pipeline.errors import ConfigError
from pipeline.footprint import DEFAULTS, OMITTED, Footprint
from tests.checkpoints import write
from tests.published import CONFIGS as PUBLISHED
from tests.published import next_of

CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "siglip_vision_model": SiglipVisionConfig,
    "clip_vision_model": CLIPVisionConfig,
    "llava_onevision": LlavaOnevisionConfig,
    "llava_next": LlavaNextConfig,
}
MODELS: dict[str, Any] = {
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
}
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
ODD = {
    "all that OneVision omits": {"model_type": "llava_onevision", "text_config": SMALL},
    "all that NeXT omits": {"model_type": "llava_next", "text_config": SMALL},
    "a vision_config of nothing": {"model_type": "llava_onevision", "vision_config": {}, "text_config": SMALL},
    "biases, a width of heads, two feature layers": {
        **next_of("llama", **SMALL, attention_bias=True, mlp_bias=True, head_dim=24),
        "vision_feature_layer": [-2, -5],
        "multimodal_projector_bias": False,
    },
    "keys that another language model would read": next_of("mistral", **SMALL, attention_bias=True, mlp_bias=True),
    "as many KV heads as heads": next_of("qwen2", **SMALL, num_key_value_heads=None),
    "tied as a whole": next_of("llama", **SMALL) | {"tie_word_embeddings": True},
    "tied in its part, which NeXT does not read": next_of("llama", **SMALL, tie_word_embeddings=True),
}  # fmt: skip


@cache
def built(name: str) -> Any:
    """transformers' own model of that configuration, without memory."""
    config = copy.deepcopy({**PUBLISHED, **ODD}[name])
    kind = config["model_type"]
    with torch.device("meta"):
        return MODELS[kind](CONFIGS[kind].from_dict(config))


def counted(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", [*PUBLISHED, *ODD])
def test_parameters_are_those_of_the_model_that_transformers_builds(name: str) -> None:
    model, footprint = built(name), Footprint.from_config({**PUBLISHED, **ODD}[name])
    language = model.model.language_model

    assert footprint.vision.parameters == counted(model.model.vision_tower)
    assert footprint.projector.parameters == counted(model.model.multi_modal_projector)
    assert footprint.language.parameters == counted(language) - counted(language.embed_tokens)
    assert footprint.parameters == counted(model)


@pytest.mark.parametrize("name", [*PUBLISHED, *ODD])
def test_linear_layers_are_those_that_quantization_packs(name: str) -> None:
    footprint = Footprint.from_config({**PUBLISHED, **ODD}[name])
    whole = footprint.vision + footprint.projector + footprint.language

    packed = [m for n, m in built(name).named_modules() if type(m) is torch.nn.Linear and n != "lm_head"]
    assert whole.linear == sum(m.weight.numel() for m in packed)
    assert whole.rows == sum(m.out_features for m in packed)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_those_of_transformers_configurations(kind: str) -> None:
    theirs = {field.name: field.default for field in dataclasses.fields(CONFIGS[kind])}

    assert DEFAULTS[kind] == {key: theirs.get(key) for key in DEFAULTS[kind]}


@pytest.mark.parametrize("kind", OMITTED)
def test_parts_that_are_omitted_are_those_of_transformers_configurations(kind: str) -> None:
    theirs, ours = CONFIGS[kind](), OMITTED[kind]

    assert ours.text_type == theirs.text_config.model_type
    assert ours.vision_feature_layer == theirs.vision_feature_layer
    assert ours.vision_config == {key: getattr(theirs.vision_config, key) for key in ours.vision_config}


def test_0_5b_by_hand() -> None:
    footprint = Footprint.from_config(PUBLISHED["llava-onevision-qwen2-0.5b"])

    # A SigLIP layer: q, k, v, out 1152 x 1152 and MLP 1152 x 4304 twice, their biases, two norms.
    layer = 4 * (1152**2 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152
    assert footprint.vision.parameters == 3 * 14**2 * 1152 + 1152 + 729 * 1152 + 26 * layer + 2 * 1152
    # A Qwen2 layer: q and o 896 x 896, k and v 896 x 128, biases of q, k and v, gate, up and down 896 x 4864, norms.
    layer = 2 * 896**2 + 2 * 896 * 128 + 896 + 2 * 128 + 3 * 896 * 4864 + 2 * 896
    assert footprint.language.parameters == 24 * layer + 896
    assert footprint.projector.parameters == 1152 * 896 + 896 + 896 * 896 + 896
    assert footprint.embeddings.parameters == 152000 * 896 + 896
    assert footprint.head.parameters == 0
    assert footprint.parameters == 893_675_552
    assert footprint.weight_bytes("bfloat16", "none") == 1_787_351_104
    assert footprint.kv_bytes_per_token("bfloat16") == 2 * 24 * 2 * 64 * 2 == 12_288


def test_7b_by_hand() -> None:
    footprint = Footprint.from_config(PUBLISHED["llava-onevision-qwen2-7b"])

    linear = 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    others = 28 * (3584 + 2 * 512 + 2 * 3584) + 3584
    assert footprint.language.linear == linear == 6_525_288_448
    assert footprint.language.parameters == linear + others
    assert footprint.embeddings.parameters == 152064 * 3584 + 3584
    assert footprint.head.parameters == 152064 * 3584 == 544_997_376
    assert footprint.projector.parameters == 1152 * 3584 + 3584 + 3584**2 + 3584
    assert footprint.parameters == 8_030_348_832
    assert footprint.weight_bytes("bfloat16", "none") == 2 * 8_030_348_832
    assert footprint.kv_bytes_per_token("bfloat16") == 2 * 28 * 4 * 128 * 2 == 57_344
    assert footprint.kv_bytes_per_token("float32") == 2 * 57_344


def test_72b_by_hand() -> None:
    footprint = Footprint.from_config(PUBLISHED["llava-onevision-qwen2-72b"])

    linear = 80 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 29568)
    others = 80 * (8192 + 2 * 1024 + 2 * 8192) + 8192
    assert footprint.language.parameters == linear + others == 70_214_787_072
    assert (
        footprint.parameters
        == linear
        + others
        + 2 * 152064 * 8192
        + 8192
        + (1152 * 8192 + 8192 + 8192**2 + 8192)
        + Footprint.from_config(PUBLISHED["llava-onevision-qwen2-7b"]).vision.parameters
    )
    assert footprint.parameters == 73_180_522_016
    assert footprint.weight_bytes("bfloat16", "none") == 146_361_044_032
    assert footprint.kv_bytes_per_token("bfloat16") == 2 * 80 * 8 * 128 * 2 == 327_680


def test_kv_bytes_are_those_of_the_cache(tmp_path: Path) -> None:
    footprint = footprint_of(write(tmp_path))
    model: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    held: Any = DynamicCache(config=model.config.get_text_config(decoder=True))

    with torch.inference_mode():
        model.model.language_model(
            input_ids=torch.zeros(3, 7, dtype=torch.long), past_key_values=held, use_cache=True
        )

    tensors = [tensor for layer in held.layers for tensor in (layer.keys, layer.values)]
    assert size(tensors) == 3 * 7 * footprint.kv_bytes_per_token("bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weight_bytes_are_those_held(tmp_path: Path, dtype: str) -> None:
    footprint = footprint_of(write(tmp_path))
    model: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path, dtype=getattr(torch, dtype))

    assert held_by(model) == footprint.weight_bytes(dtype, "none")


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_weight_bytes_are_those_held(tmp_path: Path, quantization: str) -> None:
    footprint = footprint_of(write(tmp_path))
    bits: dict[str, Any] = {
        "int8": {"load_in_8bit": True},
        "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    }
    model: Any = LlavaOnevisionForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=BitsAndBytesConfig(**bits[quantization])
    )

    assert held_by(model) == footprint.weight_bytes("bfloat16", quantization)


def footprint_of(folder: Path) -> Footprint:
    return Footprint.from_config(json.loads((folder / "config.json").read_text()))


def held_by(model: Any) -> int:
    """Bytes of parameters and of bitsandbytes' scales, which it keeps beside them."""
    tensors: list[torch.Tensor] = []
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        scales = getattr(parameter, "SCB", None) if state is None else state.absmax
        tensors += [parameter] if scales is None else [parameter, scales]
    return size(tensors)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of their values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llava"}, "model_type must be llava_onevision or llava_next, not 'llava'"),
        (next_of("gemma2"), "text_config.model_type must be qwen2 or llama or mistral, not 'gemma2'"),
        (next_of("llama", hidden_size="4096"), "text_config.hidden_size must be a whole number above 0, not '4096'"),
        (next_of("llama", num_hidden_layers=0), "text_config.num_hidden_layers must be a whole number above 0, not 0"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_told_by_key(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Footprint.from_config(config)
