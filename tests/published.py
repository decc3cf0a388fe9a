"""config.json of the checkpoints on the hub, as far as it decides their sizes; keys that they omit are omitted."""

from __future__ import annotations

from typing import Any

from jobs.bench.published import PUBLISHED, onevision

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336,
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
    "vocab_size": 32000,
}  # fmt: skip


def next_of(model_type: str, **text: Any) -> dict[str, Any]:
    return {
        "model_type": "llava_next",
        "tie_word_embeddings": False,
        "vision_feature_layer": -2,
        "vision_config": CLIP,
        "text_config": {"model_type": model_type, "vocab_size": 32064, **text},
    }


CONFIGS = {
    "llava-onevision-qwen2-0.5b": PUBLISHED["onevision-0.5b"],
    "llava-onevision-qwen2-7b": PUBLISHED["onevision-7b"],
    "llava-onevision-qwen2-72b": onevision(
        vocab_size=152064, hidden_size=8192, intermediate_size=29568, num_hidden_layers=80, num_attention_heads=64,
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
