"""How a checkpoint becomes a model on a device, and which chat template it has.

Nothing is fetched, only safetensors are read, and no code of the checkpoint is run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedModel
from transformers.processing_utils import ProcessorMixin
from transformers.utils.logging import disable_progress_bar

from pipeline.config import ModelConfig
from pipeline.errors import ConfigError

WRONG_KEYS = ("missing_keys", "unexpected_keys", "mismatched_keys")  # of transformers' loading report
ELSEWHERE = ("cpu", "disk")  # where transformers puts what the GPUs have no room for


def load_model(model: ModelConfig, folder: Path, gpus: float) -> PreTrainedModel:
    """The model in `folder`, of the class that its config.json names, every weight accounted for.

    It lies on the CPU, on the GPU, or where `gpus` is above 1, on so many GPUs, layer by layer, as accelerate
    spreads it. On the CPU, weights that the file has in `dtype` are not copied but mapped: they are the file's
    pages, which replicas of a machine share. In another dtype they are read one by one.

    Quantized are, as transformers does by default, all linear layers but the language model's head: also those
    of the vision tower and of the projector. int8 is LLM.int8() (Dettmers et al. 2022), whose activations pass
    through float16; int4 is NF4 (Dettmers et al. 2023), computed in `dtype`. What is not quantized has `dtype`.

    ConfigError, with every finding, where weights are missing, foreign or of another shape, where torch does not
    see the GPUs, or where the model does not fit on them.
    """
    disable_progress_bar()
    # Else it notes for each layer and token that int8's activations are cast, and recommends code from the hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    place = device(gpus)
    device_map = _device_map(model, gpus, place)
    # Its annotations do not know that output_loading_info returns a pair.
    from_pretrained: Any = AutoModelForImageTextToText.from_pretrained
    try:
        loaded, info = from_pretrained(
            folder,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attention,
            quantization_config=_quantization(model),
            device_map=device_map,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, all of them
            output_loading_info=True,
        )
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        raise ConfigError([f"[model] path {folder}: {error}"]) from error
    found = [f"{key.replace('_keys', ' weights')}: {_some(info[key])}" for key in WRONG_KEYS if info[key]]
    if found:
        raise ConfigError([f"[model] path {folder}: {problem}" for problem in found])
    _check_spread(loaded, gpus)
    _spare_packing(loaded)
    whole: PreTrainedModel = loaded if device_map else loaded.to(place)
    return whole


def chat_template(folder: Path, tokenizer: Any) -> str:
    """The processor's chat template, else the tokenizer's; of several, the one named default.

    The processor's stands in processor_config.json, chat_template.json or chat_template.jinja; transformers takes
    the first of these that there is. ConfigError where there is none.
    """
    try:
        files, _ = ProcessorMixin.get_processor_dict(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError([f"[model] path {folder}: its chat template cannot be read: {error}"]) from error
    template = files.get("chat_template") or tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default")
    if not template:
        raise ConfigError([f"[model] path {folder}: chat_template.jinja (or .json) is missing"])
    return str(template)


def device(gpus: float) -> str:
    """Where a replica with so many GPUs computes: cuda, or cpu for 0. ConfigError where torch sees fewer."""
    there = torch.cuda.device_count()
    if gpus > there:
        raise ConfigError(
            [
                f"[cluster] gpus_per_replica asks for {gpus:g} GPUs, and torch sees {there}; "
                "install its CUDA build, or set 0"
            ]
        )
    return "cuda" if gpus else "cpu"


def _quantization(model: ModelConfig) -> BitsAndBytesConfig | None:
    match model.quantization:
        case "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        case "int4":
            dtype = getattr(torch, model.dtype)
            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
    return None


def _device_map(model: ModelConfig, gpus: float, device: str) -> str | dict[str, str] | None:
    """Where transformers puts the modules; None leaves them on the CPU and needs no accelerate.

    bitsandbytes quantizes where it loads, and left alone it takes a GPU that there is, also for a replica on CPU.
    """
    if gpus > 1:
        return "auto"
    return None if model.quantization == "none" else {"": device}


def _check_spread(loaded: Any, gpus: float) -> None:
    """ConfigError where parts of a model for GPUs were put aside: each token would carry them over the bus."""
    aside = [name for name, at in getattr(loaded, "hf_device_map", {}).items() if at in ELSEWHERE]
    if gpus and aside:
        problem = f"the model does not fit on {gpus:g} GPUs: {_some(set(aside))} have no room; raise gpus_per_replica"
        raise ConfigError([f"[cluster] {problem}, or set [model] quantization"])


def _spare_packing(loaded: Any) -> None:
    """Leave 4-bit layers as they are where bitsandbytes would fail.

    On a CPU with AVX512-BF16 it packs a layer again when it is first used, which takes multiples of 32 outputs and 64
    inputs (bitsandbytes 0.50.2, `_convert_weight_packed_for_cpu`); SigLIP's 4,304 is neither. Not packed, it computes
    as on any other CPU.
    """
    for layer in loaded.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu") and (
            layer.out_features % 32 or layer.in_features % 64
        ):
            layer.support_avx512bf16_for_cpu = False


def _some(names: set[Any]) -> str:
    return ", ".join(sorted(map(str, names))[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
