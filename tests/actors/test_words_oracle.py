"""The shipped checkpoint in float32: what our buckets say is what transformers' `generate` says one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.captioner import Captioner
from actors.checkpoint import geometry
from actors.replica import Replica
from jobs.demo.scenes import HELD_OUT_SEEDS, KINDS, PROMPTS, scene
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Asset, Caption, Cost, Media, Prepared, Shard, ShardFormat, Turn, Unit
from tests import made
from tests.checkpoints import Asked, Oracle, picture

DEMO = Path(__file__).parents[2] / "jobs" / "demo" / "checkpoint"
NEW_TOKENS = 32
SCENES = 80  # of each kind: image, images, video
# Beside the scenes' own, photographs' sizes: small, odd, extreme, beyond the largest grid.
SIZES = [
    (1, 1),
    (9, 500),
    (500, 9),
    (72, 72),
    (73, 71),
    (145, 80),
    (640, 480),
    (480, 640),
    (1023, 682),
    (1300, 260),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 3 minutes on a busy two-core machine
def test_greedy_ids_of_mixed_assets_in_buckets_equal_generate_one_by_one() -> None:
    torch.set_num_threads(1)
    prompts = [PromptConfig(name, (Turn("user", text),)) for name, text in PROMPTS.items()]
    assets = list(mixed())
    oracle, tiles = Oracle(DEMO), geometry(DEMO)
    replica = Replica(ModelConfig(str(DEMO), dtype="float32"), str(DEMO), tiles, NEW_TOKENS)
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, batch_tokens=8192, batch_size=16)

    answers = Captioner(lambda: replica, prompts, settings).caption(unit(assets, tiles)).answers

    equal = 0
    for answer in answers:
        asked = assets[answer.position]
        turns = next(prompt.turns for prompt in prompts if prompt.id == answer.prompt_id)
        assert isinstance(answer.outcome, Caption), answer.outcome
        expected = oracle.greedy(Asked(asked.media, asked.pictures, turns), NEW_TOKENS)
        equal += answer.outcome.token_ids == expected
    print(f"{len(assets)} assets, {len(answers)} captions compared, {equal} equal")
    assert len(assets) >= 200
    assert equal == len(answers) == len(assets) * len(prompts)


def mixed() -> Iterator[Asked]:
    """Held-out scenes of every kind, and pictures of other sizes, in an order that mixes them."""
    rng = np.random.default_rng(0)
    found = [Asked(Media.IMAGE, (picture(i, *size),), ()) for i, size in enumerate(SIZES)]
    for kind in KINDS:
        for seed in HELD_OUT_SEEDS[:SCENES]:
            found.append(Asked(Media(kind), scene(kind, seed).pictures, ()))
    return (found[i] for i in rng.permutation(len(found)))


def unit(assets: list[Asked], tiles: Geometry) -> Prepared:
    """The assets as one work unit."""
    samples = tuple(asked.sample(tiles, i) for i, asked in enumerate(assets))
    rows = tuple(
        Asset(s.view.sha256, str(i), s.view.media, (), s.view.sha256, 1, {}, s.view.sizes)
        for i, s in enumerate(samples)
    )
    shard = Shard("memory://demo", "demo", "1", 1, ShardFormat.FOLDER)
    return Prepared(Unit("demo", shard, 0, len(rows), Cost(0, 0, 0)), rows, samples, (), made.PREPARATION)
