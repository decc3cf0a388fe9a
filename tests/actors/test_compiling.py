"""Compiled layers: the same captions, from as many kernels as there are kinds of layers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from actors.checkpoint import geometry
from actors.replica import Replica
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import Media, Turn
from tests.checkpoints import Asked, captions_of, clip, picture, write
from tests.families.catalogue import FAMILIES
from tests.families.catalogue import write as write_family

NEW_TOKENS = 12
SETTINGS = GenerationConfig(max_new_tokens=NEW_TOKENS)
PROMPT = PromptConfig("p", (Turn("user", "Describe the image in detail."),))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # its compiler imports torch.jit
]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What other tests had compiled does not count."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def images() -> list[Asked]:
    sizes = [(72, 72), (200, 90), (90, 300), (300, 290), (640, 480)]
    return [Asked(Media.IMAGE, (picture(i, *size),), ()) for i, size in enumerate(sizes)]


def said(replica: Replica, folder: Path, assets: Sequence[Asked]) -> list[tuple[int, ...]]:
    samples = [asked.sample(geometry(folder), i) for i, asked in enumerate(assets)]
    requests = [replica.encode(sample, PROMPT, {}) for sample in samples]
    return [caption.token_ids for caption in captions_of(replica, requests, SETTINGS)]


def replica_of(folder: Path, *, compiled: bool) -> Replica:
    torch.set_num_threads(1)
    model = ModelConfig(str(folder), dtype="float32", compiled=compiled)
    return Replica(model, str(folder), geometry(folder), NEW_TOKENS)


def test_compiled_layers_say_the_same_and_are_compiled_once_for_all_lengths(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assets = [*images(), Asked(Media.VIDEO, clip(0, 3), ())]
    expected = said(replica_of(folder, compiled=False), folder, assets)
    assert not counters["stats"]["unique_graphs"]
    compiled = replica_of(folder, compiled=True)

    assert said(compiled, folder, assets) == expected

    made = counters["stats"]["unique_graphs"]
    others = [Asked(Media.IMAGE, (picture(9, *size),), ()) for size in ((500, 100), (80, 400), (333, 222))]
    assert said(compiled, folder, others) == said(replica_of(folder, compiled=False), folder, others)
    assert 0 < made == counters["stats"]["unique_graphs"]


def test_compiled_layers_of_llava_next_say_the_same(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == "next-mistral")
    folder = write_family(tmp_path, family, tile=70)
    expected = said(replica_of(folder, compiled=False), folder, images())

    assert said(replica_of(folder, compiled=True), folder, images()) == expected

    assert counters["stats"]["unique_graphs"]
