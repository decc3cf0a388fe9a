"""What a benchmark is about: a checkpoint as it is shipped, or a user's job with a sample of its assets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image

from actors import checkpoint
from actors.sandbox import Sandbox
from jobs.bench import BATCHES
from jobs.bench.machine import Machine
from jobs.preflight import Ready
from pipeline import image, index
from pipeline.anyres import Geometry
from pipeline.config import GenerationConfig, ImageConfig, ModelConfig, PromptConfig, UnitConfig, VideoConfig
from pipeline.errors import MediaError
from pipeline.footprint import Footprint
from pipeline.read import read_assets
from pipeline.types import Asset, Media, Problem, Shard, Turn

QUESTIONS = ("Describe the image in detail.", "Give the image a title.", "How many objects are in it?")
CAPPED = "it does not cap crops as the job does"  # why a peer is left out
NOTHING = "the job's sample has no single image that can be read, or none that a prompt asks about"
SAMPLE = 5_000  # assets of a job that are looked at, unless the user says otherwise


@dataclass(frozen=True, slots=True)
class Picture:
    """A single image of a job: its asset, its encoded bytes, and what they decode to."""

    asset: Asset
    data: bytes
    picture: Image.Image


@dataclass(frozen=True, slots=True)
class Subject:
    """`folder` holds the checkpoint that `model` names. `shards` are those of a job with the first of their assets;
    without a job there are none, and parts make their own input."""

    model: ModelConfig
    folder: Path
    tiles: Geometry
    gpus: float = 0.0
    prompts: tuple[PromptConfig, ...] = tuple(PromptConfig(q, (Turn("user", q),)) for q in QUESTIONS)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    unit: UnitConfig = field(default_factory=UnitConfig)
    shards: Sequence[tuple[Shard, Sequence[Asset]]] = ()

    @property
    def footprint(self) -> Footprint:
        """Of the checkpoint."""
        return checkpoint.footprint(self.folder)

    def images(self, count: int) -> Iterator[tuple[Asset, bytes]]:
        """The job's first single images that can be read, so many or fewer."""
        return islice(self._images(), count)

    def pictures(self, count: int) -> Iterator[Picture]:
        """The first of them that can be decoded."""
        return islice(self._pictures(), count)

    def _pictures(self) -> Iterator[Picture]:
        for asset, data in self._images():
            with suppress(MediaError):  # a run makes a failure row of it
                yield Picture(asset, data, image.decode(data, self.image))

    def _images(self) -> Iterator[tuple[Asset, bytes]]:
        for shard, assets in self.shards:
            single = [a for a in assets if a.media is Media.IMAGE and not isinstance(a.facts, Problem)]
            for asset, members in zip(single, read_assets(shard, single), strict=True):
                if not isinstance(members, Problem):
                    yield asset, members[0]


def of_model(model: ModelConfig) -> Subject:
    """A checkpoint by itself. ConfigError where `model` names none."""
    folder = checkpoint.fetch(model)
    return Subject(model, folder, checkpoint.geometry(folder))


def of_job(ready: Ready, count: int) -> Subject:
    """A job with the first `count` assets of its input, in the order of its shards; nothing is written."""
    job = ready.job
    return Subject(
        job.model,
        checkpoint.fetch(job.model),
        ready.geometry,
        job.cluster.gpus_per_replica,
        tuple(prompt for prompt in job.prompts if prompt.asked(Media.IMAGE)),
        job.generation,
        job.image,
        job.video,
        job.unit,
        _sample(ready, count or SAMPLE),
    )


def _sample(ready: Ready, count: int) -> list[tuple[Shard, list[Asset]]]:
    found, job = list[tuple[Shard, list[Asset]]](), ready.job
    with closing(Sandbox(job.image, job.video)) as sandbox:
        for shard in ready.shards:
            assets = list(islice(index.scan(shard, job.input, sandbox.probes), count))
            found.append((shard, assets))
            count -= len(assets)
            if not count:
                break
    return found


@dataclass(frozen=True, slots=True)
class Options:
    """How a part is measured: in `pairs` rounds, beside vLLM where `vllm_python` is an interpreter that has it, and
    beside `generate` in `batches` of these sizes.

    `assets` of `image_bytes` each are read or planned (0: as many as suit the part), `pictures` are captioned with
    `new_tokens` each, and asked `prompts` questions each.
    """

    subject: Subject
    machine: Machine
    pairs: int = 5
    assets: int = 0
    image_bytes: int = 20_000
    pictures: int = 16
    prompts: int = 3
    new_tokens: int = 64
    vllm_python: str | None = None
    batches: tuple[int, ...] = BATCHES
