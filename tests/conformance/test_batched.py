"""A caption does not hang on what else is in its batch: in float32 to the token; in bfloat16, how far is printed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from actors.checkpoint import geometry
from actors.replica import Replica
from jobs.demo.scenes import HELD_OUT_SEEDS, KINDS, PROMPTS, scene
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Caption, Media, Request, Turn
from tests.checkpoints import Asked, captions_of, clip, picture
from tests.conformance.conftest import Table
from tests.families.catalogue import FAMILIES, Family, write

COLUMNS = ("checkpoint", "dtype", "captions", "identical", "share", "mean common prefix", "mean tokens alone")
DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "checkpoint"
ASSETS = 204
BATCH = 12  # of any lengths: not the buckets' near ones
TILE = 70  # 5 x 5 patches, so that some hundred captions take seconds
WORDS = ("a", "red", "circle", "above", "the", "square,", "2", "Löwen", "and", "獅子", "in", "detail")


def ragged(family: Family) -> list[Asked]:
    """Single images of all aspects, several images, and videos where they are taken; prompts of 1 to 60 words."""
    dice = random.Random(5)
    found = []
    for i in range(ASSETS):
        media = dice.choice([Media.IMAGE, Media.IMAGE, Media.IMAGES, *[Media.VIDEO] * family.video])
        turns = (Turn("user", " ".join(dice.choices(WORDS, k=dice.randint(1, 60)))),)
        count = {Media.IMAGE: 1, Media.IMAGES: dice.randint(2, 4), Media.VIDEO: dice.randint(1, 12)}[media]
        shapes = [(dice.randint(1, 400), dice.randint(1, 400)) for _ in range(count)]
        pictures = (
            clip(i, count)
            if media is Media.VIDEO
            else tuple(picture(i + n, *s) for n, s in enumerate(shapes))
        )
        found.append(Asked(media, pictures, turns))
    return found


def scenes() -> list[Asked]:
    """Scenes that the demo's checkpoint has not seen in training, under its own prompts in turn."""
    texts = list(PROMPTS.values())
    asked = [
        Asked(Media(kind), scene(kind, seed).pictures, ()) for seed in HELD_OUT_SEEDS[:70] for kind in KINDS
    ]
    return [
        Asked(one.media, one.pictures, (Turn("user", texts[i % len(texts)]),)) for i, one in enumerate(asked)
    ]


def together_and_alone(
    folder: Path, dtype: str, asked: Sequence[Asked], max_new_tokens: int
) -> tuple[list[Caption], list[Caption]]:
    """Captions in shuffled batches, and one by one."""
    tiles, settings = geometry(folder), GenerationConfig(max_new_tokens=max_new_tokens)
    replica = Replica(ModelConfig(str(folder), dtype=dtype), str(folder), tiles, max_new_tokens)
    requests = [
        replica.encode(one.sample(tiles, i), PromptConfig("p", one.turns), {}) for i, one in enumerate(asked)
    ]
    order = random.Random(6).sample(range(len(requests)), len(requests))
    shuffled = [requests[i] for i in order]
    batches = [shuffled[i : i + BATCH] for i in range(0, len(shuffled), BATCH)]
    together = [caption for batch in batches for caption in captions_of(replica, batch, settings)]
    placed = dict(zip(order, together, strict=True))
    return [placed[i] for i in range(len(requests))], _alone(replica, requests, settings)


def _alone(replica: Replica, requests: Iterable[Request], settings: GenerationConfig) -> list[Caption]:
    return [captions_of(replica, [request], settings)[0] for request in requests]


def common(one: Caption, other: Caption) -> int:
    """Tokens that both begin with."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def measure(
    table: Table, name: str, folder: Path, dtype: str, asked: Sequence[Asked], max_new_tokens: int
) -> float:
    """The share of captions that are the same in a batch and alone; into the table."""
    together, alone = together_and_alone(folder, dtype, asked, max_new_tokens)
    n = len(alone)
    identical = sum(a.token_ids == b.token_ids for a, b in zip(together, alone, strict=True))
    prefix = sum(map(common, together, alone)) / n
    length = sum(caption.n_output_tokens for caption in alone) / n
    row = (name, dtype, n, identical, f"{identical / n:.1%}", f"{prefix:.1f}", f"{length:.1f}")
    table("in a batch against alone", COLUMNS, row)
    assert n >= 200
    assert all(caption.token_ids and caption.mean_logprob <= 0 for caption in together)
    return identical / n


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_batch_changes_no_token_in_float32(family: Family, table: Table, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder, asked = write(tmp_path, family, tile=TILE), ragged(family)

    assert measure(table, family.name, folder, "float32", asked, 12) == 1.0
    assert (
        measure(table, family.name, folder, "bfloat16", asked, 12) > 0
    )  # random weights: a tie is never far


@pytest.mark.slow
def test_a_batch_changes_no_token_of_the_shipped_checkpoint(table: Table) -> None:
    torch.set_num_threads(1)
    asked = scenes()

    assert measure(table, "demo", DEMO, "float32", asked, 32) == 1.0
    assert measure(table, "demo", DEMO, "bfloat16", asked, 32) > 0.9
