"""Several prompts about one asset: the same captions as alone, from one vision pass and one run of what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.checkpoint import geometry
from actors.replica import Replica, common
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Caption, Media, Request, Turn
from tests.checkpoints import Asked, Oracle, captions_of, clip, picture, watched, write
from tests.families.catalogue import FAMILIES
from tests.families.catalogue import write as write_family

NEW_TOKENS = 16
SETTINGS = GenerationConfig(max_new_tokens=NEW_TOKENS)
QUESTIONS = (
    (Turn("user", "Describe the image in detail."),),
    (Turn("user", "What is shown here?"),),
    (Turn("user", "a red circle"), Turn("assistant", "above"), Turn("user", "Describe a square.")),
)
PROMPTS = tuple(PromptConfig(f"p{i}", turns) for i, turns in enumerate(QUESTIONS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def replica(folder: Path) -> Replica:
    return load(folder)


def load(folder: Path) -> Replica:
    return Replica(ModelConfig(str(folder), dtype="float32"), str(folder), geometry(folder), NEW_TOKENS)


def assets() -> list[Asked]:
    """Images of several shapes, several images, clips."""
    sizes = [(72, 72), (200, 90), (90, 300), (300, 290), (10, 400), (640, 480)]
    found = [Asked(Media.IMAGE, (picture(i, *size),), ()) for i, size in enumerate(sizes)]
    found += [Asked(Media.IMAGES, (picture(10 + i, 90, 60), picture(20 + i, 60, 90)), ()) for i in range(3)]
    return found + [Asked(Media.VIDEO, clip(i, frames), ()) for i, frames in enumerate((1, 3, 8))]


def requests_of(replica: Replica, folder: Path, prompts: Sequence[PromptConfig]) -> list[Request]:
    """Every asset under every prompt, prompt by prompt: one sample's requests are apart."""
    samples = [asked.sample(geometry(folder), i) for i, asked in enumerate(assets())]
    return [replica.encode(sample, prompt, {}) for prompt in prompts for sample in samples]


def ids(captions: Sequence[Caption]) -> list[tuple[int, ...]]:
    return [caption.token_ids for caption in captions]


def test_three_prompts_together_say_what_each_says_alone(replica: Replica, folder: Path) -> None:
    requests = requests_of(replica, folder, PROMPTS)

    together = ids(captions_of(replica, requests, SETTINGS))

    assert together == [ids(captions_of(replica, [request], SETTINGS))[0] for request in requests]
    assert len(set(together)) > len(assets())


def test_three_prompts_take_one_vision_pass_and_one_run_of_what_they_share(
    replica: Replica, folder: Path
) -> None:
    sample = assets()[3].sample(geometry(folder), 100)
    requests = [replica.encode(sample, prompt, {}) for prompt in PROMPTS]
    shared = common([request.input_ids for request in requests])

    with watched(replica._model) as (crops, passes):
        captions_of(replica, requests, GenerationConfig(max_new_tokens=4))

    assert crops == [sample.view.n_crops]
    rest = sum(len(request.input_ids) - shared for request in requests)
    assert passes == [shared, rest, 3, 3, 3]
    assert shared >= requests[0].n_visual_tokens > 2 * rest > 0


def test_one_prompt_an_asset_is_run_in_one_piece(replica: Replica, folder: Path) -> None:
    requests = requests_of(replica, folder, PROMPTS[:1])

    with watched(replica._model) as (_, passes):
        captions_of(replica, requests, GenerationConfig(max_new_tokens=2))

    assert passes == [sum(len(request.input_ids) for request in requests), len(requests)]


def test_an_asset_with_fewer_prompts_than_others_is_captioned_the_same(
    replica: Replica, folder: Path
) -> None:
    requests = requests_of(replica, folder, PROMPTS)[5:]

    assert ids(captions_of(replica, requests, SETTINGS)) == [
        ids(captions_of(replica, [request], SETTINGS))[0] for request in requests
    ]


def test_prompts_that_begin_differently_share_nothing_and_say_the_same(
    replica: Replica, folder: Path
) -> None:
    """The first token of the second is another one: a template could open a conversation in two ways."""
    sample = assets()[0].sample(geometry(folder), 200)
    first = replica.encode(sample, PROMPTS[0], {})
    second = Request(sample, "q", (9, *first.input_ids[1:]), first.n_visual_tokens)

    together = ids(captions_of(replica, [first, second], SETTINGS))

    assert common([first.input_ids, second.input_ids]) == 0
    assert together == [ids(captions_of(replica, [request], SETTINGS))[0] for request in (first, second)]


def test_what_is_shared_leaves_every_prompt_a_token() -> None:
    assert common([(1, 2, 3), (1, 2, 3)]) == 2
    assert common([(1, 2), (1, 2, 3)]) == 1
    assert common([(1, 2), (3, 2)]) == 0
    assert common([(1, 2, 3)]) == 2


def test_what_is_shared_behind_a_sliding_window_is_what_generate_says(tmp_path: Path) -> None:
    (mistral,) = [family for family in FAMILIES if family.name == "next-mistral"]
    windowed = replace(mistral, text={**mistral.text, "sliding_window": 64})
    folder = write_family(tmp_path / "next", windowed, tile=70)
    replica, oracle = load(folder), Oracle(folder)
    asked = [
        Asked(Media.IMAGE, (picture(i, 200, 90 + 40 * i),), turns)
        for i in range(3)
        for turns in QUESTIONS[:2]
    ]
    samples = [one.sample(geometry(folder), i // 2) for i, one in enumerate(asked)]
    requests = [replica.encode(one, PROMPTS[i % 2], {}) for i, one in enumerate(samples)]

    together = ids(captions_of(replica, requests, SETTINGS))

    assert min(len(request.input_ids) for request in requests) > 64
    assert together == [oracle.greedy(one, NEW_TOKENS) for one in asked]
