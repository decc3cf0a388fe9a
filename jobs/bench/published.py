"""The sizes of LLaVA-OneVision's published checkpoints, as far as config.json says them and they decide the work.

From https://huggingface.co/llava-hf/llava-onevision-qwen2-0.5b-ov-hf and -7b-ov-hf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "image_size": 384,
    "num_attention_heads": 16,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "vision_use_head": False,
}


def onevision(**text: Any) -> dict[str, Any]:
    """config.json of a LLaVA-OneVision on a Qwen2 of these sizes."""
    return {
        "model_type": "llava_onevision",
        "tie_word_embeddings": False,
        "vision_feature_layer": -1,
        "vision_config": SIGLIP,
        "text_config": {"model_type": "qwen2", **text},
    }


PUBLISHED: Mapping[str, dict[str, Any]] = {
    "onevision-0.5b": onevision(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=152000,
        tie_word_embeddings=True,
    ),
    "onevision-7b": onevision(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
}
