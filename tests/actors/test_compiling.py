"""Compiled layers: the same captions, from as many kernels as there are kinds of layers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
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
Ids = list[tuple[int, ...]]
PROMPT = PromptConfig("p", (Turn("user", "Describe the image in detail."),))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler"),
]


@dataclass(frozen=True)
class Found:
    """What was said without and with compiled layers, and how many graphs there were after each unit with them."""

    plain: list[Ids]
    compiled: list[Ids]
    graphs: list[int]


def images() -> list[Asked]:
    sizes = [(72, 72), (200, 90), (90, 300), (300, 290), (640, 480)]
    return [Asked(Media.IMAGE, (picture(i, *size),), ()) for i, size in enumerate(sizes)]


def others() -> list[Asked]:
    sizes = [(500, 100), (80, 400), (333, 222)]
    return [Asked(Media.IMAGE, (picture(9, *size),), ()) for size in sizes]


def said(replica: Replica, folder: Path, assets: Sequence[Asked]) -> Ids:
    samples = [asked.sample(geometry(folder), i) for i, asked in enumerate(assets)]
    requests = [replica.encode(sample, PROMPT, {}) for sample in samples]
    return [caption.token_ids for caption in captions_of(replica, requests, SETTINGS)]


def replica_of(folder: Path, *, compiled: bool) -> Replica:
    torch.set_num_threads(1)
    model = ModelConfig(str(folder), dtype="float32", compiled=compiled)
    return Replica(model, str(folder), geometry(folder), NEW_TOKENS)


def both(folder: Path, units: Sequence[Sequence[Asked]]) -> Found:
    """One replica after the other."""
    plain, compiled = (replica_of(folder, compiled=compiled) for compiled in (False, True))
    found = Found([said(plain, folder, unit) for unit in units], [], [])
    for unit in units:
        found.compiled.append(said(compiled, folder, unit))
        found.graphs.append(counters["stats"]["unique_graphs"])
    return found


def alone(folder: Path, *units: Sequence[Asked]) -> Found:
    """`both` in a process of its own, where what torch.compile leaves behind is in nobody's way."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(both, folder, units).result()


def test_compiled_layers_say_the_same_and_are_compiled_once_for_all_lengths(tmp_path: Path) -> None:
    found = alone(write(tmp_path), [*images(), Asked(Media.VIDEO, clip(0, 3), ())], others())

    assert found.compiled == found.plain
    assert 0 < found.graphs[0] == found.graphs[1]


def test_compiled_layers_of_llava_next_say_the_same(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == "next-mistral")

    found = alone(write_family(tmp_path, family, tile=70), images())

    assert found.compiled == found.plain
    assert found.graphs[0]
