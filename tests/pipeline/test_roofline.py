"""pipeline.roofline: operations and bytes, by hand and as published tables have them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.footprint import Footprint
from pipeline.roofline import GPUS, Roofline, prefill_flops, step_flops, vision_flops
from tests.published import CONFIGS

HALF, SEVEN = (Footprint.from_config(CONFIGS[f"llava-onevision-qwen2-{size}"]) for size in ("0.5b", "7b"))
H100 = Roofline(SEVEN, "bfloat16", "none", GPUS["h100"])


def test_a_crop_through_siglip_and_projector_by_hand() -> None:
    linear = 26 * (4 * 1152**2 + 2 * 1152 * 4304)
    attention = 26 * 2 * 729 * 1152
    projector = 1152 * 3584 + 3584**2
    by_hand = 2 * 729 * (linear + attention + 3 * 14**2 * 1152 + projector)

    assert vision_flops(SEVEN, 1) == by_hand
    assert vision_flops(SEVEN, 5) == pytest.approx(3.33e12, rel=0.01)  # a picture of 640 x 480
    assert vision_flops(HALF, 5) == pytest.approx(3.22e12, rel=0.01)


def test_a_prompt_through_qwen2_7b_by_hand() -> None:
    layer = 2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944
    every = 2 * 28 * (layer * 2959 + 3584 * 2959**2) + 2 * 152064 * 3584
    spared = 2 * 3 * 3584 * 18944 * 2958  # the last layer's MLP, but for the last token

    assert prefill_flops(SEVEN, [2959]) == every - spared
    assert every == pytest.approx(40.4e12, rel=0.01)


def test_of_clip_next_reads_23_of_24_layers() -> None:
    shape = Footprint.from_config(CONFIGS["llava-v1.6-mistral-7b"])

    assert shape.layers_read == 23
    assert vision_flops(replace(shape, layers_read=24), 1) > vision_flops(shape, 1)


def test_packed_prompts_see_only_themselves() -> None:
    assert prefill_flops(SEVEN, [1500, 700]) == prefill_flops(SEVEN, [1500]) + prefill_flops(SEVEN, [700])


def test_a_step_is_bound_by_memory_until_the_batch_is_large() -> None:
    """256 captions after 1,590 tokens: 14.15 GB of weights and 57,344 bytes of KV a token, at 70 % of 3.35 TB/s."""
    read = 14.15e9 + 256 * 1590 * 57344

    assert H100.step_s([1590] * 256) == pytest.approx(read / (0.7 * 3.35e12), rel=0.01)
    assert H100.step_s([1590]) == pytest.approx(14.24e9 / (0.7 * 3.35e12), rel=0.01)


def test_a_step_of_short_contexts_and_many_captions_is_bound_by_operations() -> None:
    contexts = [1] * 4096

    assert H100.step_s(contexts) == step_flops(SEVEN, contexts) / (0.5 * 989.4e12)


@pytest.mark.parametrize(
    ("footprint", "crops", "tokens", "slots", "rate"),
    [
        (SEVEN, 2, 1515, 256, 18.9),
        (SEVEN, 5, 2959, 256, 9.7),
        (SEVEN, 31, 7339, 128, 3.4),
        (HALF, 5, 2959, 512, 71),
    ],
)
def test_captions_a_second_are_those_of_the_published_arithmetic(
    footprint: Footprint, crops: int, tokens: int, slots: int, rate: float
) -> None:
    """150 new tokens each, half of the H100's operations and 70 % of its bandwidth."""
    model = Roofline(footprint, "bfloat16", "none", GPUS["h100"])
    seconds = (
        model.vision_s(crops) + model.prefill_s([tokens]) + 150 * model.step_s([tokens + 75] * slots) / slots
    )

    assert 1 / seconds == pytest.approx(rate, rel=0.05)
