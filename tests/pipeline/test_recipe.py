"""pipeline.recipe: what makes another recipe, and what does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.config import GenerationConfig, ImageConfig, ModelConfig, PromptConfig, VideoConfig
from pipeline.recipe import Recipe
from pipeline.types import Turn
from tests import made

RECIPE = Recipe(
    checkpoint=made.CHECKPOINT,
    model=ModelConfig("owner/model", "0" * 40),
    prompts=made.PROMPTS,
    generation=GenerationConfig(),
    image=ImageConfig(),
    video=VideoConfig(),
    software={"torch": "2.13.0", "pillow": "13.0.0"},
)


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, checkpoint=replace(made.CHECKPOINT, weights_sha256="ef" * 32)),
        replace(RECIPE, checkpoint=replace(made.CHECKPOINT, processor_sha256="ef" * 32)),
        replace(RECIPE, model=replace(RECIPE.model, dtype="float32")),
        replace(RECIPE, model=replace(RECIPE.model, attention="eager")),
        replace(RECIPE, prompts=RECIPE.prompts[:1]),
        replace(RECIPE, prompts=(PromptConfig("short", (Turn("user", "What is it!"),)), RECIPE.prompts[1])),
        replace(RECIPE, generation=replace(RECIPE.generation, max_new_tokens=8)),
        replace(RECIPE, image=replace(RECIPE.image, max_pixels=5)),
        replace(RECIPE, image=replace(RECIPE.image, max_crops=10)),
        replace(RECIPE, image=replace(RECIPE.image, decode="fast")),
        replace(RECIPE, video=replace(RECIPE.video, frames=5)),
        replace(RECIPE, software={"torch": "2.14.0", "pillow": "13.0.0"}),
    ],
)
def test_whatever_decides_a_caption_makes_another_recipe(other: Recipe) -> None:
    assert other.recipe_id != RECIPE.recipe_id


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, model=replace(RECIPE.model, path="/home/somebody/model")),
        replace(RECIPE, model=replace(RECIPE.model, threads=7)),
        replace(RECIPE, generation=replace(RECIPE.generation, batch_tokens=99, batch_size=3)),
        replace(RECIPE, image=replace(RECIPE.image, timeout_s=1.0)),
        replace(RECIPE, video=replace(RECIPE.video, timeout_s=1.0)),
        replace(RECIPE, software=dict(sorted(RECIPE.software.items()))),
    ],
)
def test_where_the_model_lies_and_how_fast_it_runs_makes_no_other_recipe(other: Recipe) -> None:
    assert other.recipe_id == RECIPE.recipe_id


def test_the_recipe_file_has_no_path_of_this_machine() -> None:
    private = replace(RECIPE, model=replace(RECIPE.model, path="/home/somebody/model"))

    assert "somebody" not in private.to_json()


def test_the_recipe_file_is_json_with_every_section() -> None:
    written = json.loads(RECIPE.to_json())

    assert sorted(written) == ["checkpoint", "generation", "image", "model", "prompts", "software", "video"]
    (turn,) = written["prompts"][1]["turns"]
    assert (turn["role"], turn["text"]) == ("user", "Describe the image in detail.")


def test_the_recipe_id_is_sixteen_hex_digits() -> None:
    assert len(RECIPE.recipe_id) == 16
    assert int(RECIPE.recipe_id, 16) >= 0
