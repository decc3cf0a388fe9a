"""actors.decoding: equal to transformers' own model, with random weights in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.checkpoint import geometry
from actors.replica import Replica
from actors.vision import Vision, normalized
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.fit import CROPS_PER_PASS
from pipeline.types import Caption, Finish, Media, Request, Turn
from tests.checkpoints import TILE, Asked, Oracle, captions_of, clip, picture, watched, write

NEW_TOKENS = 24
TURNS = (Turn("user", "Describe the image in detail."),)
PROMPT = PromptConfig("detailed", TURNS)
SETTINGS = GenerationConfig(max_new_tokens=NEW_TOKENS)
# Width and height: one tile, wide, tall, square, strips, and beyond nine tiles, where features are interpolated.
SIZES = [
    (1, 1), (5, 300), (300, 5), (40, 40), (72, 72), (73, 72), (100, 60), (60, 100), (144, 144), (150, 149), (200, 72),
    (72, 200), (216, 144), (144, 216), (217, 145), (216, 216), (288, 72), (72, 288), (288, 144), (144, 288),
    (288, 216), (216, 288), (288, 288), (300, 290), (400, 300), (300, 400), (500, 100), (100, 500), (640, 480),
    (333, 77),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


@pytest.fixture(scope="module")
def tiles(folder: Path) -> Geometry:
    return geometry(folder)


@pytest.fixture(scope="module")
def replica(folder: Path, tiles: Geometry) -> Replica:
    return Replica(ModelConfig(str(folder), dtype="float32"), str(folder), tiles, NEW_TOKENS)


@pytest.fixture(scope="module")
def expected(oracle: Oracle) -> list[tuple[int, ...]]:
    """What `generate` says of the mixed assets, one by one."""
    return [oracle.greedy(one, NEW_TOKENS) for one in mixed()]


def mixed() -> list[Asked]:
    """30 images, 8 keys of 2 or 3 images, 8 clips of 1 to 16 frames, in an order that mixes them."""
    asked = [Asked(Media.IMAGE, (picture(i, *size),), TURNS) for i, size in enumerate(SIZES)]
    for i, (width, height) in enumerate(SIZES[:8]):
        pictures = tuple(picture(100 * i + j, width + 30 * j, height) for j in range(2 + i % 2))
        asked.append(Asked(Media.IMAGES, pictures, TURNS))
    asked += [
        Asked(Media.VIDEO, clip(i, frames), TURNS) for i, frames in enumerate((1, 2, 3, 4, 6, 8, 12, 16))
    ]
    order = np.random.default_rng(0).permutation(len(asked))
    return [asked[i] for i in order]


def run(replica: Replica, requests: Sequence[Request], settings: GenerationConfig) -> list[Caption]:
    """The captions of `requests`, generated in buckets, in the order of their samples."""
    return captions_of(replica, requests, settings)


def requests_of(replica: Replica, asked: Sequence[Asked], tiles: Geometry) -> list[Request]:
    return [replica.encode(one.sample(tiles, i), PROMPT, {}) for i, one in enumerate(asked)]


def test_normalisation_of_all_pixel_values_is_transformers_own(oracle: Oracle, tiles: Geometry) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pil = oracle.processor.image_processor
    expected = pil.normalize(
        pil.rescale(values[0].transpose(2, 0, 1), pil.rescale_factor), tiles.mean, tiles.std
    )

    ours = normalized(torch.from_numpy(values), tiles.mean, tiles.std)

    assert np.array_equal(ours[0].numpy(), expected)


@pytest.mark.parametrize("size", [(30, 40), (200, 90), (288, 288)])
def test_pixels_of_an_image_are_transformers_own(
    oracle: Oracle, tiles: Geometry, size: tuple[int, int]
) -> None:
    asked = Asked(Media.IMAGE, (picture(3, *size),), TURNS)

    ours = normalized(torch.from_numpy(asked.sample(tiles).crops), tiles.mean, tiles.std)

    torch.testing.assert_close(ours, oracle.inputs(asked)["pixel_values"][0], rtol=0, atol=1e-6)


def visual_of(oracle: Oracle, asked: Asked) -> torch.Tensor:
    """transformers' visual tokens of one asset."""
    inputs = oracle.inputs(asked)
    model = oracle.model.model
    with torch.inference_mode():
        if asked.media is Media.VIDEO:
            video: torch.Tensor = model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0]
            return video
        inputs = {k: inputs[k] for k in ("pixel_values", "image_sizes", "batch_num_images")}
        return torch.cat(model.get_image_features(**inputs).pooler_output)


def test_visual_tokens_of_all_media_are_transformers_own(oracle: Oracle, tiles: Geometry) -> None:
    asked = mixed()
    with torch.inference_mode():
        ours = Vision(oracle.model, tiles).tokens([one.sample(tiles, i) for i, one in enumerate(asked)])

    for one, tokens in zip(asked, ours, strict=True):
        torch.testing.assert_close(tokens, visual_of(oracle, one), rtol=1e-4, atol=1e-5)


def test_the_vision_tower_sees_every_distinct_crop_once_in_bounded_passes(
    oracle: Oracle, tiles: Geometry
) -> None:
    samples = [one.sample(tiles, i) for i, one in enumerate(mixed())]
    with torch.inference_mode(), watched(oracle.model) as (sizes, _):
        Vision(oracle.model, tiles).tokens(samples)

    first = [sample.view.sizes[0] for sample in samples if sample.view.media is Media.IMAGE]
    squares = sum(size.width == size.height <= tiles.tile for size in first)
    assert sum(sizes) == sum(sample.view.n_crops for sample in samples) - squares
    assert squares == 3
    assert max(sizes) == CROPS_PER_PASS


def test_a_square_no_larger_than_a_tile_is_looked_at_once(oracle: Oracle, tiles: Geometry) -> None:
    square = Asked(Media.IMAGE, (picture(1, tiles.tile - 5, tiles.tile - 5),), TURNS)
    with torch.inference_mode(), watched(oracle.model) as (sizes, _):
        (ours,) = Vision(oracle.model, tiles).tokens([square.sample(tiles)])

    assert sizes == [1]
    torch.testing.assert_close(ours, visual_of(oracle, square))


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_greedy_ids_in_buckets_equal_generate_one_by_one(
    expected: list[tuple[int, ...]], replica: Replica, tiles: Geometry, batch_size: int
) -> None:
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, batch_tokens=8192, batch_size=batch_size)

    ours = run(replica, requests_of(replica, mixed(), tiles), settings)

    assert len(set(expected)) > 40  # else they would show nothing
    assert [caption.token_ids for caption in ours] == expected


def test_mean_logprob_is_that_of_a_full_forward_pass(
    oracle: Oracle, replica: Replica, tiles: Geometry
) -> None:
    asked = mixed()[:12]

    for one, caption in zip(asked, run(replica, requests_of(replica, asked, tiles), SETTINGS), strict=True):
        assert caption.mean_logprob == pytest.approx(teacher_forced(oracle, one, caption.token_ids), abs=1e-4)


def teacher_forced(oracle: Oracle, asked: Asked, ids: Sequence[int]) -> float:
    """Mean log-probability of `ids` after the prompt, from one pass of the whole model over both."""
    inputs = oracle.inputs(asked)
    whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    with torch.inference_mode():
        logits = oracle.model(
            **{**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
        ).logits
    logs = logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return float(logs.gather(1, torch.tensor(ids)[:, None]).mean())


def test_generation_ends_with_the_stop_token_or_the_limit(
    folder: Path, expected: list[tuple[int, ...]], tiles: Geometry, tmp_path: Path
) -> None:
    """With the ids that end captions chosen so that some end early, some late and some at the limit."""
    stops = (expected[0][1], expected[1][6], expected[2][15])
    stopping = with_stops(folder, tmp_path, stops)
    replica = Replica(ModelConfig(str(stopping), dtype="float32"), str(stopping), tiles, NEW_TOKENS)
    ours = run(replica, requests_of(replica, mixed(), tiles), SETTINGS)

    assert [caption.token_ids for caption in ours] == [ids[: first(ids, stops)] for ids in expected]
    assert {caption.finish for caption in ours} == {Finish.STOP, Finish.LENGTH}
    for caption in ours:
        assert caption.finish is (Finish.STOP if caption.token_ids[-1] in stops else Finish.LENGTH)
        assert caption.finish is Finish.STOP or caption.n_output_tokens == NEW_TOKENS
        assert math.isfinite(caption.mean_logprob)


def first(ids: Sequence[int], stops: Sequence[int]) -> int:
    """How many tokens there are up to the first stop, or all."""
    return next((i for i, token in enumerate(ids, 1) if token in stops), len(ids))


def with_stops(folder: Path, to: Path, stops: Sequence[int]) -> Path:
    """A copy of the checkpoint whose generation settings end captions at `stops`."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    (to / "generation_config.json").write_text(f'{{"eos_token_id": {list(stops)}}}')
    return to


def web() -> list[tuple[int, int]]:
    """Sizes as the web has them: log-normal short sides and aspect ratios, at this checkpoint's scale."""
    dice = np.random.default_rng(0)
    short = dice.lognormal(np.log(520 * TILE / 384), 0.6, 128).clip(8)
    long = short * (1 + dice.lognormal(-1, 0.6, 128))
    wide = dice.random(128) < 0.6
    sides = np.where(wide, [long, short], [short, long]).round().astype(int)
    return list(zip(*sides.tolist(), strict=True))


def coco() -> list[tuple[int, int]]:
    """The same of COCO's usual sizes."""
    usual = [(640, 480), (480, 640), (640, 427), (427, 640), (500, 375), (375, 500), (640, 640), (640, 360)]
    often = [0.38, 0.14, 0.2, 0.07, 0.07, 0.04, 0.06, 0.04]
    drawn = np.random.default_rng(0).choice(usual, 128, p=often)
    return [(width * TILE // 384, height * TILE // 384) for width, height in drawn.tolist()]


@pytest.mark.parametrize("sizes", [web(), coco()], ids=["web", "coco"])
def test_prompts_of_a_mix_of_sizes_are_read_without_padding(
    replica: Replica, tiles: Geometry, sizes: list[tuple[int, int]]
) -> None:
    """Padded to the longest of 16 that follow each other, they would be a tenth longer and more."""
    asked = [Asked(Media.IMAGE, (picture(i, *size),), TURNS) for i, size in enumerate(sizes)]
    requests = requests_of(replica, asked, tiles)
    lengths = [len(request.input_ids) for request in requests]

    with watched(replica._model) as (_, passes):
        run(replica, requests, GenerationConfig(max_new_tokens=1))

    assert sum(passes) == sum(lengths)
    assert sum(16 * max(lengths[i : i + 16]) for i in range(0, len(lengths), 16)) > 1.1 * sum(lengths)
