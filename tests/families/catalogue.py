"""The families: for each, what its configuration on the hub says, with tiny widths, and the writer of a checkpoint.

Settings of pixels, towers and prompts are the hub's own. Besides widths, depths and vocabularies only
`max_position_embeddings` of Vicuna (4,096), Llama 3 (8,192) and Yi (4,096) differs: four tiled images must fit. What
generation_config.json says of sampling is from the text towers' own checkpoints: Vicuna 1.5, Llama 3 Instruct and, with
a stronger penalty, Qwen1.5 Chat.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.families import lexicons, templates
from tests.families.lexicons import Lexicon

POSITIONS = 32768
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PIXELS = {
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3,
    "rescale_factor": 0.00392156862745098,
}  # fmt: skip
NEXT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION_PINPOINTS = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
NEXT = {
    "model_type": "llava_next",
    "architectures": ["LlavaNextForConditionalGeneration"],
    "image_grid_pinpoints": NEXT_PINPOINTS,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": False,
}
ONEVISION = {
    "model_type": "llava_onevision",
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "image_grid_pinpoints": ONEVISION_PINPOINTS,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "tie_word_embeddings": False,  # the text tower's says otherwise, and holds
}
CLIP = {  # three layers, so that the last but one is not the first
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_hidden_layers": 3, "image_size": 336, "patch_size": 14, "projection_dim": 32, "vocab_size": 32000,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_hidden_layers": 2, "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
# Wide initial weights: the tokens then hang on every part of the prompt and do not settle into a loop.
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.3, "max_position_embeddings": POSITIONS,
}  # fmt: skip
NEXT_PREPROCESSOR = {
    **PIXELS,
    "image_processor_type": "LlavaNextImageProcessor",
    "processor_class": "LlavaNextProcessor",
    "aspect_ratio_setting": "anyres",
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "size": {"shortest_edge": 336},
    "image_grid_pinpoints": NEXT_PINPOINTS,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
}
ONEVISION_PREPROCESSOR = {
    **PIXELS,
    "image_processor_type": "LlavaOnevisionImageProcessor",
    "processor_class": "LlavaOnevisionProcessor",
    "do_pad": True,
    "size": {"height": 384, "width": 384},
    "image_grid_pinpoints": ONEVISION_PINPOINTS,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
NEXT_PROCESSOR = {
    "processor_class": "LlavaNextProcessor",
    "image_token": "<image>",
    "num_additional_image_tokens": 1,  # CLIP's class token, which the strategy "default" drops
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
}
ONEVISION_PROCESSOR = {
    "processor_class": "LlavaOnevisionProcessor",
    "image_token": "<image>",
    "video_token": "<video>",
    "num_image_tokens": 729,
    "vision_feature_select_strategy": "full",
}


EMPHASIS = 1.4  # of an end-of-sequence token: in some 2 % of steps it is then the most probable


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint, like `hub`: a tokenizer, a chat template, a text tower, and how a caption ends.

    `ends` are the end-of-sequence tokens of generation_config.json, `generation` whatever else it carries; `system`
    is a system turn in the family's manner.
    """

    name: str
    hub: str
    lexicon: Callable[[], Lexicon]
    template: str
    text: Mapping[str, Any]
    ends: tuple[str, ...]
    system: str
    generation: Mapping[str, Any] = field(default_factory=dict)
    video: bool = False


def _mistral() -> Lexicon:
    own = {"chat_template": templates.MISTRAL_WITHOUT_PICTURES}
    return lexicons.llama2(("<image>", "<pad>"), pad_token="<pad>", legacy=True, **own)


FAMILIES = (
    Family(
        "onevision-qwen2", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        lambda: lexicons.qwen(("<image>", "<video>")), templates.ONEVISION,
        {"model_type": "qwen2", "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
         "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 24,
         "tie_word_embeddings": True},
        ("<|im_end|>",), "You are a helpful assistant.", video=True,
    ),
    Family(
        "next-mistral", "llava-hf/llava-v1.6-mistral-7b-hf", _mistral, templates.MISTRAL,
        {"model_type": "mistral", "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
         "sliding_window": None},
        ("</s>",), "Be brief.",
    ),
    Family(
        "next-vicuna", "llava-hf/llava-v1.6-vicuna-7b-hf",
        lambda: lexicons.llama2(("<image>",), pad_token="<unk>", legacy=False), templates.VICUNA,
        {"model_type": "llama", "rms_norm_eps": 1e-05},
        ("</s>",),
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions.",
        {"temperature": 0.9, "top_p": 0.6},
    ),
    Family(
        "next-llama3", "llava-hf/llama3-llava-next-8b-hf", lexicons.llama3, templates.LLAMA3,
        {"model_type": "llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 500000.0},
        ("<|end_of_text|>", "<|eot_id|>"),
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language.",
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    Family(
        "next-yi-chatml", "llava-hf/llava-v1.6-34b-hf", lexicons.yi, templates.YI,
        {"model_type": "llama", "num_key_value_heads": 1, "rms_norm_eps": 1e-05, "rope_theta": 5000000.0},
        ("<|im_end|>",), "Answer the questions.",
    ),
    Family(  # Qwen1.5 has a head of keys and values for each of queries, and its own penalty on repetitions
        "next-qwen-chatml", "llava-hf/llava-next-72b-hf", lambda: lexicons.qwen(("<image>",)), templates.QWEN,
        {"model_type": "qwen2", "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
         "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 70},
        ("<|im_end|>", "<|endoftext|>"), "You are a helpful assistant.",
        {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
    ),
)  # fmt: skip


def write(folder: Path, family: Family, *, tile: int = 0, seed: int = 4) -> Path:
    """Write the family's checkpoint into `folder`: the files of the hub, under the hub's weight names.

    `tile` is another side of its tiles in pixels than the family's own, for speed. What ends a caption weighs more than
    other tokens, so that some captions end, at different lengths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lexicon = family.lexicon()
    lexicon.save(folder)
    ends = [lexicon.id(end) for end in family.ends]
    files = {
        "config.json": _config(family, lexicon),
        "preprocessor_config.json": ONEVISION_PREPROCESSOR if family.video else NEXT_PREPROCESSOR,
        "processor_config.json": ONEVISION_PROCESSOR if family.video else NEXT_PROCESSOR,
        "generation_config.json": {"eos_token_id": ends if len(ends) > 1 else ends[0], **family.generation},
        "chat_template.json": {"chat_template": family.template},
    }
    for name, content in files.items():
        own = _retiled(content, 384 if family.video else 336, tile) if tile else content
        (folder / name).write_text(json.dumps(own, indent=1))
    torch.manual_seed(seed)
    model: Any = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        model.get_output_embeddings().weight[ends] *= EMPHASIS
    save_weights(model, folder)
    return folder


def _retiled(content: Any, side: int, tile: int) -> Any:
    """A file's content with tiles of `tile` pixels: only sizes in pixels are multiples of the family's `side`."""
    if isinstance(content, Mapping):
        if "num_image_tokens" in content:
            content = {**content, "num_image_tokens": (tile // 14) ** 2}
        return {key: _retiled(value, side, tile) for key, value in content.items()}
    if isinstance(content, list):
        return [_retiled(value, side, tile) for value in content]
    return content // side * tile if isinstance(content, int) and content and content % side == 0 else content


def save_weights(model: Any, folder: Path) -> None:
    """Write model.safetensors with the names that weights have on the hub, where transformers 5 saves others."""
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        weights = load_file(Path(saved) / "model.safetensors")
    renamed = {hub_name(name): weight for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


def hub_name(name: str) -> str:
    """The hub's name of a weight that transformers 5 saves as `name`."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def _config(family: Family, lexicon: Lexicon) -> dict[str, Any]:
    """config.json as transformers 4 wrote it: `rope_theta` beside the rest, special tokens by their index."""
    size, end = lexicon.padded_size(), lexicon.id(family.ends[-1])
    text = {**TEXT, **family.text, "vocab_size": size, "eos_token_id": end, "bos_token_id": None}
    own = {"video_token_index": lexicon.id("<video>")} if family.video else {}
    both = {**(ONEVISION if family.video else NEXT), "image_token_index": lexicon.id("<image>"), **own}
    vision = SIGLIP if family.video else CLIP
    return {
        **both,
        "projector_hidden_act": "gelu",
        "torch_dtype": "float16",
        "text_config": text,
        "vision_config": vision,
    }
