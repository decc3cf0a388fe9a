"""What a model's settings need of this machine, from the settings alone: nothing heavy is imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from pipeline.config import ClusterConfig, ModelConfig

EXTRA = "pip install 'captionmill[large]'"
HALF = ("bfloat16", "float16")


def lacking(model: ModelConfig, cluster: ClusterConfig) -> list[str]:
    """Every need that is not met, each with what to install or change."""
    return [*_attention(model, cluster), *_packages(model, cluster)]


def _attention(model: ModelConfig, cluster: ClusterConfig) -> Iterator[str]:
    if model.attention != "flash_attention_2":
        return
    asked = "[model] attention: flash_attention_2 needs"
    if not installed("flash_attn"):
        yield f'{asked} the package flash-attn (pip install flash-attn); "sdpa" needs nothing'
    if not cluster.gpus_per_replica:
        yield f'{asked} a GPU, and [cluster] gpus_per_replica is 0; "sdpa" runs everywhere'
    if model.dtype not in HALF:
        yield f"{asked} [model] dtype {' or '.join(HALF)}, not {model.dtype}"


def _packages(model: ModelConfig, cluster: ClusterConfig) -> Iterator[str]:
    if model.quantization != "none":
        asked = f"[model] quantization: {model.quantization} needs"
        missing = [name for name in ("bitsandbytes", "accelerate") if not installed(name)]
        yield from (f"{asked} the package {name}: {EXTRA}" for name in missing)
    if cluster.gpus_per_replica > 1 and not installed("accelerate"):
        yield f"[cluster] gpus_per_replica above 1 needs the package accelerate: {EXTRA}"


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
