"""Every family under every kind of input: crops, prompt and greedy tokens are transformers' own, in float32.

Ours go the product's way: a shard is indexed, read and cut by the preprocessor, and the captioner runs mixed assets in
buckets. Theirs are processed and generated one by one. The matrix is printed when the session ends.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from actors.captioner import Captioner
from actors.checkpoint import geometry
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.types import Caption, Code, Media, Problem, Turn
from tests.checkpoints import Asked, Oracle, clip, crops, picture
from tests.conformance import ours
from tests.conformance.conftest import Table
from tests.families.catalogue import FAMILIES, Family, write

Floats = npt.NDArray[np.float32]
COLUMNS = ("family", "input", "compared", "crops equal", "input_ids equal", "tokens equal", "ended early")
SETTINGS = GenerationConfig(max_new_tokens=ours.NEW_TOKENS, batch_tokens=8192, batch_size=4)
PLAIN = (Turn("user", "Describe the image in detail."),)
QUESTIONS = (
    "What is shown here?",
    "a red circle? 2 Löwen, 獅子 🦁",
    "Describe the image in detail.\nBe brief.",
)
EDGES = (
    (1, 1), (1, 4000), (4000, 1), (335, 337), (336, 336), (337, 335), (336, 672), (672, 336), (383, 385), (384, 384),
    (385, 383), (672, 1008), (1008, 672), (1009, 337), (640, 480), (480, 640), (1920, 1080), (2400, 1600), (90, 1200),
    (1300, 260),
)  # fmt: skip
LARGEST = 3_000_000  # pixels


@dataclass(frozen=True)
class Checkpoint:
    """A family's tiny checkpoint."""

    family: Family
    folder: Path
    oracle: Oracle


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    torch.set_num_threads(1)
    family: Family = request.param
    folder = write(tmp_path_factory.mktemp(family.name), family)
    return Checkpoint(family, folder, Oracle(folder))


def sizes(count: int, largest: int, seed: int) -> list[tuple[int, int]]:
    """Widths and heights: log-uniform areas up to `largest` pixels, aspects up to 1:20."""
    dice = random.Random(seed)
    found = []
    for _ in range(count):
        area, aspect = math.exp(dice.uniform(0, math.log(largest))), math.exp(dice.uniform(-3, 3) / 2)
        found.append((max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))))
    return found


def single(chosen: Iterable[tuple[int, int]]) -> list[Asked]:
    return [Asked(Media.IMAGE, (picture(i, *size),), PLAIN) for i, size in enumerate(chosen)]


def several(counts: Sequence[int], seed: int) -> list[Asked]:
    chosen = iter(sizes(sum(counts), 200_000, seed))
    return [
        Asked(Media.IMAGES, tuple(picture(seed + n, *next(chosen)) for n in range(count)), PLAIN)
        for count in counts
    ]


def videos(family: Family, frames: Sequence[int]) -> list[Asked]:
    return [Asked(Media.VIDEO, clip(i, n), PLAIN) for i, n in enumerate(frames) if family.video]


def conversation(family: Family, images: Sequence[int]) -> tuple[Turn, ...]:
    """A system turn, and a user turn for each of `images`, which is how many it shows."""
    said = [Turn("system", family.system)]
    for n, shown in enumerate(images):
        said += [Turn("assistant", "Ein Löwe, 獅子.")] if n else []
        said.append(Turn("user", QUESTIONS[n % len(QUESTIONS)], shown))
    return tuple(said)


@dataclass
class Score:
    """How many were compared, how many of them were equal, and how many captions ended before the limit."""

    compared: int = 0
    crops: int = 0
    ids: int = 0
    tokens: int = 0
    ended: int = 0

    def full(self) -> bool:
        return self.compared == self.crops == self.ids == self.tokens


def total(scores: Mapping[Media, Score]) -> Score:
    """All kinds together."""
    return Score(*map(sum, zip(*map(astuple, scores.values()), strict=True)))


def compare(
    checkpoint: Checkpoint, asked: Sequence[Asked], prompts: Sequence[PromptConfig], tmp_path: Path
) -> dict[Media, Score]:
    """Each asset under each prompt, ours beside theirs."""
    tiles, replica = geometry(checkpoint.folder), ours.replica(checkpoint.folder)
    unit = ours.prepared(asked, tiles, tmp_path)
    samples = {sample.view.position: sample for sample in unit.samples}
    named = {prompt.id: prompt for prompt in prompts}
    scores: dict[Media, Score] = defaultdict(Score)
    for answer in Captioner(lambda: replica, prompts, SETTINGS).caption(unit).answers:
        sample, prompt = samples[answer.position], named[str(answer.prompt_id)]
        turns = prompt.asked(sample.view.media)
        theirs = checkpoint.oracle.inputs(replace(asked[answer.position], turns=turns))
        expected = checkpoint.oracle.continued(theirs, ours.NEW_TOKENS)
        said = answer.outcome
        assert isinstance(said, Caption), said
        ids = replica.encode(sample, prompt, {}).input_ids
        score = scores[sample.view.media]
        score.compared += 1
        score.crops += _equal(ours.normalised(sample.crops, tiles), crops(theirs))
        score.ids += ids == tuple(theirs["input_ids"][0].tolist())
        score.tokens += said.token_ids == expected
        score.ended += len(expected) < ours.NEW_TOKENS
    return dict(scores)


def _equal(mine: Floats, theirs: Floats) -> bool:
    return mine.shape == theirs.shape and float(np.abs(mine - theirs).max()) <= 1e-6


def report(table: Table, family: Family, kind: str, score: Score) -> None:
    """Into the matrix, and 100 %."""
    row = (family.name, kind, score.compared, score.crops, score.ids, score.tokens, score.ended)
    table("conformance with transformers' processor and generate, float32", COLUMNS, row)
    assert score.full(), row


@pytest.mark.parametrize("checkpoint", FAMILIES[:2], ids=lambda family: family.name, indirect=True)
def test_a_few_assets_are_as_in_transformers(checkpoint: Checkpoint, tmp_path: Path) -> None:
    asked = [*single(EDGES[:4]), *several((2,), 0), *videos(checkpoint.family, (2,))]

    scores = compare(checkpoint, asked, [PromptConfig("p", PLAIN)], tmp_path)

    assert all(score.full() for score in scores.values()), scores


@pytest.mark.slow
def test_single_images_several_and_videos_in_one_unit(
    checkpoint: Checkpoint, table: Table, tmp_path: Path
) -> None:
    family = checkpoint.family
    pictures = [*single([*EDGES, *sizes(40, LARGEST, seed=1)]), *several((2, 3, 4) * 5, seed=2)]
    asked = [*pictures, *videos(family, (1, 2, 8, 32, 1, 2, 8, 32))]
    random.Random(3).shuffle(asked)

    scores = compare(checkpoint, asked, [PromptConfig("p", PLAIN)], tmp_path)

    assert [scores[Media.IMAGE].compared, scores[Media.IMAGES].compared] == [60, 15]
    names = {
        Media.IMAGE: "single image",
        Media.IMAGES: "several images",
        Media.VIDEO: "video, 1 to 32 frames",
    }
    for media, score in sorted(scores.items()):
        report(table, family, names[media], score)


@pytest.mark.slow
def test_conversations_with_images_in_any_turn(checkpoint: Checkpoint, table: Table, tmp_path: Path) -> None:
    family = checkpoint.family
    asked = [*single(sizes(6, 200_000, seed=4)), *several((2,) * 5, seed=5), *videos(family, (1, 4))]
    prompts = [
        PromptConfig(
            name,
            turns=conversation(family, (0, 0)),
            image=conversation(family, first),
            images=conversation(family, both),
        )
        for name, first, both in (("first", (0, 0, 0), (1, 1)), ("last", (0, 1), (0, 2)))
    ]

    score = total(compare(checkpoint, asked, prompts, tmp_path))

    assert score.compared == 2 * len(asked) >= 15
    report(table, family, "multi-turn", score)


@pytest.mark.slow
def test_three_prompts_of_one_asset(checkpoint: Checkpoint, table: Table, tmp_path: Path) -> None:
    family = checkpoint.family
    asked = [*single(sizes(12, 200_000, seed=6)), *several((2, 2, 3), seed=7), *videos(family, (1, 4))]
    prompts = [PromptConfig(str(i), (Turn("user", text),)) for i, text in enumerate(QUESTIONS)]

    score = total(compare(checkpoint, asked, prompts, tmp_path))

    assert score.compared == 3 * len(asked) >= 45
    report(table, family, "3 prompts an asset", score)


@pytest.mark.parametrize("checkpoint", FAMILIES[1:2], ids=lambda family: family.name, indirect=True)
def test_a_video_on_an_image_checkpoint_fails_by_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    film = Asked(Media.VIDEO, clip(0, 2), PLAIN)

    unit = ours.prepared([film, *single(EDGES[:1])], geometry(checkpoint.folder), tmp_path)

    assert [sample.view.position for sample in unit.samples] == [1]
    (answer,) = unit.problems
    assert isinstance(answer.outcome, Problem)
    assert (answer.position, answer.outcome.code) == (0, Code.UNSUPPORTED_MEDIA)
    assert "onevision" in answer.outcome.message.lower()
