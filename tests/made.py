"""Made up for tests: captioned units with the context of their run, and a checkpoint without a model in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from pipeline import naming
from pipeline.config import PromptConfig
from pipeline.provenance import Context
from pipeline.recipe import Checkpoint
from pipeline.types import (
    Answer,
    Asset,
    Caption,
    Captioned,
    Clip,
    Code,
    Cost,
    Effort,
    Finish,
    Media,
    Member,
    Preparation,
    Problem,
    Shard,
    ShardFormat,
    Size,
    Stage,
    Turn,
    Unit,
    View,
)

JOB = """
[input]
dataset = "{dataset}"
uris = {uris}
[model]
path = "{checkpoint}"
[[prompt]]
id = "short"
text = "What is it?"
[output]
uri = "{output}"
[cluster]
replicas = {replicas}
gpus_per_replica = 0
"""
PROMPTS = (
    PromptConfig("short", (Turn("user", "What is it?"),)),
    PromptConfig("long", (Turn("user", "Describe the image in detail."),)),
)
CHECKPOINT = Checkpoint("owner/model", "0" * 40, "ab" * 32, "cd" * 32)
CONTEXT = Context("birds", "run0", "recipe0", CHECKPOINT, PROMPTS)
PROBLEM = Problem(Stage.DECODE, Code.CORRUPT, "the decoder gave up")
TILE = 28
PREPARATION = Preparation(1_790_000_000_000_000, 0.5)
EFFORT = Effort(1_790_000_000_000_000, 1_790_000_003_000_000, 0.5, 2.0, 1.5, 900, 64.0, 16.0)
CLIP = Clip(Size(320, 240), 2.5, 60)


def shard(number: int = 0) -> Shard:
    """The `number`th shard."""
    return Shard(
        f"s3://bucket/a/{number:06d}.tar", f"a/{number:06d}.tar", f"etag{number}", 10_240, ShardFormat.TAR
    )


def asset(number: int, i: int) -> Asset:
    """The `i`th asset of a shard: a clip where `i` is 2 modulo 3, two images where it is 1, else one image."""
    kind, facts = (
        (Media.IMAGE, (Size(640, 480),)),
        (Media.IMAGES, (Size(640, 480), Size(48, 64))),
        (Media.VIDEO, CLIP),
    )[i % 3]
    key, path = f"k{i:03d}", shard(number).path
    members = tuple(Member(f"{key}.{n}.jpg", 512 * (2 * i + n), 300) for n in range(2 if i % 3 == 1 else 1))
    sha256 = hashlib.sha256(f"{path} {key}".encode()).hexdigest()
    return Asset(
        naming.asset_id("birds", path, key), key, kind, members, sha256, 300 * len(members), {"t": "ü"}, facts
    )


def view(position: int, of: Asset) -> View:
    """How the asset was looked at."""
    match of.facts:
        case Clip(size):
            return View(position, Media.VIDEO, of.sha256, (size,), (0, 0), 3, (0.0, 1.25, 2.4))
        case (first,):
            return View(position, Media.IMAGE, of.sha256, (first,), (2, 3), 7, ())
        case tuple(sizes):
            return View(position, Media.IMAGES, of.sha256, sizes, (0, 0), len(sizes), ())
    raise ValueError(of.facts)


def caption(of: Asset, prompt_id: str) -> Caption:
    """A caption that says whose it is."""
    return Caption(f"{of.key} {prompt_id} {of.sha256}", (5, 6, 2), Finish.STOP, -0.25, 40, 30)


def captioned(number: int = 0, count: int = 4, *, failed: Collection[int] = (), first: int = 0) -> Captioned:
    """A unit of a shard whose assets have an answer per prompt, except the failed ones (by position)."""
    assets = tuple(asset(number, first + i) for i in range(count))
    views = tuple(view(i, a) for i, a in enumerate(assets) if i not in failed)
    answers: list[Answer] = []
    for i, a in enumerate(assets):
        if i in failed:
            answers.append(Answer(i, a.sha256, None, PROBLEM))
        else:
            answers += [Answer(i, a.sha256, p.id, caption(a, p.id)) for p in PROMPTS]
    unit = Unit(
        f"{number:06d}-{first:08d}-{count:05d}", shard(number), first, count, Cost(30 * count, 7, 1000)
    )
    return Captioned(unit, assets, views, tuple(answers), EFFORT)


def checkpoint(folder: Path) -> Path:
    """As much of a checkpoint as a double has: the geometry of 1 x 1 to 3 x 3 tiles, and files to have digests of."""
    pinpoints = [[TILE * rows, TILE * columns] for rows in range(1, 4) for columns in range(1, 4)]
    vision = {"image_size": TILE, "patch_size": 14}
    folder.mkdir(parents=True)
    config = {"model_type": "llava_onevision", "image_grid_pinpoints": pinpoints, "vision_config": vision}
    preprocessor = {"size": {"height": TILE, "width": TILE}, "image_grid_pinpoints": pinpoints}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    Tokenizer(BPE()).save(str(folder / "tokenizer.json"))
    save_file({"double": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


def job(uri: str, checkpoint: Path, output: Path | str, *, dataset: str = "made", replicas: int = 1) -> str:
    """A job file with one prompt, on the CPU."""
    return JOB.format(
        dataset=dataset, uris=json.dumps([uri]), checkpoint=checkpoint, output=output, replicas=replicas
    )
