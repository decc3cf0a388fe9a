"""config.json of the checkpoints on the hub, as far as it decides their sizes; keys that they omit are omitted."""

from __future__ import annotations

from typing import Any

SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384,
    "num_attention_heads": 16, "num_hidden_layers": 26, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336,
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
    "vocab_size": 32000,
}  # fmt: skip


def _onevision(**text: Any) -> dict[str, Any]:
    return {
        "model_type": "llava_onevision",
        "tie_word_embeddings": False,
        "vision_feature_layer": -1,
        "vision_config": SIGLIP,
        "text_config": {"model_type": "qwen2", "vocab_size": 152064, **text},
    }


def next_of(model_type: str, **text: Any) -> dict[str, Any]:
    return {
        "model_type": "llava_next",
        "tie_word_embeddings": False,
        "vision_feature_layer": -2,
        "vision_config": CLIP,
        "text_config": {"model_type": model_type, "vocab_size": 32064, **text},
    }


CONFIGS = {
    "llava-onevision-qwen2-0.5b": _onevision(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, vocab_size=152000, tie_word_embeddings=True,
    ),
    "llava-onevision-qwen2-7b": _onevision(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4,
    ),
    "llava-onevision-qwen2-72b": _onevision(
        hidden_size=8192, intermediate_size=29568, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8,
    ),
    "llava-v1.6-mistral-7b": next_of("mistral", intermediate_size=14336, num_key_value_heads=8),
    "llava-v1.6-vicuna-7b": next_of("llama", max_position_embeddings=4096),
    "llava-v1.6-vicuna-13b": next_of(
        "llama", hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40,
        num_key_value_heads=40,
    ),
    "llama3-llava-next-8b": next_of(
        "llama", intermediate_size=14336, num_key_value_heads=8, vocab_size=128320
    ),
    "llava-v1.6-34b": next_of(
        "llama", hidden_size=7168, intermediate_size=20480, num_hidden_layers=60, num_attention_heads=56,
        num_key_value_heads=8, vocab_size=64064,
    ),
    "llava-next-72b": next_of(
        "qwen2", hidden_size=8192, intermediate_size=24576, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=64, vocab_size=152064,
    ),
    "llava-next-110b": next_of(
        "qwen2", hidden_size=8192, intermediate_size=49152, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=152064,
    ),
}  # fmt: skip
