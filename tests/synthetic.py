"""A published output of any size, in the time that its rows take to be written: no model, no Ray.

    python -m tests.synthetic FOLDER --assets 100000

writes shards (tars of real photographs in small, some clips, some broken files), a stand-in for a checkpoint, the job
file and the published output below FOLDER. Index, plan, rows and publishing are the real code's; only the captions are
made up, and say what no model said. `captionmill verify FOLDER/out` accepts it.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import skimage.data
from PIL import Image

from actors.indexer import Indexer
from actors.sandbox import Sandbox
from jobs.preflight import Ready, check
from jobs.run import compose, write_plan
from pipeline import commit, config, publish, storage, unit_records, video
from pipeline.index import read_index
from pipeline.plan import Plan
from pipeline.provenance import Context, part_table
from pipeline.types import (
    Answer,
    Asset,
    Caption,
    Captioned,
    Clip,
    Code,
    Effort,
    Finish,
    Media,
    Problem,
    Stage,
    Unit,
    View,
)
from tests import made
from tests.films import Film

JOB = """
[input]
dataset = "synthetic"
uris = ["{folder}/shards/*.tar"]
duplicates = "each"                 # the same few photographs over and over
[model]
path = "{folder}/checkpoint"
[[prompt]]
id = "detailed"
text = "Describe the image in detail."
[[prompt]]
id = "title"
text = "Give the picture a title of five words at most."
[generation]
max_new_tokens = 96
[output]
uri = "{folder}/out"
[cluster]
gpus_per_replica = 0
"""
EACH = 1_000  # assets a shard
SIDES = (96, 128, 160, 200, 240, 320, 400, 480, 560, 640)
PHOTOS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "colorwheel",
    "retina",
    "immunohistochemistry",
    "camera",
)
BEGAN = datetime(2026, 11, 2, 8, tzinfo=UTC)
TOKENS_A_SECOND = 2_400
BROKEN = (Problem(Stage.DECODE, Code.TRUNCATED, "image file is truncated (12 bytes not processed)"),
          Problem(Stage.DECODE, Code.DECODER_TIMEOUT, "no answer within 30 s"),
          Problem(Stage.GENERATE, Code.OUT_OF_MEMORY, "one caption alone does not fit the device"))  # fmt: skip
NOUNS = [
    "cat", "dog", "bicycle", "bus", "kettle", "lamp", "ladder", "church", "bridge", "market", "fisherman", "child",
    "waitress", "tractor", "boat", "piano", "window", "fountain", "orange", "umbrella", "violin", "helmet", "telescope",
    "rocket", "cup", "spoon", "newspaper", "sofa", "garden", "staircase",
]  # fmt: skip
COLOURS = ["red", "green", "blue", "yellow", "black", "white", "grey", "brown", "pink", "silver"]
DEEDS = ("stands beside", "leans against", "lies under", "moves past", "is reflected in", "casts a shadow on",
         "is partly hidden by", "looks towards")  # fmt: skip
PLACES = ("in soft morning light", "on a wet street", "in front of a brick wall", "at the edge of a field",
          "on a wooden table", "near the harbour", "in an empty room", "under a cloudy sky")  # fmt: skip


def write(folder: Path, assets: int, seed: int = 0) -> Ready:
    """Write it all into an empty `folder`. The same numbers give the same rows."""
    (folder / "shards").mkdir(parents=True)
    made.checkpoint(folder / "checkpoint")
    media = _media()
    for number, first in enumerate(range(0, assets, EACH)):
        _shard(folder / "shards" / f"{number:05d}.tar", range(first, min(assets, first + EACH)), media)
    (folder / "job.toml").write_text(JOB.format(folder=folder))
    return captioned(folder / "job.toml", seed)


def captioned(job_file: Path, seed: int = 0) -> Ready:
    """Index, plan, made-up captions, and the published table."""
    ready = check(config.read(job_file.read_text()))
    job, recipe, output = ready.job, ready.recipe, ready.job.output.uri
    storage.put(storage.join(output, "recipes", f"{recipe.recipe_id}.json"), recipe.to_json().encode())
    with Sandbox(job.image, job.video) as sandbox:
        indexer = Indexer(output, job.input, lambda: sandbox.probes, "as the job allows")
        indexes = tuple(indexer.index(shard) for shard in ready.shards)
    plan = write_plan(ready, compose(ready, indexes))
    metadata = {"captionmill.run_id": plan.run_id, "captionmill.recipe_id": plan.recipe_id}
    _parts(ready, plan, metadata, Random(seed))
    parts = publish.partitions(plan.assets * len(job.prompts))
    compactor = publish.Compactor(output, plan.run_id, plan.unit_ids, metadata, plan.carried)
    publish.publish(output, plan, [compactor.compact(part) for part in parts], metadata)
    return ready


def _parts(ready: Ready, plan: Plan, metadata: dict[str, str], draw: Random) -> None:
    job, parts = ready.job, commit.Parts(ready.job.output.uri, plan.run_id)
    context = Context(plan.dataset, plan.run_id, plan.recipe_id, ready.recipe.checkpoint, job.prompts)
    now = BEGAN
    for unit in plan.units:
        assets = read_index(plan.index_of(unit), unit.first, unit.count)
        answered = _captioned(ready, unit, assets, draw)
        commit.check(answered, job.prompts)
        tokens = sum(a.outcome.n_output_tokens for a in answered.answers if isinstance(a.outcome, Caption))
        seconds, begun = (1 + tokens) / TOKENS_A_SECOND * draw.uniform(0.8, 1.3), now
        now += timedelta(seconds=seconds)
        answered = replace(answered, effort=_effort(begun, seconds, tokens, draw))
        part = part_table(answered, context, now)
        named = {"captionmill.unit_id": unit.unit_id, unit_records.KEY: unit_records.to_json(answered, part)}
        data = commit.part_bytes(part, metadata | named)
        storage.put(parts.uri(unit.unit_id), data)


def _effort(begun: datetime, seconds: float, tokens: int, draw: Random) -> Effort:
    """What such a unit might have taken."""
    at, steps = round(begun.timestamp() * 1e6), tokens * draw.uniform(1.01, 1.06)
    busy = seconds * draw.uniform(0.95, 0.999)
    return Effort(
        at, at + round(seconds * 1e6), seconds / 4, seconds, busy, 9 * tokens, steps, steps - tokens
    )


def _captioned(ready: Ready, unit: Unit, assets: Sequence[Asset], draw: Random) -> Captioned:
    views: list[View] = []
    answers: list[Answer] = []
    for position, asset in enumerate(assets):
        problem = asset.facts if isinstance(asset.facts, Problem) else None
        if problem is None and draw.random() < 0.002:
            problem = draw.choice(BROKEN)
        if problem is not None:
            answers.append(Answer(position, asset.sha256, None, problem))
            continue
        view = _view(ready, position, asset)
        views.append(view)
        for prompt in ready.job.prompts:
            caption = _caption(ready, asset, view, prompt.id, draw)
            answers.append(Answer(position, asset.sha256, prompt.id, caption))
    return Captioned(unit, tuple(assets), tuple(views), tuple(answers), made.EFFORT)


def _view(ready: Ready, position: int, asset: Asset) -> View:
    """As the preprocessor would have looked at it, frame times to the 25th of a second."""
    geometry = ready.geometry
    match asset.facts:
        case Clip(size, seconds, frames) as clip:
            n = video.n_samples(clip, ready.job.video)
            places = [i * frames // n for i in range(n)]
            times = tuple(place * seconds / frames for place in places)
            return View(position, Media.VIDEO, asset.sha256, (size,), (0, 0), n, times)
        case (first,):
            rows, columns = geometry.grid(first)
            n = 1 + rows * columns
            return View(position, Media.IMAGE, asset.sha256, (first,), (rows, columns), n, ())
        case tuple(sizes):
            n = sum(geometry.n_crops(Media.IMAGES, sizes, 0))
            return View(position, Media.IMAGES, asset.sha256, sizes, (0, 0), n, ())
    raise ValueError(asset.facts)


def _caption(ready: Ready, asset: Asset, view: View, prompt_id: str, draw: Random) -> Caption:
    n_visual = sum(ready.geometry.tokens(view.media, view.sizes, view.n_crops))
    words, finish = said(prompt_id, draw)
    n = min(96, max(1, round(len(words.split()) * 1.3) + 1))
    logprob = -abs(draw.gauss(0.45, 0.18))
    return Caption(words, (5,) * n, finish, logprob, n_visual + 21, n_visual)


def said(prompt_id: str, draw: Random) -> tuple[str, Finish]:
    """A caption, one in some two hundred of which is what a model at fault says."""
    roll = draw.random()
    if roll < 0.0005:
        return draw.choice(("", " ", "\u200b")), Finish.STOP
    if roll < 0.0012:
        return "The image shows " + "a red cup and " * 9, Finish.LENGTH
    if roll < 0.0016:
        return "I'm sorry, but I can't describe this picture.", Finish.STOP
    if roll < 0.0020:
        return f"A poster that says www.example{draw.randrange(99)}.com in large letters.", Finish.STOP
    if roll < 0.03:
        return "The image is blurry.", Finish.STOP
    if prompt_id == "title":
        return (
            f"{draw.choice(COLOURS)} {draw.choice(NOUNS)} and {draw.choice(NOUNS)}".capitalize(),
            Finish.STOP,
        )
    sentences = [_sentence(draw) for _ in range(max(1, round(draw.lognormvariate(0.9, 0.5))))]
    if len(sentences) > 6:
        return " ".join(sentences[:6])[:-4], Finish.LENGTH
    return " ".join(sentences), Finish.STOP


def _sentence(draw: Random) -> str:
    one, other = draw.sample(NOUNS, 2)
    colours = draw.sample(COLOURS, 2)
    return f"A {colours[0]} {one} {draw.choice(DEEDS)} a {colours[1]} {other} {draw.choice(PLACES)}."


def _shard(path: Path, numbers: range, media: dict[str, list[bytes]]) -> None:
    """Of twenty assets one is a clip and two are two pictures each; of 800 one is not what its name says."""
    with tarfile.open(path, "w") as tar:
        for i in numbers:
            for name, data in _members(i, media):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _members(i: int, media: dict[str, list[bytes]]) -> Iterator[tuple[str, bytes]]:
    key, jpegs = f"{i // 100:05d}/{i:08d}", media["jpg"]
    if i % 800 == 7:
        yield f"{key}.jpg", (b"<html>404", b"", b"%PDF-1.7 scan")[i // 800 % 3]
    elif i % 20 == 19:
        yield f"{key}.mp4", _own(media["mp4"][i // 20 % len(media["mp4"])], i, box=True)
    elif i % 10 == 3:
        yield f"{key}.a.jpg", _own(jpegs[i * 7 % len(jpegs)], i)
        yield f"{key}.b.jpg", _own(jpegs[i * 11 % len(jpegs)], i)
    else:
        yield f"{key}.jpg", _own(jpegs[i * 13 % len(jpegs)], i)


def _own(data: bytes, i: int, *, box: bool = False) -> bytes:
    """Media whose bytes are this asset's alone: what follows the end of a JPEG is not looked at, nor is a free box."""
    mark = f"{i:08d}".encode()
    return data + (b"\0\0\0\x10free" + mark if box else mark)


def _media() -> dict[str, list[bytes]]:
    """A few dozen pictures and clips to choose from."""
    photos = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOS]
    jpegs = []
    for n, side in enumerate(SIDES * 6):
        photo = photos[n % len(photos)]
        height = max(32, side * (n % 7 + 3) // 6)
        sink = io.BytesIO()
        photo.resize((side, height)).save(sink, "JPEG", quality=35)
        jpegs.append(sink.getvalue())
    clips = [Film(times_ms=range(0, length, 40)).data() for length in (320, 800, 2000, 4000)]
    return {"jpg": jpegs, "mp4": clips}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    ready = write(given.folder.absolute(), given.assets, given.seed)
    told = publish.snapshot(ready.job.output.uri)
    print(json.dumps({name: (told or {})[name] for name in ("run_id", "assets", "failures_by_code")}))


if __name__ == "__main__":
    _main()
