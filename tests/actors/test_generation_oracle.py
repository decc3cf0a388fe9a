"""Every generation setting that leaves nothing to chance says in a batch what `generate` says alone under it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.checkpoint import geometry
from actors.replica import Replica
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Caption, Finish, Media, Turn
from tests.checkpoints import Asked, Oracle, captions_of, clip, picture, write

NEW_TOKENS = 24
TURNS = (Turn("user", "Describe the image in detail."),)
PROMPT = PromptConfig("p", TURNS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


def replica_of(folder: Path) -> Replica:
    return Replica(ModelConfig(str(folder), dtype="float32"), str(folder), geometry(folder), NEW_TOKENS)


@pytest.fixture(scope="module")
def replica(folder: Path) -> Replica:
    return replica_of(folder)


def assets() -> list[Asked]:
    sizes = [(72, 72), (200, 90), (90, 300), (300, 290), (10, 400), (640, 480), (60, 60), (150, 100)]
    found = [Asked(Media.IMAGE, (picture(i, *size),), TURNS) for i, size in enumerate(sizes)]
    found.append(Asked(Media.IMAGES, (picture(10, 90, 60), picture(20, 60, 90)), TURNS))
    return [*found, Asked(Media.VIDEO, clip(0, 3), TURNS)]


def captions(replica: Replica, folder: Path, settings: GenerationConfig) -> list[Caption]:
    samples = [asked.sample(geometry(folder), i) for i, asked in enumerate(assets())]
    return captions_of(replica, [replica.encode(sample, PROMPT, {}) for sample in samples], settings)


def generated(oracle: Oracle, **kwargs: Any) -> list[tuple[int, ...]]:
    """What `generate` adds to each asset alone."""
    found = []
    for asked in assets():
        inputs = oracle.inputs(asked)
        with torch.inference_mode():
            out = oracle.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **kwargs)
        found.append(tuple(out[0, inputs["input_ids"].shape[1] :].tolist()))
    return found


def test_the_repetition_penalty_is_generates_own(oracle: Oracle, replica: Replica, folder: Path) -> None:
    ours = captions(replica, folder, GenerationConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=1.4))

    expected = generated(oracle, repetition_penalty=1.4)

    assert [caption.token_ids for caption in ours] == expected
    assert expected != generated(oracle)


def test_the_checkpoints_own_penalty_holds_unless_the_job_has_one(
    oracle: Oracle, folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    own = json.loads((folder / "generation_config.json").read_text()) | {"repetition_penalty": 1.4}
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    replica = replica_of(tmp_path)

    for penalty, expected in ((0.0, 1.4), (1.0, 1.0), (1.2, 1.2)):
        settings = GenerationConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=penalty)
        ours = [caption.token_ids for caption in captions(replica, tmp_path, settings)]
        assert ours == generated(oracle, repetition_penalty=expected)


def test_the_least_length_is_generates_own(oracle: Oracle, folder: Path, tmp_path: Path) -> None:
    """Where captions end at tokens that they say early and late."""
    plain = generated(oracle)
    stops = sorted({plain[0][1], plain[1][6], plain[2][15]})
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=10)
    ours = captions(replica_of(tmp_path), tmp_path, settings)

    assert [caption.token_ids for caption in ours] == generated(
        oracle, eos_token_id=stops, min_new_tokens=10, pad_token_id=0
    )
    assert min(caption.n_output_tokens for caption in ours) >= 11
    assert {caption.finish for caption in ours} == {Finish.STOP, Finish.LENGTH}


def test_stop_texts_end_captions_where_generates_stop_strings_do(
    oracle: Oracle, replica: Replica, folder: Path
) -> None:
    tokenizer = oracle.processor.tokenizer
    plain = [tokenizer.decode(ids, skip_special_tokens=True) for ids in generated(oracle)]
    stops = (plain[0][3:7], plain[1][10:14])
    ours = captions(replica, folder, GenerationConfig(max_new_tokens=NEW_TOKENS, stop=stops))

    assert [caption.token_ids for caption in ours] == generated(
        oracle, stop_strings=list(stops), tokenizer=tokenizer
    )
    for caption, whole in zip(ours, plain, strict=True):
        assert whole.startswith(caption.text)
        assert not any(stop in caption.text for stop in stops)
    assert {caption.finish for caption in ours} == {Finish.STOP, Finish.LENGTH}


def test_drawn_captions_repeat_whatever_else_is_in_the_batch(replica: Replica, folder: Path) -> None:
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, temperature=1.0, top_p=0.95, seed=3)
    samples = [asked.sample(geometry(folder), i) for i, asked in enumerate(assets())]
    requests = [replica.encode(sample, PROMPT, {}) for sample in samples]

    together = [caption.token_ids for caption in captions_of(replica, requests, settings)]
    alone = [captions_of(replica, [request], settings)[0].token_ids for request in requests]
    other = captions_of(
        replica, requests, GenerationConfig(max_new_tokens=NEW_TOKENS, temperature=1.0, seed=4)
    )

    assert together == alone
    assert together != [caption.token_ids for caption in other]
