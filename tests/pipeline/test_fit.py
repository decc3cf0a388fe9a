"""pipeline.fit: the batch that memory holds, and what a refusal says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline import fit
from pipeline.config import GIB, GenerationConfig, ModelConfig
from pipeline.errors import ConfigError
from pipeline.footprint import Footprint
from tests.published import CONFIGS

HALF, SEVEN, SEVENTY_TWO = (
    Footprint.from_config(CONFIGS[f"llava-onevision-qwen2-{size}"]) for size in ("0.5b", "7b", "72b")
)
MISTRAL = Footprint.from_config(CONFIGS["llava-v1.6-mistral-7b"])
MODEL = ModelConfig("a/checkpoint")
SETTINGS = GenerationConfig(max_new_tokens=256)


def refused(footprint: Footprint, model: ModelConfig, gib: float) -> str:
    with pytest.raises(ConfigError) as raised:
        fit.batch_tokens(footprint, model, SETTINGS, int(gib * GIB))
    assert len(raised.value.problems) == 1
    return raised.value.problems[0]


def test_the_longest_prompt_about_an_image_by_hand() -> None:
    # 27 x 27 patches: the base crop, 1.21 x 9 tiles after the cap, a newline for each of 6 x 27 rows, 512 of text.
    assert fit.longest(HALF) == 729 + 7939 + 162 + 512
    # 24 x 24 patches: the base crop, 2 x 2 tiles, 48 newlines.
    assert fit.longest(MISTRAL) == 576 + 2304 + 48 + 512


def test_what_7b_takes_by_hand() -> None:
    need = fit.needs(SEVEN, MODEL, 256)

    assert need.weights == 2 * 8_030_348_832
    assert need.prefill == 9342 * (3 * 18944 + 4 * 3584) * 2
    assert need.token == 57_344
    assert need.caption == 256 * 57_344 + 48 * 152064
    # Of 32 crops: pixels, and of each of 729 positions the tower's MLP (wider than the projector) and its output.
    tower = (3 * 4304 + 4 * 1152) * 2
    assert max(tower, (1152 + 3 * 3584) * 2) == tower
    assert need.vision == 32 * (3 * 384**2 * (1 + 4 + 2) + 729 * (tower + 2 * 1152))


def test_packed_weights_are_an_eighth_of_the_memory_at_most() -> None:
    layers = 24 * (896 * (2 * 896 + 2 * 128) + 3 * 896 * 4864)
    size = 4 * (layers + 152_000 * 896)

    assert fit.packed_bytes(HALF, MODEL, SETTINGS, 8 * size) == size
    assert fit.packed_bytes(HALF, MODEL, SETTINGS, 8 * size - 1) == 0


@pytest.mark.parametrize("less", [{"packed": False}, {"quantization": "int8"}])
def test_nothing_is_packed_that_shall_not_be(less: dict[str, Any]) -> None:
    assert fit.packed_bytes(HALF, replace(MODEL, **less), SETTINGS, 64 * GIB) == 0


def test_nothing_is_packed_where_no_prompt_would_be_left_room() -> None:
    settings = replace(SETTINGS, max_new_tokens=2_000_000)
    size = fit.packed_bytes(HALF, MODEL, SETTINGS, 64 * GIB)
    just = math.ceil(fit.needs(HALF, MODEL, 2_000_000).batch(fit.longest(HALF), 1) / 0.9)

    assert fit.packed_bytes(HALF, MODEL, settings, just + size + 1) == size
    assert fit.packed_bytes(HALF, MODEL, settings, just + size - 2) == 0


def test_a_batch_takes_what_is_left_of_nine_tenths_of_the_memory() -> None:
    tokens = fit.batch_tokens(SEVEN, MODEL, SETTINGS, 24 * GIB)

    need = fit.needs(SEVEN, MODEL, 256)
    assert (
        need.batch(tokens, SETTINGS.batch_size)
        <= 0.9 * 24 * GIB
        < need.batch(tokens + 2, SETTINGS.batch_size)
    )


def test_the_longest_prompt_alone_fits_where_a_whole_batch_of_captions_would_not() -> None:
    need = fit.needs(SEVEN, MODEL, 256)
    just = int(need.batch(fit.longest(SEVEN), 1) / 0.9) + 1

    assert fit.batch_tokens(SEVEN, MODEL, SETTINGS, just) == fit.longest(SEVEN)


@pytest.mark.parametrize(
    "more", [{"gib": 48}, {"quantization": "int4"}, {"max_new_tokens": 64}, {"batch_size": 8}]
)
def test_more_fits_where_there_is_more_or_less_is_asked(more: dict[str, Any]) -> None:
    model = replace(MODEL, quantization=more.pop("quantization", "none"))
    memory = more.pop("gib", 24) * GIB

    few = fit.batch_tokens(SEVEN, MODEL, SETTINGS, 24 * GIB)
    assert fit.batch_tokens(SEVEN, model, replace(SETTINGS, **more), memory) > few


def test_7b_on_16_gib_is_refused_with_the_arithmetic_and_what_would_fit() -> None:
    assert refused(SEVEN, MODEL, 16) == (
        "[model] a/checkpoint needs 15.0 GiB of weights (8.03 B parameters in bfloat16)"
        " + 925 MiB for 32 crops in the vision tower"
        " + 1.8 GiB for one prompt of 9,342 tokens and 256 new ones (of which KV 57,344 bytes a token)"
        " = 17.6 GiB, and a replica has 16.0 GiB, of which 90% can be planned with; what would fit:"
        ' [model] quantization = "int8" (12.5 GiB); [model] quantization = "int4" (8.3 GiB);'
        " 2 times the memory ([cluster] gpus_per_replica)"
    )


def test_72b_is_refused_by_one_gpu_and_fits_two() -> None:
    said = refused(SEVENTY_TWO, MODEL, 80)

    assert "136.3 GiB of weights (73.18 B parameters in bfloat16)" in said
    assert said.endswith(
        '[model] quantization = "int4" (48.0 GiB); 2 times the memory ([cluster] gpus_per_replica)'
    )
    assert fit.batch_tokens(SEVENTY_TWO, MODEL, SETTINGS, 2 * 80 * GIB) == fit.longest(SEVENTY_TWO)
    int4 = replace(MODEL, quantization="int4")
    assert fit.batch_tokens(SEVENTY_TWO, int4, SETTINGS, 80 * GIB) > 4 * fit.longest(SEVENTY_TWO)


def test_what_would_fit_is_told_of_the_key_that_is_in_the_way() -> None:
    assert 'attention = "sdpa" (3.0 GiB)' in refused(HALF, replace(MODEL, attention="eager"), 8)
    assert 'dtype = "bfloat16" (17.6 GiB)' in refused(SEVEN, replace(MODEL, dtype="float32"), 24)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ('dtype = "bfloat16"', ModelConfig("a/checkpoint")),
        ('quantization = "int8"', ModelConfig("a/checkpoint", dtype="float32", quantization="int8")),
        ('quantization = "int4"', ModelConfig("a/checkpoint", dtype="float32", quantization="int4")),
    ],
)
def test_what_is_said_to_fit_does(words: str, changed: ModelConfig) -> None:
    assert words in refused(SEVEN, replace(MODEL, dtype="float32"), 24)

    assert fit.batch_tokens(SEVEN, changed, SETTINGS, 24 * GIB) >= fit.longest(SEVEN)


def test_one_line_says_parameters_weights_and_kv() -> None:
    assert fit.said(HALF, MODEL) == (
        "1.7 GiB of weights (893.7 M parameters in bfloat16), 12,288 bytes of KV a token"
    )
    assert fit.said(SEVEN, replace(MODEL, quantization="int4")) == (
        "5.7 GiB of weights (8.03 B parameters in int4 and bfloat16), 57,344 bytes of KV a token"
    )
